"""RegNetY: BatchNorm networks of grouped convolutions and squeeze-excite.

The twins of NF-RegNet, which has the same block layout. Sources: Radosavovic et al., CVPR 2020
(arXiv 2003.13678); timm ``regnet.py``.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

from nf_zoo.models.configuration import Config
from nf_zoo.models.family import BATCH_NORM, BLOCK, CONVOLUTION, LINEAR, Family, Part


@dataclasses.dataclass(frozen=True)
class RegNetYConfig(Config):
    """Architecture of a RegNetY. The defaults are timm's ``regnety_004``.

    Attributes:
        group_width: channels per group of the 3x3 convolutions; it must divide all widths.
        attention_ratio: hidden width of squeeze-excite, divided by the block's input width.
        stem_width: channels of the stem.
        shortcut: ``"strided"`` (strided 1x1) or ``"average_pool"`` (2x2 average, then 1x1).
        momentum: momentum of the moving statistics, 0.9 = PyTorch's 0.1.
        eps: added to the variance.
        zero_init_last: the last BN scale of every branch starts at 0.

    The other fields are those of :class:`~nf_zoo.models.configuration.Config`.
    """

    depths: tuple[int, ...] = (1, 3, 6, 6)
    widths: tuple[int, ...] = (48, 104, 208, 440)
    group_width: int = 8
    attention_ratio: float = 0.25
    stem_width: int = 32
    shortcut: Literal["strided", "average_pool"] = "strided"
    momentum: float = 0.9
    eps: float = 1e-5
    zero_init_last: bool = True

    def __post_init__(self):
        super().__post_init__()
        for width in self.widths:
            if width < self.group_width:
                self._refuse("group_width", f"at most {width}, the width of a stage")
            if width % self.group_width:
                self._refuse("group_width", f"a divisor of {width}, the width of a stage")


_SIZES = {
    "002": ((1, 1, 4, 7), (24, 56, 152, 368), 8),
    "004": ((1, 3, 6, 6), (48, 104, 208, 440), 8),
    "006": ((1, 3, 7, 4), (48, 112, 256, 608), 16),
    "008": ((1, 3, 8, 2), (64, 128, 320, 768), 16),
    "016": ((2, 6, 17, 2), (48, 120, 336, 888), 24),
    "032": ((2, 5, 13, 1), (72, 216, 576, 1512), 24),
}
"""Hundreds of millions of multiply-adds -> depths, widths and group width."""


def build_trunk(config: RegNetYConfig, x) -> list:
    """Build the maps of stem and stages, all activated, from images (N, H, W, C)."""
    from nf_zoo.models.batch_norm_block import BatchNormBlock, convolution, normalized
    from nf_zoo.models.residual_block import Level, stack_blocks

    stem = {"filters": config.stem_width, "kernel_size": 3, "strides": 2, "name": "stem_conv"}
    x = convolution(padding=config.padding, **stem)(x)
    x = normalized(config, x, "stem_norm", "stem_norm_activation")

    def own_arguments(index: int, channels: int, filters: int) -> dict:
        return {
            "width": filters,
            "groups": filters // config.group_width,
            "attention_width": max(round(channels * config.attention_ratio), 1),
        }

    stages = stack_blocks(config, x, BatchNormBlock, own_arguments, stride=2, first_strides=2)
    return [Level("stem", 2, x), *stages]


def parts(config: RegNetYConfig) -> Iterator[Part]:
    """Yield the layers with weights, and their names in timm's files."""
    timm = "s{stage}.b{block}."
    yield Part("stem/conv", CONVOLUTION, "stem.conv")
    yield Part("stem/norm", BATCH_NORM, "stem.bn")
    for i in (1, 2, 3):
        yield Part(f"{BLOCK}conv{i}", CONVOLUTION, f"{timm}conv{i}.conv")
        yield Part(f"{BLOCK}norm{i}", BATCH_NORM, f"{timm}conv{i}.bn")
    yield Part(f"{BLOCK}shortcut_conv", CONVOLUTION, f"{timm}downsample.conv", optional=True)
    yield Part(f"{BLOCK}shortcut_norm", BATCH_NORM, f"{timm}downsample.bn", optional=True)
    yield Part(f"{BLOCK}attention/reduce", LINEAR, f"{timm}se.fc1")
    yield Part(f"{BLOCK}attention/expand", LINEAR, f"{timm}se.fc2")
    yield Part("head", LINEAR, "head.fc")


FAMILY = Family(
    name="regnety",
    config=RegNetYConfig,
    architectures={
        f"regnety_{size}": (
            f"RegNetY{size}",
            {"depths": depths, "widths": widths, "group_width": group_width},
        )
        for size, (depths, widths, group_width) in _SIZES.items()
    },
    build_trunk=build_trunk,
    parts=parts,
)
