"""NFNet: F, F+ and the light L networks, in their published forms.

Source: Brock, De, Smith & Simonyan, ICML 2021 (arXiv 2102.06171); timm ``nfnet.py`` for L and for
the forms with other epsilons and GELUs.
"""

import dataclasses
from typing import Literal

from nf_zoo.models import norm_free_config
from nf_zoo.models.family import Family, Ledger
from nf_zoo.models.norm_free_config import NormFreeConfig


@dataclasses.dataclass(frozen=True)
class NFNetConfig(NormFreeConfig):
    """Architecture of an NFNet. The defaults are timm's ``nfnet_f0``.

    Attributes:
        bottleneck_ratio: inner width of a block, divided by its output width.
        group_width: channels per group of the 3x3 convolutions.
        truncate_groups: truncate inner widths to a multiple of ``group_width``, as in F+; else
            they must already be one.
        stem_widths: channels of the four stem convolutions (strides 2, 1, 1, 2).
        final_ratio: channels of the final 1x1 convolution, divided by the last width.

    The other fields are those of :class:`~nf_zoo.models.norm_free_config.NormFreeConfig`.
    """

    depths: tuple[int, ...] = (1, 2, 6, 3)
    widths: tuple[int, ...] = (256, 512, 1536, 1536)
    activation: str = "gelu"
    attention: Literal["se", "eca"] | None = "se"
    bottleneck_ratio: float = 0.5
    group_width: int = 128
    truncate_groups: bool = False
    stem_widths: tuple[int, ...] = (16, 32, 64, 128)
    final_ratio: float = 2.0

    def __post_init__(self):
        super().__post_init__()
        if len(self.stem_widths) != 4:
            self._refuse("stem_widths", "four positive integers")
        for width in self.widths:
            inner = width * self.bottleneck_ratio
            if inner < self.group_width:
                self._refuse("group_width", f"at most {inner:g}, the inner width of a block")
            if inner % self.group_width and not self.truncate_groups:
                self._refuse("group_width", f"a divisor of {inner:g}, the inner width of a block")
        if self.features < 1:
            self._refuse("final_ratio", f"at least 1 / {self.widths[-1]}")

    @property
    def features(self) -> int:
        """Channels of the final convolution and of the pooled features."""
        return int(self.widths[-1] * self.final_ratio)


PAPER = {**norm_free_config.PAPER, "activation": "gelu_tanh"}
"""DeepMind's code: ``variant="paper"``."""

TIMM_PORT = {"gamma_in": "activation", "padding": "same", "zero_init_gain": False, "skip_gain": 0.0}
"""timm's port of DeepMind's weights: erf GELU and the added epsilon."""

LIGHT = {"activation": "silu", "bottleneck_ratio": 0.25, "group_width": 64, "attention_ratio": 0.25}

PLUS = {"widths": (384, 768, 2048, 2048), "stem_widths": (16, 32, 64, 192), "truncate_groups": True}

TEST = {
    **LIGHT,
    "depths": (1, 1, 1, 1),
    "widths": (32, 64, 96, 128),
    "group_width": 8,
    "final_ratio": 1.5,
}


def _depths(size: int) -> tuple[int, ...]:
    """Return the depths of a size: 1, 2, 6 and 3 blocks for size 0, as many more for each step."""
    return tuple((size + 1) * depth for depth in (1, 2, 6, 3))


ARCHITECTURES = {
    **{f"nfnet_f{n}": (f"NFNetF{n}", {"depths": _depths(n)}) for n in range(8)},
    **{f"nfnet_f{n}_plus": (f"NFNetF{n}Plus", {"depths": _depths(n), **PLUS}) for n in range(8)},
    **{f"dm_nfnet_f{n}": (f"DMNFNetF{n}", {"depths": _depths(n), **TIMM_PORT}) for n in range(7)},
    "nfnet_l0": ("NFNetL0", {**LIGHT, "final_ratio": 1.5}),
    **{
        f"eca_nfnet_l{n}": (
            f"ECANFNetL{n}",
            {
                **LIGHT,
                "attention": "eca",
                "depths": _depths(n),
                "final_ratio": 1.5 if n == 0 else 2.0,
            },
        )
        for n in range(4)
    },
    "test_nfnet": ("TestNFNet", TEST),
}


def build_trunk(config: NFNetConfig, x) -> list:
    """Build the maps of stem and stages, the last activated, from images (N, H, W, C)."""
    from nf_zoo.models.norm_free import convolution, final_map, stack_blocks
    from nf_zoo.models.residual_block import Level

    *inner, last = config.stem_widths
    for index, width in enumerate(inner, start=1):
        x = convolution(config, f"stem_conv{index}", width, 3, 2 if index == 1 else 1)(x)
        stem = Level("stem", 2, x)
        x = config.activation_layer(f"stem_activation{index}")(x)
    # No activation here: the first block is pre-activated.
    x = convolution(config, "stem_conv4", last, 3, 2)(x)

    def inside(index: int, channels: int, filters: int) -> dict:
        groups = int(filters * config.bottleneck_ratio) // config.group_width
        width = groups * config.group_width
        return {"block": "double_bottleneck", "width": width, "groups": groups}

    stages = stack_blocks(config, x, inside, stride=4)
    stages[-1].tensor = final_map(config, stages[-1].tensor)
    return [stem, *stages]


def parts(config: NFNetConfig):
    """Return the layers with weights, and their names in timm's and DeepMind's files."""
    return norm_free_config.parts(config, "NFNet nf_block", "1 2 2b 3", stem="1234")


def variance(config: NFNetConfig) -> Ledger | None:
    """Return the ledger; activations in the stem amplify a variance above 1."""
    return norm_free_config.variance(config, stem_activations=len(config.stem_widths) - 1)


FAMILY = Family(
    name="nfnet",
    config=NFNetConfig,
    architectures=ARCHITECTURES,
    build_trunk=build_trunk,
    parts=parts,
    variants={"paper": PAPER},
    form=norm_free_config.FORM,
    activates_features=True,
    variance=variance,
)
