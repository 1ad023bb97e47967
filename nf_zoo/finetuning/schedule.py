"""The optimizer of a phase and its learning rate."""

from __future__ import annotations

import keras

from nf_zoo.finetuning.settings import Settings

GLOBAL_CLIPNORM = 1.0
"""Normalizer-free networks diverge on a single outsized gradient; this bounds every step."""


def learning_rate_schedule(peak: float, steps: int) -> keras.optimizers.schedules.CosineDecay:
    """Linear rise to ``peak`` over a tenth of the steps, then half a cosine down to 0.

    The rise starts above 0, so that a run of a single step learns something.

    Args:
        peak: the highest rate.
        steps: number of optimization steps, rise included.

    Example:
        >>> float(learning_rate_schedule(0.1, steps=100)(10))
        0.10000000149011612
    """
    rise = max(steps // 10, 1)
    return keras.optimizers.schedules.CosineDecay(
        peak / (rise + 1), max(steps - rise, 1), warmup_target=peak, warmup_steps=rise
    )


def make_optimizer(
    model: keras.Model, settings: Settings, steps: int, average: bool
) -> keras.optimizers.Optimizer:
    """SGD with Nesterov momentum; weight decay on kernels alone.

    Gains, biases, skip gains and batch-normalization parameters are not decayed (Brock et al.
    2021, "High-performance large-scale image recognition without normalization").

    Args:
        model: its trainable variables are to be fitted.
        settings: peak learning rate, weight decay, momentum of the average.
        steps: length of the schedule.
        average: keep a moving average of the weights, if the settings ask for one.
    """
    optimizer = keras.optimizers.SGD(
        learning_rate_schedule(settings.learning_rate, steps),
        momentum=0.9,
        nesterov=True,
        weight_decay=settings.weight_decay or None,
        global_clipnorm=GLOBAL_CLIPNORM,
        use_ema=average and settings.ema is not None,
        ema_momentum=settings.ema or 0.99,
    )
    others = [v for v in model.trainable_variables if not v.name.endswith("kernel")]
    optimizer.exclude_from_weight_decay(var_list=others)
    return optimizer
