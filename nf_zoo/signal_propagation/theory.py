"""What the papers expect of the variance at initialisation, from the configuration alone.

Plain arithmetic: nothing here looks at a tensor.
"""

from __future__ import annotations

import math

from nf_zoo.layers import ScaledActivation
from nf_zoo.models import registry
from nf_zoo.models.variance import variance_ledger


def unnormalised_variance(block: int) -> float:
    """Variance before block l of a linear residual network without normalisation, 2 ** (l - 1).

    Source: De & Smith, NeurIPS 2020, section 2.

    Example:
        >>> [unnormalised_variance(block) for block in (1, 2, 3)]
        [1.0, 2.0, 4.0]
    """
    return 2.0 ** (_positive(block) - 1)


def batch_norm_variance(block: int) -> float:
    """Variance before block l if every branch is normalised, l; so is BN's moving variance.

    Source: De & Smith, NeurIPS 2020, section 2.

    Example:
        >>> batch_norm_variance(7)
        7.0
    """
    return float(_positive(block))


def branch_share(block: int) -> float:
    """Share of the variance after block l that its normalised branch adds, 1 / (l + 1).

    Source: De & Smith, NeurIPS 2020, section 2.

    Example:
        >>> branch_share(3)
        0.25
    """
    return 1.0 / (_positive(block) + 1)


def branch_variance(activation: str = "relu", fan_ratio: float = 1.0) -> float:
    """Variance per channel behind BatchNorm, an activation and a He-initialised convolution.

    2 / gamma ** 2, the variance of the activation times He's gain: 1 - 1 / pi for ReLU.

    Args:
        activation: a name.
        fan_ratio: fan-in over fan-out, where the kernel was initialised by its fan-out.

    Source: Brock, De & Smith, ICLR 2021, section 3.

    Example:
        >>> round(branch_variance("relu"), 3)
        0.681
    """
    return 2.0 / ScaledActivation(activation).gamma ** 2 * fan_ratio


def norm_free_variance(block: int, alpha: float = 0.2) -> float:
    """Variance after the k-th block of a stage, 1 + alpha ** 2 * k.

    Source: Brock, De & Smith, ICLR 2021, section 3.

    Example:
        >>> round(norm_free_variance(3), 2)
        1.12
    """
    return 1.0 + alpha**2 * _positive(block)


def predicted_variances(
    model, unit_gains: bool = False, batch_statistics: bool = True
) -> list[float | None]:
    """Expected variance of every block's output at initialisation.

    Normaliser-free networks follow their ledger, and SkipInit networks keep their variance, up to
    what skip gains and zero gains leave of the branches. Pre-activation BatchNorm networks grow by
    the branch variance per block and start afresh at every projection. Post-activation networks
    have no such prediction.

    Args:
        model: an :class:`~nf_zoo.models.classifier.ImageClassifier`.
        unit_gains: gains and skip gains are at one.
        batch_statistics: BatchNorm normalises by the batch.

    Returns:
        One number, or None, per block.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.WideResNet16_1()
        >>> [round(v, 2) for v in predicted_variances(model, unit_gains=True)]
        [1.04, 1.08, 1.04, 1.08, 1.04, 1.08]
    """
    config = registry.architecture(model.architecture).builder(model.config)[1]
    blocks = model.blocks
    if hasattr(config, "alpha"):
        return _norm_free(config, blocks, unit_gains)
    if getattr(config, "preactivation", False) and batch_statistics:
        return _batch_norm(config, blocks)
    return [None] * len(blocks)


def _norm_free(config, blocks, unit_gains: bool) -> list[float]:
    strength = 1.0
    if not unit_gains:
        strength = 1.0 if config.skip_gain is None else config.skip_gain
        strength *= 0.0 if config.zero_init_gain else 1.0
    variances, variance = [], 1.0
    for row, block in zip(variance_ledger(config.depths, config.alpha), blocks, strict=False):
        # Silent branches leave less variance than the ledger, and so than beta, reckons with.
        scaled = variance * row.beta**2
        skip = variance if block.shortcut_conv is None else scaled
        variance = skip + (config.alpha * strength) ** 2 * scaled
        variances.append(variance)
    return variances


def _batch_norm(config, blocks) -> list[float]:
    variances, variance = [], math.nan
    for block in blocks:
        last = block.convs[-1]
        branch = branch_variance(config.activation, _fan_ratio(last))
        if block.shortcut_conv is not None:
            variance = branch_variance(config.activation, _fan_ratio(block.shortcut_conv))
        variance += branch
        variances.append(variance)
    return [None if math.isnan(value) else value for value in variances]


def _fan_ratio(convolution) -> float:
    """Fan-in over fan-out of a built convolution."""
    return convolution.kernel.shape[2] * convolution.groups / convolution.filters


def _positive(block: int) -> int:
    if block < 1:
        raise ValueError(f"Blocks are counted from 1. Received: {block!r}")
    return block
