"""The learning-rate schedule and the optimizer of a recipe."""

import keras

import nf_zoo

SCHEDULES = keras.optimizers.schedules


def make_schedule(recipe, steps: int, steps_per_epoch: float):
    """Return the learning-rate schedule of a recipe.

    ``"cosine"`` and ``"constant"`` first rise linearly, from above 0, so that no step is lost.
    ``"step"`` is constant for a share of the run and is then halved at regular intervals (De &
    Smith 2020).
    """
    given, peak = recipe.schedule, recipe.optimizer.learning_rate
    if recipe.optimizer.per_batch:
        peak *= recipe.batch_size / recipe.optimizer.per_batch
    if given.kind == "step":
        every = max(round(given.every_epochs * steps_per_epoch), 1)
        halvings = list(range(round(given.hold * steps), steps, every)) or [steps]
        # A boundary is the last step of its rate.
        boundaries = [max(step - 1, 0) for step in halvings]
        rates = [peak * 0.5**count for count in range(len(halvings) + 1)]
        return SCHEDULES.PiecewiseConstantDecay(boundaries, rates)
    warmup = min(round(given.warmup_epochs * steps_per_epoch), steps)
    return SCHEDULES.CosineDecay(
        peak / (warmup + 1),
        max(steps - warmup, 1),
        alpha=1.0 if given.kind == "constant" else given.end / peak,
        warmup_target=peak,
        warmup_steps=warmup,
    )


def make_optimizer(recipe, model, schedule):
    """Return the optimizer of a recipe, built for the model.

    Weight decay acts only on kernels, adaptive gradient clipping on all variables but the
    classifier's kernel (DeepMind nfnets ``experiment_nfnets.py``). With SGD the decay is added to
    the clipped gradient, as there; with the others it is decoupled.
    """
    given = recipe.optimizer
    # Keras numbers default names within a process, and checkpoints keep the names.
    common = {"name": given.name, "use_ema": recipe.ema > 0, "ema_momentum": recipe.ema or 0.99}
    betas = {"beta_1": given.beta_1, "beta_2": given.beta_2}
    if given.name == "sgd":
        optimizer = keras.optimizers.SGD(schedule, given.momentum, given.nesterov, **common)
    elif given.name == "adamw":
        optimizer = keras.optimizers.Adam(schedule, **betas, **common)
    else:
        optimizer = keras.optimizers.Lamb(schedule, **betas, **common)
    groups = nf_zoo.parameter_groups(
        model, layer_decay=given.layer_decay, weight_decay=recipe.regularization.weight_decay
    )
    optimizer = nf_zoo.GroupedOptimizer(optimizer, groups, coupled=given.name == "sgd")
    if given.agc:
        optimizer = nf_zoo.AdaptiveGradientClipping(
            optimizer, given.agc, given.agc_eps, exclude=model.head.kernel
        )
    if model.dtype_policy.compute_dtype == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale")
    optimizer.build(model.trainable_variables)
    return optimizer
