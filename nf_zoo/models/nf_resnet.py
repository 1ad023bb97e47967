"""NF-ResNet: pre-activation residual networks without normalization.

Source: Brock, De & Smith, ICLR 2021 (arXiv 2101.08692). Two published networks carry the name;
they differ in the fields of :data:`PAPER`.
"""

from __future__ import annotations

import dataclasses

from nf_zoo.models import norm_free
from nf_zoo.models.trunk import Level


@dataclasses.dataclass(frozen=True)
class NFResNetConfig(norm_free.NormFreeConfig):
    """Architecture of an NF-ResNet. The defaults are timm's, which has ImageNet weights.

    Attributes:
        block: ``"bottleneck"`` (1x1, 3x3, 1x1) or ``"basic"`` (3x3, 3x3).
        bottleneck_ratio: inner width of a bottleneck over its output width.
        stem: ``"7x7_pool"`` (stride 4 in all) or ``"3x3"`` (stride 1, for small pictures).
        stem_width: channels of the stem.

    The others are those of :class:`~nf_zoo.models.norm_free.NormFreeConfig`.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    attention_ratio: float = 0.0625
    block: str = "bottleneck"
    bottleneck_ratio: float = 0.25
    stem: str = "7x7_pool"
    stem_width: int = 64

    choices = {
        **norm_free.NormFreeConfig.choices,
        "block": ("bottleneck", "basic"),
        "stem": ("7x7_pool", "3x3"),
    }

    def __post_init__(self):
        super().__post_init__()
        self._check_inner_widths(self.bottleneck_ratio)


PAPER = {**norm_free.PAPER, "shortcut": "strided", "attention_ratio": 0.25}
"""What DeepMind's network has where timm's differs: ``variant="paper"``."""

_SMALL = {
    "block": "basic",
    "stem": "3x3",
    "stem_width": 16,
    "alpha": 1.0,
    "zero_init_gain": False,
}
SMALL = {
    "10": {"depths": (1, 1, 1, 1), "widths": (16, 64, 128, 256), **_SMALL},
    "14": {"depths": (2, 2, 2), "widths": (32, 64, 128), **_SMALL},
}
"""Layers -> fields, for pictures of about 32 pixels. With one or two blocks a stage there is no
depth to tame, so alpha is 1."""

DEPTHS = {
    "26": (2, 2, 2, 2),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
    "200": (3, 24, 36, 3),
    "288": (24, 24, 24, 24),
    "600": (50, 50, 50, 50),
}

ARCHITECTURES = {
    **{f"nf_resnet{n}": (f"NFResNet{n}", fields) for n, fields in SMALL.items()},
    **{f"nf_resnet{n}": (f"NFResNet{n}", {"depths": d}) for n, d in DEPTHS.items()},
    **{
        f"nf_{kind}resnet{n}": (
            f"NF{kind.upper()}ResNet{n}",
            {"depths": DEPTHS[n], "attention": kind},
        )
        for kind in ("se", "eca")
        for n in ("26", "50", "101")
    },
}
"""Architecture name -> (factory name, fields that differ from the defaults)."""

VARIANTS = {"paper": PAPER}


def build_trunk(config: NFResNetConfig, x) -> list[Level]:
    """From images (N, H, W, C) to the maps of the stem and of every stage, the last activated."""
    from nf_zoo import layers

    pooled = config.stem == "7x7_pool"
    size, strides = (7, 2) if pooled else (3, 1)
    x = norm_free.convolution(config, "stem_conv", config.stem_width, size, strides)(x)
    stem = Level("stem", strides, x)
    if pooled:
        x = layers.MaxPool2D(3, 2, padding=config.pool_padding, name="stem_pool")(x)

    def branch(index: int, channels: int, filters: int) -> norm_free.Branch:
        ratio = 1.0 if config.block == "basic" else config.bottleneck_ratio
        return norm_free.Branch(config.block, int(filters * ratio))

    stages = norm_free.stack_blocks(config, x, branch, stride=4 if pooled else 1)
    last = stages[-1]
    last.tensor = norm_free.activation(config, "final_activation")(last.tensor)
    return [stem, *stages]


feature_activation = norm_free.activation


def classifier_initializer():
    """N(0, 0.01), as both publications start the classifier."""
    import keras

    return keras.initializers.RandomNormal(stddev=0.01)
