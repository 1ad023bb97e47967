"""Theory of the papers: the variance at initialization, from the configuration alone.

This is plain arithmetic that looks at no tensor.
"""

import math
from collections.abc import Sequence
from statistics import fmean

from nf_zoo.layers import ScaledActivation
from nf_zoo.layers.activations import activation_function, gamma_of, mean_of
from nf_zoo.models import registry
from nf_zoo.models.classifier import ImageClassifier
from nf_zoo.models.family import Ledger, LinearGrowth


def branch_variance(activation: str = "relu", fan_ratio: float = 1.0) -> float:
    """Return the variance per channel after BatchNorm, activation and He-initialized convolution.

    It is 2 / gamma ** 2, the variance of the activation times He's gain: 1 - 1 / pi for ReLU.
    ``fan_ratio`` is fan-in over fan-out, if the kernel was initialized by its fan-out.

    Source: Brock, De & Smith, ICLR 2021, section 3.
    """
    return 2.0 / ScaledActivation(activation).gamma ** 2 * fan_ratio


def activated_variance(variance: float, activation: str = "relu") -> float:
    """Return the variance after a scaled activation of N(0, variance), by numerical integration.

    ReLU keeps every variance. SiLU and GELU keep only 1 and increase larger variances. A block
    activates first and then divides by the expected deviation, so with them the variance runs
    ahead of the ledger, further in deeper stages.
    """
    if activation == "relu":
        return variance
    function, deviation = activation_function(activation), math.sqrt(variance)
    scaled = gamma_of(lambda x: function(x * deviation), points=2001)
    return (ScaledActivation(activation).gamma / scaled) ** 2


def border_factor(
    size: tuple[int, int],
    kernel_size: int | tuple[int, int],
    strides: int = 1,
    padding: str = "symmetric",
    mean_square: float = 0.0,
    standardized: bool = False,
    dilation: int = 1,
) -> float:
    """Return the share of a convolution's variance per channel that zero padding leaves.

    At the border only a share p of the taps meets a pixel, and tap t meets one in a share q of all
    places. The share E p of the input's variance comes through, and the same share E p of its
    squared mean. But the part of the latter that is the same in all places, E q ** 2, remains a
    mean and adds no variance. A standardized kernel, whose taps sum to 0, cancels the mean inside
    the picture: E p - E p ** 2 is left, less E q ** 2 - (E q) ** 2.

    The input is assumed to be alike in all places. After other padded convolutions it is smaller
    at the border, where its mean counts least, so somewhat more is left.

    ``mean_square`` is the squared mean of the input over its variance; 0 gives the share of the
    mean square that is left. A ``standardized`` kernel has mean 0. ``dilation`` is the distance
    between its taps, in pixels.

    Source: De & Smith, NeurIPS 2020, section 2, which explains slopes below one by the border.
    """
    sides = kernel_size if isinstance(kernel_size, tuple | list) else (kernel_size,) * 2
    axes = [_taps(n, k, strides, padding, dilation) for n, k in zip(size, sides, strict=True)]
    left = math.prod(fmean(fmean(met) for met in axis) for axis in axes)
    places = math.prod(fmean(fmean(met) ** 2 for met in axis) for axis in axes)
    taps = math.prod(fmean(fmean(met) ** 2 for met in zip(*axis, strict=True)) for axis in axes)
    lost = places + taps - left**2 if standardized else taps
    return left + mean_square * (left - lost)


def relative_squared_mean(activation: str = "relu") -> float:
    """Return squared mean over variance of an activation of N(0, 1): 1 / (pi - 1) for ReLU."""
    return (ScaledActivation(activation).gamma * mean_of(activation)) ** 2


