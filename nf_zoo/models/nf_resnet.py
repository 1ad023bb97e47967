"""NF-ResNet: pre-activation residual networks without normalization.

Source: Brock, De & Smith, ICLR 2021 (arXiv 2101.08692). Two published networks carry the name;
they differ in the fields of :data:`PAPER`.
"""

import dataclasses
from typing import Literal

from nf_zoo.models import norm_free_config
from nf_zoo.models.configuration import DEPTHS, SMALL, ResNetShape
from nf_zoo.models.family import Family, Ledger
from nf_zoo.models.norm_free_config import NormFreeConfig


@dataclasses.dataclass(frozen=True)
class NFResNetConfig(ResNetShape, NormFreeConfig):
    """Architecture of an NF-ResNet. The defaults are timm's, which has ImageNet weights.

    The fields are those of :class:`~nf_zoo.models.norm_free_config.NormFreeConfig` and of
    :class:`~nf_zoo.models.configuration.ResNetShape`.
    """

    attention_ratio: float = 0.0625
    shortcut: Literal["average_pool", "strided"] = "average_pool"


PAPER = {**norm_free_config.PAPER, "shortcut": "strided", "attention_ratio": 0.25}
"""Fields in which DeepMind's network differs from timm's: ``variant="paper"``."""

# One or two blocks per stage need no damping.
_UNDAMPED = {"alpha": 1.0, "zero_init_gain": False}

ARCHITECTURES = {
    **{f"nf_resnet{n}": (f"NFResNet{n}", {**SMALL[n], **_UNDAMPED}) for n in SMALL},
    **{
        f"nf_resnet{n}": (f"NFResNet{n}", {"depths": DEPTHS[n]})
        for n in ("26", "50", "101", "152", "200", "288", "600")
    },
    **{
        f"nf_{kind}resnet{n}": (
            f"NF{kind.upper()}ResNet{n}",
            {"depths": DEPTHS[n], "attention": kind},
        )
        for kind in ("se", "eca")
        for n in ("26", "50", "101")
    },
}


def build_trunk(config: NFResNetConfig, x) -> list:
    """Build the maps of stem and stages, the last activated, from images (N, H, W, C)."""
    from nf_zoo.models.norm_free import convolution, stack_blocks
    from nf_zoo.models.residual_block import Level

    size, strides = config.stem_kernel_size, config.stem_strides
    x = convolution(config, "stem_conv", config.stem_width, size, strides)(x)
    stem = Level("stem", strides, x)

    stages = stack_blocks(config, config.pool(x), config.block_arguments, stride=strides**2)
    stages[-1].tensor = config.activation_layer("final_activation")(stages[-1].tensor)
    return [stem, *stages]


def parts(config: NFResNetConfig):
    """Return the layers with weights, and their names in timm's and DeepMind's files."""
    convolutions = "1 2" if config.block == "basic" else "1 2 3"
    return norm_free_config.parts(config, "NF_ResNet nf_res_block", convolutions, final=False)


def variance(config: NFResNetConfig) -> Ledger | None:
    """Return the ledger, if the first block's input has the variance it assumes."""
    # A 3x3 max pool leaves 0.36 of the variance of N(0, 1), all of it positive. ReLU then removes
    # nothing for its gamma to make up for, and the variance after it is 1.05. This holds only with
    # ReLU and a projection.
    if config.stem == "7x7_pool" and (
        config.activation != "relu" or config.stem_width == config.widths[0]
    ):
        return None
    return norm_free_config.variance(config)


FAMILY = Family(
    name="nf_resnet",
    config=NFResNetConfig,
    architectures=ARCHITECTURES,
    build_trunk=build_trunk,
    parts=parts,
    variants={"paper": PAPER},
    form=norm_free_config.FORM,
    activates_features=True,
    variance=variance,
)
