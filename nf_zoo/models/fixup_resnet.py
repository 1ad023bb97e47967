"""Fixup ResNet: post-activation, scalar biases, and an initialization that depends on depth.

Source: Zhang, Dauphin & Ma, ICLR 2019; DeepMind nfnets ``fixup_resnet.py``, a baseline of Brock, De
& Smith, ICLR 2021.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

from nf_zoo.models.configuration import DEPTHS, ResNetShape
from nf_zoo.models.family import BLOCK, CONVOLUTION, LINEAR, Family, Part


@dataclasses.dataclass(frozen=True)
class FixupResNetConfig(ResNetShape):
    """Architecture of a Fixup ResNet.

    The fields are those of :class:`~nf_zoo.models.configuration.ResNetShape`.
    """

    padding: Literal["symmetric", "same", "reflect", "circular"] = "same"
    stochastic_depth_rescale: bool = False
    stochastic_depth_last: bool = False


def build_trunk(config: FixupResNetConfig, x) -> list:
    """Build the maps of the stem and of every stage from images (N, H, W, C)."""
    from nf_zoo.layers import ScalarBias
    from nf_zoo.models.residual_block import Level, stack_blocks
    from nf_zoo.models.skipinit_block import FixupBlock, stem_convolution

    def own_arguments(*place) -> dict:
        return {**config.block_arguments(*place), "num_blocks": sum(config.depths)}

    x = ScalarBias(name="stem_bias")(stem_convolution(config)(x))
    x, strides = config.activation_layer("stem_activation")(x), config.stem_strides
    stem = Level("stem", strides, x)
    stages = stack_blocks(config, config.pool(x), FixupBlock, own_arguments, stride=strides**2)
    return [stem, *stages]


def before_classifier(x):
    """Add the scalar bias to the pooled features, after dropout."""
    from nf_zoo.layers import ScalarBias

    return ScalarBias(name="features_bias")(x)


def parts(config: FixupResNetConfig) -> Iterator[Part]:
    """Yield the layers with weights, and their names in DeepMind's files."""
    root, haiku = "FixUp_ResNet/~/", "FixUp_ResNet/~/res_block{n}/"
    convolutions = range(1, 3 if config.block == "basic" else 4)
    yield Part("stem/conv", CONVOLUTION, haiku=f"{root}initial_conv")
    yield Part("stem/bias", ("bias",), haiku="FixUp_ResNet/{leaf}1")
    for i in convolutions:
        yield Part(f"{BLOCK}conv{i}", CONVOLUTION, haiku=f"{haiku}~/conv{i - 1}")
    scalars = *(f"bias{i}{side}" for i in convolutions for side in "ab"), "scale"
    yield Part(BLOCK.removesuffix("/"), scalars, haiku=f"{haiku}{{leaf}}")
    shortcut = f"{haiku}~/conv_shortcut"
    yield Part(f"{BLOCK}shortcut_conv", CONVOLUTION, haiku=shortcut, optional=True)
    yield Part("features_bias", ("bias",), haiku="FixUp_ResNet/{leaf}2")
    yield Part("head", LINEAR, haiku=f"{root}linear/{{own}}")


FAMILY = Family(
    name="fixup_resnet",
    config=FixupResNetConfig,
    architectures={
        f"fixup_resnet{n}": (f"FixupResNet{n}", {"depths": DEPTHS[n]}) for n in ("50", "101", "152")
    },
    build_trunk=build_trunk,
    parts=parts,
    variants={"paper": {}},
    before_classifier=before_classifier,
    classifier_stddev=0.0,
)