def _taps(
    size: int, kernel_size: int, strides: int, padding: str, dilation: int = 1
) -> list[tuple[bool, ...]]:
    """Return for each output along an axis which taps meet a pixel."""
    if padding in ("circular", "reflect", "valid"):
        return [(True,) * kernel_size]
    outputs, taps = -(-size // strides), range(0, dilation * kernel_size, dilation)
    before = taps[-1] // 2
    if padding == "same":
        before = max((outputs - 1) * strides + taps[-1] + 1 - size, 0) // 2
    starts = (output * strides - before for output in range(outputs))
    return [tuple(0 <= start + tap < size for tap in taps) for start in starts]


def predicted_variances(
    model,
    unit_gains: bool = False,
    batch_statistics: bool = True,
    size: tuple[int, int] | None = None,
    pooling: Sequence[float | None] | None = None,
) -> list[float | None]:
    """Return the expected variance of every block's output at initialization, on N(0, 1) noise.

    Normalizer-free networks follow their ledger, except that skip gains and zero gains weaken the
    branches. Pre-activation BatchNorm networks grow by the branch variance per block and start
    again at every projection, for any pictures. Other networks have no such prediction, and get
    None. ``size``, (height, width) of the pictures, accounts for the zeros at the border.
    ``pooling`` is the share of the variance that each average-pool shortcut leaves: a quarter on
    maps without spatial correlation, nearly all on smooth maps.
    """
    rule, activation = _rule(model), model.config.activation
    blocks = model.blocks
    strides = [stage.stride for stage in model.trunk_stages[1:]]
    stages = [int(block.name.split("_")[0].removeprefix("stage")) - 1 for block in blocks]
    sizes = [None if size is None else tuple(-(-n // strides[i]) for n in size) for i in stages]
    shares = [1.0 if share is None else share for share in pooling or [None] * len(blocks)]
    if isinstance(rule, Ledger):
        strength = 1.0 if unit_gains else rule.strength
        return _by_ledger(rule, activation, blocks, sizes, shares, strength)
    if isinstance(rule, LinearGrowth) and batch_statistics:
        return _by_growth(activation, blocks, sizes, shares)
    return [None] * len(blocks)


def missing_theory(model, trained: bool, inputs: str, batch_statistics: bool) -> str:
    """Return the reason why theory does not apply to a measurement; empty if it does."""
    measured_on = getattr(model, "measured_on", None)  # of a network that carries its ledger
    if not isinstance(model, ImageClassifier) and measured_on is None:
        return "it covers only a network of nf_zoo by itself, and this is another model"
    if trained:
        return "it covers only initialization, and these weights are trained"
    if measured_on is not None:
        differs = f"its ledger was measured on {measured_on}, and these are {inputs}"
        return "" if inputs == measured_on else differs
    rule = _rule(model)
    if isinstance(rule, Ledger):
        return "" if inputs == "noise" else "it covers only noise, and these are pictures"
    if isinstance(rule, LinearGrowth):
        return "" if batch_statistics else "BatchNorm does not normalize by the batch"
    return "there is none for these blocks"


def _rule(model) -> Ledger | LinearGrowth | None:
    family, config = registry.architecture(model.architecture).record.resolve(model.config)
    return family.variance(config)


def _by_ledger(
    rule: Ledger, activation: str, blocks, sizes, shares, strength: float
) -> list[float]:
    mean_square = relative_squared_mean(activation)
    variances = []
    # The first block starts from the stem, a max pool left out.
    variance = ScaledActivation(activation).gamma ** 2 if rule.stem_gamma else 1.0
    for _ in range(rule.stem_activations):
        variance = activated_variance(variance, activation)
    for block, size, share in zip(blocks, sizes, shares, strict=True):
        # With silent branches the variance is below that of the ledger, which beta follows.
        scaled = activated_variance(variance, activation) * block.beta**2
        skip = variance if block.shortcut_conv is None else scaled * share
        branch = scaled * _border(block.convs[0], size, mean_square, True)
        for conv in block.convs[1:]:
            branch = activated_variance(branch, activation)
            branch *= _border(conv, size, mean_square, True)
        variance = skip + (rule.alpha * strength) ** 2 * branch
        variances.append(variance)
    return variances


def _by_growth(activation: str, blocks, sizes, shares) -> list[float | None]:
    variances, variance = [], None
    mean_square = relative_squared_mean(activation)
    for block, size, share in zip(blocks, sizes, shares, strict=True):
        last, projection = block.convs[-1], block.shortcut_conv
        branch = branch_variance(activation, _fan_ratio(last))
        branch *= _border(last, size, mean_square)
        if projection is not None:
            variance = branch_variance(activation, _fan_ratio(projection)) * share
        variance = None if variance is None else variance + branch
        variances.append(variance)
    return variances


def _border(
    convolution, size: tuple[int, int] | None, mean_square: float, standardized: bool = False
) -> float:
    """Return the border's factor for a convolution whose output has ``size`` pixels."""
    if size is None:
        return 1.0
    strides = convolution.strides
    before = tuple(n * strides for n in size)
    place = convolution.kernel_size, strides, convolution.padding
    return border_factor(before, *place, mean_square, standardized, convolution.dilation)


def _fan_ratio(convolution) -> float:
    """Return fan-in over fan-out of a built convolution."""
    return convolution.kernel.shape[2] * convolution.groups / convolution.filters
