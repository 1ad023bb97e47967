"""The learning-rate schedule and the optimizer of a recipe."""

from __future__ import annotations

import math

import keras
from keras import ops

import nf_zoo


@keras.saving.register_keras_serializable("nf_zoo_training")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise, then half a cosine, halvings, or nothing.

    Args:
        peak: the largest learning rate.
        steps: of the whole run.
        warmup: steps of the rise; it starts at ``peak / warmup``.
        kind: ``"cosine"``, ``"step"`` (De & Smith 2020: constant for a share ``hold`` of the run,
            then halved every ``every`` steps) or ``"constant"``.
        end: the last rate of the cosine.
        hold: in [0, 1].
        every: steps between halvings.

    Example:
        >>> float(Schedule(0.4, steps=100, warmup=5)(4))
        0.4000000059604645
    """

    def __init__(self, peak, steps, warmup=0, kind="cosine", end=0.0, hold=0.5, every=1):
        self.settings = {
            "peak": peak,
            "steps": steps,
            "warmup": warmup,
            "kind": kind,
            "end": end,
            "hold": hold,
            "every": every,
        }

    def __call__(self, step):
        given = self.settings
        step = ops.cast(step, "float32")
        peak, steps, warmup = given["peak"], given["steps"], given["warmup"]
        if given["kind"] == "cosine":
            share = ops.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)
            cosine = 0.5 * (1.0 + ops.cos(math.pi * share))
            rate = given["end"] + (peak - given["end"]) * cosine
        elif given["kind"] == "step":
            passed = ops.maximum(step - given["hold"] * steps, -1.0)
            rate = peak * 2.0 ** -(ops.floor(passed / given["every"]) + 1.0)
        else:
            rate = peak * ops.ones_like(step)
        rising = peak * (step + 1.0) / max(warmup, 1)
        return ops.where(step < warmup, rising, rate)

    def get_config(self):
        return self.settings


def make_schedule(recipe, steps: int, steps_per_epoch: float) -> Schedule:
    """The schedule of a recipe.

    Args:
        recipe: a :func:`training.recipe.default`.
        steps: of the whole run.
        steps_per_epoch: may be a fraction.
    """
    given = recipe.schedule
    peak = recipe.optimizer.learning_rate
    if recipe.optimizer.per_batch:
        peak *= recipe.batch_size / recipe.optimizer.per_batch
    return Schedule(
        peak,
        steps,
        min(round(given.warmup_epochs * steps_per_epoch), steps),
        given.kind,
        given.end,
        given.hold,
        max(round(given.every_epochs * steps_per_epoch), 1),
    )


def make_optimizer(recipe, model, schedule: Schedule):
    """The optimizer of a recipe, built for the model.

    Weight decay acts on kernels alone, adaptive gradient clipping on all but the classifier's
    kernel (DeepMind nfnets ``experiment_nfnets.py``). With SGD the decay is a part of the gradient
    after it was clipped, as there; with the others it is decoupled.
    """
    given = recipe.optimizer
    # A name of its own would be numbered within a process, and checkpoints keep names.
    common = {"name": given.name, "use_ema": recipe.ema > 0, "ema_momentum": recipe.ema or 0.99}
    betas = {"beta_1": given.beta_1, "beta_2": given.beta_2}
    if given.name == "sgd":
        optimizer = keras.optimizers.SGD(schedule, given.momentum, given.nesterov, **common)
    elif given.name == "adamw":
        optimizer = keras.optimizers.Adam(schedule, **betas, **common)
    else:
        optimizer = keras.optimizers.Lamb(schedule, **betas, **common)
    groups = nf_zoo.parameter_groups(
        model,
        layer_decay=given.layer_decay,
        weight_decay=recipe.regularisation.weight_decay,
    )
    optimizer = nf_zoo.GroupedOptimizer(optimizer, groups, coupled=given.name == "sgd")
    if given.agc:
        optimizer = nf_zoo.AdaptiveGradientClipping(
            optimizer, given.agc, given.agc_eps, exclude=model.head.kernel
        )
    if model.dtype_policy.compute_dtype == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    return optimizer
