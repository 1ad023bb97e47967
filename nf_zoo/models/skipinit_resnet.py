"""SkipInit ResNet: pre-activation, biases, no normalization, one learnable scalar per branch.

Source: De & Smith, NeurIPS 2020; DeepMind nfnets ``skipinit_resnet.py``.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

from nf_zoo.models.configuration import DEPTHS, ResNetShape
from nf_zoo.models.family import BLOCK, CONVOLUTION, LINEAR, Family, Part


@dataclasses.dataclass(frozen=True)
class SkipInitResNetConfig(ResNetShape):
    """Architecture of a SkipInit ResNet.

    Attributes:
        skip_gain: initial value of every gain: 0, ``"1/sqrt(blocks)"`` or a number; None for no
            gains.
        merge_scale: constant factor on the sum of branch and shortcut.

    The other fields are those of :class:`~nf_zoo.models.configuration.ResNetShape`.
    """

    padding: Literal["symmetric", "same", "reflect", "circular"] = "same"
    stochastic_depth_rescale: bool = False
    stochastic_depth_last: bool = False
    skip_gain: float | Literal["1/sqrt(blocks)"] | None = 0.0
    merge_scale: float = 1.0

    @property
    def initial_gain(self) -> float | None:
        """Value of ``skip_gain`` as a number, or None."""
        if isinstance(self.skip_gain, str):
            return 1.0 / math.sqrt(sum(self.depths))
        return self.skip_gain


def build_trunk(config: SkipInitResNetConfig, x) -> list:
    """Build the maps of stem and stages, the last activated, from images (N, H, W, C)."""
    from nf_zoo.models.residual_block import Level, stack_blocks
    from nf_zoo.models.skipinit_block import SkipInitBlock, stem_convolution

    def own_arguments(*place) -> dict:
        return {**config.block_arguments(*place), "skip_gain": config.initial_gain}

    x, strides = stem_convolution(config)(x), config.stem_strides
    stem = Level("stem", strides, x)
    stages = stack_blocks(config, config.pool(x), SkipInitBlock, own_arguments, stride=strides**2)
    stages[-1].tensor = config.activation_layer("final_activation")(stages[-1].tensor)
    return [stem, *stages]


def parts(config: SkipInitResNetConfig) -> Iterator[Part]:
    """Yield the layers with weights, and their names in DeepMind's files."""
    root, haiku = "SkipInit_ResNet/~/", "SkipInit_ResNet/~/nf_res_block{n}/"
    yield Part("stem/conv", CONVOLUTION, haiku=f"{root}initial_conv")
    for i in range(1, 3 if config.block == "basic" else 4):
        yield Part(f"{BLOCK}conv{i}", LINEAR, haiku=f"{haiku}~/conv{i - 1}/{{own}}")
    theirs = f"{haiku}~/conv_shortcut/{{own}}"
    yield Part(f"{BLOCK}shortcut_conv", LINEAR, haiku=theirs, optional=True)
    if config.skip_gain is not None:
        yield Part(f"{BLOCK}skip_gain", ("gain",), haiku=f"{haiku}skip_{{leaf}}")
    yield Part("head", LINEAR, haiku=f"{root}linear/{{own}}")


FAMILY = Family(
    name="skipinit_resnet",
    config=SkipInitResNetConfig,
    architectures={
        f"skipinit_resnet{n}": (f"SkipInitResNet{n}", {"depths": DEPTHS[n]})
        for n in ("50", "101", "152", "200", "288")
    },
    build_trunk=build_trunk,
    parts=parts,
    variants={"paper": {}},
    activates_features=True,
    classifier_stddev=0.0,
)
