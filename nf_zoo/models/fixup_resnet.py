"""Fixup ResNet: post-activation, scalar biases, and an initialization that depends on depth.

Source: Zhang, Dauphin & Ma, ICLR 2019; DeepMind nfnets ``fixup_resnet.py``, a baseline of Brock, De
& Smith, ICLR 2021.
"""

from __future__ import annotations

import dataclasses

from nf_zoo.models import skipinit_resnet
from nf_zoo.models.skipinit_resnet import DEPTHS, classifier_initializer
from nf_zoo.models.trunk import Level

__all__ = ["ARCHITECTURES", "VARIANTS", "FixupResNetConfig", "build_trunk"]
__all__ += ["before_classifier", "classifier_initializer"]


@dataclasses.dataclass(frozen=True)
class FixupResNetConfig(skipinit_resnet.PlainResNetConfig):
    """Architecture of a Fixup ResNet; the fields are those of PlainResNetConfig."""


ARCHITECTURES = {
    f"fixup_resnet{n}": (f"FixupResNet{n}", {"depths": DEPTHS[n]}) for n in ("50", "101", "152")
}
"""Architecture name -> (factory name, fields that differ from the defaults)."""

VARIANTS = {"paper": {}}


def build_trunk(config: FixupResNetConfig, x) -> list[Level]:
    """From images (N, H, W, C) to the maps of the stem and of every stage."""
    from nf_zoo import layers
    from nf_zoo.models.skipinit_block import FixupBlock, ScalarBias

    x = ScalarBias(name="stem_bias")(skipinit_resnet.stem_convolution(config)(x))
    x = layers.ScaledActivation(config.activation, gamma=1.0, name="stem_activation")(x)
    stem = Level("stem", 2 if config.pooled_stem else 1, x)
    x = skipinit_resnet.stem_pool(config, x)
    own = {"num_blocks": sum(config.depths)}
    return [stem, *skipinit_resnet.stack_blocks(config, x, FixupBlock, own)]


def before_classifier(x):
    """The scalar bias on the pooled features, after dropout."""
    from nf_zoo.models.skipinit_block import ScalarBias

    return ScalarBias(name="features_bias")(x)
