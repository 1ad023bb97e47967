"""SkipInit ResNet: pre-activation, biases, no normalization, one learnable scalar per branch.

Source: De & Smith, NeurIPS 2020; DeepMind nfnets ``skipinit_resnet.py``.
"""

from __future__ import annotations

import dataclasses
import math

from nf_zoo.models import trunk
from nf_zoo.models.configuration import Config

DEPTHS = {
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
    "200": (3, 24, 36, 3),
    "288": (24, 24, 24, 24),
}


@dataclasses.dataclass(frozen=True)
class PlainResNetConfig(Config):
    """Fields that the SkipInit and the Fixup ResNet share.

    Attributes:
        block: ``"bottleneck"`` (1x1, 3x3, 1x1) or ``"basic"`` (3x3, 3x3).
        bottleneck_ratio: inner width of a bottleneck over its output width.
        stem: ``"7x7_pool"`` (stride 4 in all) or ``"3x3"`` (stride 1, for small pictures).
        stem_width: channels of the stem.
        shortcut: ``"strided"`` (strided 1x1) or ``"average_pool"`` (2x2 average, then 1x1).

    The others are those of :class:`~nf_zoo.models.configuration.Config`.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    padding: str = "same"
    stochastic_depth_rescale: bool = False
    stochastic_depth_last: bool = False
    block: str = "bottleneck"
    bottleneck_ratio: float = 0.25
    stem: str = "7x7_pool"
    stem_width: int = 64
    shortcut: str = "strided"

    choices = {
        **Config.choices,
        "shortcut": ("strided", "average_pool"),
        "block": ("bottleneck", "basic"),
        "stem": ("7x7_pool", "3x3"),
    }

    def __post_init__(self):
        super().__post_init__()
        self._check_inner_widths(self.bottleneck_ratio)

    @property
    def pooled_stem(self) -> bool:
        """Whether the stem has stride 4 in all."""
        return self.stem == "7x7_pool"


@dataclasses.dataclass(frozen=True)
class SkipInitResNetConfig(PlainResNetConfig):
    """Architecture of a SkipInit ResNet.

    Attributes:
        skip_gain: initial value of every gain: 0, or ``"1/sqrt(blocks)"``, or a number; None for
            no gains.
        merge_scale: constant on the sum of branch and shortcut.

    The others are those of :class:`PlainResNetConfig`.
    """

    skip_gain: float | str | None = 0.0
    merge_scale: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.skip_gain, str) and self.skip_gain != "1/sqrt(blocks)":
            self._refuse("skip_gain", "a number, '1/sqrt(blocks)' or None")

    @property
    def initial_gain(self) -> float | None:
        """``skip_gain`` as a number, or None."""
        if isinstance(self.skip_gain, str):
            return 1.0 / math.sqrt(sum(self.depths))
        return self.skip_gain


ARCHITECTURES = {
    f"skipinit_resnet{n}": (f"SkipInitResNet{n}", {"depths": d}) for n, d in DEPTHS.items()
}
"""Architecture name -> (factory name, fields that differ from the defaults)."""

VARIANTS = {"paper": {}}


def build_trunk(config: SkipInitResNetConfig, x) -> list[trunk.Level]:
    """From images (N, H, W, C) to the maps of the stem and of every stage, the last activated."""
    from nf_zoo.models.skipinit_block import SkipInitBlock

    x = stem_convolution(config)(x)
    stem = trunk.Level("stem", 2 if config.pooled_stem else 1, x)
    own = {"skip_gain": config.initial_gain, "merge_scale": config.merge_scale}
    stages = stack_blocks(config, stem_pool(config, x), SkipInitBlock, own)
    last = stages[-1]
    last.tensor = feature_activation(config, "final_activation")(last.tensor)
    return [stem, *stages]


def stem_convolution(config: PlainResNetConfig):
    """The first convolution, without bias."""
    from nf_zoo import layers

    return layers.Conv2D(
        config.stem_width,
        7 if config.pooled_stem else 3,
        strides=2 if config.pooled_stem else 1,
        padding=config.padding,
        use_bias=False,
        kernel_initializer="he_normal",
        name="stem_conv",
    )


def stem_pool(config: PlainResNetConfig, x):
    """The pooling of a 7x7 stem."""
    from nf_zoo import layers

    if not config.pooled_stem:
        return x
    return layers.MaxPool2D(3, 2, padding=config.pool_padding, name="stem_pool")(x)


def stack_blocks(config: PlainResNetConfig, x, block_class, own: dict) -> list[trunk.Level]:
    """All residual blocks, each with the arguments ``own`` beside those of every block."""
    ratio = 1.0 if config.block == "basic" else config.bottleneck_ratio

    def own_arguments(index: int, channels: int, filters: int) -> dict:
        return {"width": int(filters * ratio), "block": config.block, **own}

    stride = 4 if config.pooled_stem else 1
    return trunk.stack_blocks(
        config, x, block_class, own_arguments, stride=stride, shortcut=config.shortcut
    )


def feature_activation(config: PlainResNetConfig, name: str):
    """What a map on the way out of the network goes through."""
    from nf_zoo import layers

    return layers.ScaledActivation(config.activation, gamma=1.0, name=name)


def classifier_initializer():
    """Zero, as the reference starts it."""
    import keras

    return keras.initializers.Zeros()
