"""NF-RegNet: normalizer-free networks of grouped convolutions and squeeze-excite.

Source: Brock, De & Smith, ICLR 2021, section 5; DeepMind nfnets ``nf_regnet.py``; timm for the
rounding of the network that has weights.
"""

import dataclasses
from typing import Literal

from nf_zoo.models import norm_free_config
from nf_zoo.models.family import Family
from nf_zoo.models.norm_free_config import NormFreeConfig, round_channels


@dataclasses.dataclass(frozen=True)
class NFRegNetConfig(NormFreeConfig):
    """Architecture of an NF-RegNet. The defaults are timm's ``nf_regnet_b0``.

    Attributes:
        widths: output channels per stage before ``width_factor``.
        width_factor: multiplies all widths.
        width_divisor: the scaled widths are rounded to a multiple of this; 1 truncates them.
        expansion: inner width of a block, divided by its input width; 1 in the first block.
        group_width: channels per group of the 3x3 convolutions; inner widths are truncated to a
            multiple of this, as published.

    The other fields are those of :class:`~nf_zoo.models.norm_free_config.NormFreeConfig`.
    """

    depths: tuple[int, ...] = (1, 3, 6, 6)
    widths: tuple[int, ...] = (48, 104, 208, 440)
    activation: str = "silu"
    attention: Literal["se", "eca"] | None = "se"
    width_factor: float = 0.75
    width_divisor: int = 8
    expansion: float = 2.25
    group_width: int = 8

    def __post_init__(self):
        super().__post_init__()
        if min(self.scaled_widths) < self.group_width:
            self._refuse("group_width", f"at most {min(self.scaled_widths)} here")

    @property
    def scaled_widths(self) -> tuple[int, ...]:
        """Output channels per stage."""
        return tuple(
            round_channels(width * self.width_factor, self.width_divisor) for width in self.widths
        )

    @property
    def features(self) -> int:
        """Channels of the pooled features: 1280 per 440 of the last width, as in EfficientNet."""
        if self.width_divisor == 1:
            return 1280 * self.scaled_widths[-1] // 440
        full = 1280 * self.widths[-1] // 440
        return round_channels(full * self.width_factor, self.width_divisor)


PAPER = {**norm_free_config.PAPER, "width_divisor": 1}
"""DeepMind's code, with truncated widths: ``variant="paper"``."""

_B = {
    0: ((1, 3, 6, 6), (48, 104, 208, 440)),
    1: ((2, 4, 7, 7), (48, 104, 208, 440)),
    2: ((2, 4, 8, 8), (56, 112, 232, 488)),
    3: ((2, 5, 9, 9), (56, 128, 248, 528)),
    4: ((2, 6, 11, 11), (64, 144, 288, 616)),
    5: ((3, 7, 14, 14), (80, 168, 336, 704)),
    6: ((3, 8, 16, 16), (88, 184, 376, 792)),
    7: ((4, 10, 19, 19), (96, 208, 416, 880)),
    8: ((4, 11, 22, 22), (104, 232, 456, 968)),
}

ARCHITECTURES = {
    f"nf_regnet_b{n}": (f"NFRegNetB{n}", {"depths": depths, "widths": widths})
    for n, (depths, widths) in _B.items()
}


def build_trunk(config: NFRegNetConfig, x) -> list:
    """Build the maps of stem and stages, the last activated, from images (N, H, W, C)."""
    from nf_zoo.models.norm_free import convolution, final_map, stack_blocks
    from nf_zoo.models.residual_block import Level

    widths = config.scaled_widths
    x = convolution(config, "stem_conv", widths[0], 3, 2)(x)
    stem = Level("stem", 2, x)

    def inside(index: int, channels: int, filters: int) -> dict:
        expansion = 1.0 if index == 0 else config.expansion
        widened = round_channels(channels * expansion, config.width_divisor)
        groups = widened // config.group_width
        width = groups * config.group_width
        return {"width": width, "groups": groups, "attention_inside": True}

    stages = stack_blocks(config, x, inside, stride=2, widths=widths, first_strides=2)
    stages[-1].tensor = final_map(config, stages[-1].tensor)
    return [stem, *stages]


def parts(config: NFRegNetConfig):
    """Return the layers with weights, and their names in timm's and DeepMind's files."""
    return norm_free_config.parts(config, "NF_RegNet nf_block", "1 2 3", attention="attn")


FAMILY = Family(
    name="nf_regnet",
    config=NFRegNetConfig,
    architectures=ARCHITECTURES,
    build_trunk=build_trunk,
    parts=parts,
    variants={"paper": PAPER},
    form=(*norm_free_config.FORM, "width_divisor"),
    activates_features=True,
    classifier_stddev=0.0,
    variance=norm_free_config.variance,
)
