"""ResNet with batch normalization: v1.5 (post-activation) and v2 (pre-activation).

The twins of the normalizer-free networks. Sources: He et al., CVPR 2016 and ECCV 2016; timm
``resnet.py`` and ``resnetv2.py``; DeepMind nfnets ``resnet.py`` for ``variant="paper"``.
"""

from __future__ import annotations

import dataclasses

from nf_zoo.models import trunk
from nf_zoo.models.configuration import Config


@dataclasses.dataclass(frozen=True)
class ResNetConfig(Config):
    """Architecture of a BatchNorm ResNet.

    Attributes:
        block: ``"bottleneck"`` (1x1, 3x3, 1x1) or ``"basic"`` (3x3, 3x3).
        bottleneck_ratio: inner width of a bottleneck over its output width.
        preactivation: v2 if true, v1.5 (stride on the 3x3) if false.
        activation_first: of v2: (ReLU, BN, conv) instead of (BN, ReLU, conv), as the 2021 paper
            compares them.
        stem: ``"7x7_pool"``, ``"deep_pool"`` (three 3x3, then pool; v2 only) or ``"3x3"``
            (stride 1, for small pictures).
        stem_width: channels of the stem.
        shortcut: ``"strided"`` (strided 1x1) or ``"average_pool"`` (2x2 average, then 1x1).
        momentum: of the moving statistics, 0.9 = PyTorch's 0.1.
        eps: added to the variance.
        zero_init_last: the last BN scale of every branch starts at 0 (v1.5).

    The others are those of :class:`~nf_zoo.models.configuration.Config`.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    block: str = "bottleneck"
    bottleneck_ratio: float = 0.25
    preactivation: bool = False
    activation_first: bool = False
    stem: str = "7x7_pool"
    stem_width: int = 64
    shortcut: str = "strided"
    momentum: float = 0.9
    eps: float = 1e-5
    zero_init_last: bool = True

    choices = {
        **Config.choices,
        "block": ("bottleneck", "basic"),
        "stem": ("7x7_pool", "deep_pool", "3x3"),
        "shortcut": ("strided", "average_pool"),
        "preactivation": (False, True),
        "activation_first": (False, True),
        "zero_init_last": (True, False),
    }

    def __post_init__(self):
        super().__post_init__()
        self._check_inner_widths(self.bottleneck_ratio)
        if self.stem == "deep_pool" and self.stem_width < 2:
            self._refuse("stem_width", "at least 2 with stem='deep_pool'")
        if self.stem == "deep_pool" and not self.preactivation:
            raise ValueError("stem='deep_pool' needs preactivation=True. Received: False")
        if self.activation_first and not self.preactivation:
            self._refuse("activation_first", "False unless preactivation=True")


PAPER = {"preactivation": True, "padding": "same", "stochastic_depth_last": False}
"""DeepMind's baseline is a v2 network with SAME padding: ``variant="paper"``."""

BASIC = {"block": "basic", "widths": (64, 128, 256, 512)}
DEEP = {"stem": "deep_pool", "shortcut": "average_pool"}
_SMALL = {"block": "basic", "stem": "3x3", "stem_width": 16, "preactivation": True}
SMALL = {
    "10": {"depths": (1, 1, 1, 1), "widths": (16, 64, 128, 256), **_SMALL},
    "14": {"depths": (2, 2, 2), "widths": (32, 64, 128), **_SMALL, "shortcut": "average_pool"},
}
"""Twins of the small NF-ResNets."""

DEPTHS = {
    "18": (2, 2, 2, 2),
    "26": (2, 2, 2, 2),
    "34": (3, 4, 6, 3),
    "50": (3, 4, 6, 3),
    "50d": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
    "200": (3, 24, 36, 3),
    "288": (24, 24, 24, 24),
}


def _row(size: str, **fields) -> dict:
    extra = BASIC if size in ("18", "34") else DEEP if size.endswith("d") else {}
    return {"depths": DEPTHS[size], **extra, **fields}


ARCHITECTURES = {
    **{
        f"resnet{size}": (f"ResNet{size}", _row(size))
        for size in ("18", "26", "34", "50", "101", "152")
    },
    **{f"resnetv2_{n}": (f"ResNetV2_{n}", fields) for n, fields in SMALL.items()},
    **{
        f"resnetv2_{size}": (f"ResNetV2_{size}", _row(size, preactivation=True))
        for size in ("18", "26", "34", "50", "50d", "101", "152", "200", "288")
    },
}
"""Architecture name -> (factory name, fields that differ from the defaults)."""

VARIANTS = {"paper": PAPER}


def build_trunk(config: ResNetConfig, x) -> list[trunk.Level]:
    """From images (N, H, W, C) to the maps of the stem and of every stage, the last activated."""
    from nf_zoo.models.batch_norm_block import BatchNormBlock

    stem, x = _stem(config, x)
    ratio = 1.0 if config.block == "basic" else config.bottleneck_ratio

    def own_arguments(index: int, channels: int, filters: int) -> dict:
        return {
            "width": int(filters * ratio),
            "block": config.block,
            "preactivation": config.preactivation,
            "activation_first": config.activation_first,
            "momentum": config.momentum,
            "eps": config.eps,
            "zero_init_last": config.zero_init_last,
        }

    stages = trunk.stack_blocks(
        config,
        x,
        BatchNormBlock,
        own_arguments,
        stride=1 if config.stem == "3x3" else 4,
        shortcut=config.shortcut,
    )
    if config.preactivation:
        stages[-1].tensor = _normalized(config, stages[-1].tensor, "final_norm", "final_activation")
    return [stem, *stages]


def _normalized(config: ResNetConfig, x, norm: str, activation: str):
    from nf_zoo import layers
    from nf_zoo.models.batch_norm_block import batch_norm

    x = batch_norm(norm, config.momentum, config.eps)(x)
    return layers.ScaledActivation(config.activation, gamma=1.0, name=activation)(x)


def _stem(config: ResNetConfig, x) -> tuple:
    """The stem's map before pooling, and what the first block gets."""
    from nf_zoo import layers
    from nf_zoo.models.batch_norm_block import fan_out_normal

    def convolution(x, name, filters, kernel_size, strides):
        return layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding=config.padding,
            use_bias=False,
            kernel_initializer=fan_out_normal(),
            name=name,
        )(x)

    def normalize(x, name):
        return _normalized(config, x, f"stem_{name}", f"stem_{name}_activation")

    if config.stem == "deep_pool":
        half = config.stem_width // 2
        x = normalize(convolution(x, "stem_conv1", half, 3, 2), "norm1")
        x = normalize(convolution(x, "stem_conv2", half, 3, 1), "norm2")
        x = convolution(x, "stem_conv3", config.stem_width, 3, 1)
    elif config.stem == "7x7_pool":
        x = convolution(x, "stem_conv", config.stem_width, 7, 2)
    else:
        x = convolution(x, "stem_conv", config.stem_width, 3, 1)
    if not config.preactivation:
        x = normalize(x, "norm")
    small = config.stem == "3x3"
    stem = trunk.Level("stem", 1 if small else 2, x)
    if not small:
        x = layers.MaxPool2D(3, 2, padding=config.pool_padding, name="stem_pool")(x)
    return stem, x


def classifier_initializer():
    """N(0, 0.01), which timm uses for the pre-activation classifiers."""
    import keras

    return keras.initializers.RandomNormal(stddev=0.01)
