"""Wide ResNet n-k for 32-pixel pictures, in every scheme that the 2020 paper compares.

n layers, width factor k: three stages of (n - 4) / 6 basic blocks, 16k, 32k and 64k channels wide,
at strides 1, 2 and 4. The scheme decides what replaces normalization; the networks are otherwise
the same.

Sources: Zagoruyko & Komodakis, BMVC 2016; De & Smith, NeurIPS 2020, section 4; Brock, De & Smith,
ICLR 2021, for ``"nf"``.
"""

import dataclasses
import math
import re
from typing import Literal

from nf_zoo.models import fixup_resnet, nf_resnet, resnet, skipinit_resnet
from nf_zoo.models.configuration import Config, field_types
from nf_zoo.models.family import Family

SCHEMES: dict[str, tuple[Family, dict]] = {
    "nf": (nf_resnet.FAMILY, {}),
    "bn": (resnet.FAMILY, {"preactivation": True}),
    "skipinit": (skipinit_resnet.FAMILY, {"skip_gain": 0.0}),
    "skipinit_1/sqrt(d)": (skipinit_resnet.FAMILY, {"skip_gain": "1/sqrt(blocks)"}),
    "divide_sqrt2": (skipinit_resnet.FAMILY, {"skip_gain": None, "merge_scale": 1 / math.sqrt(2)}),
    "fixup": (fixup_resnet.FAMILY, {}),
    "none": (skipinit_resnet.FAMILY, {"skip_gain": None}),
}
"""Scheme -> (the family that has its block, the fields it sets in that family's record)."""


@dataclasses.dataclass(frozen=True)
class WideResNetConfig(Config):
    """Architecture of a Wide ResNet.

    Attributes:
        scheme: ``"nf"`` (scaled weight standardization, alpha, beta), ``"bn"`` (pre-activation,
            BatchNorm before every activation), ``"skipinit"`` (a learnable scalar at the end of
            every branch, from 0), ``"skipinit_1/sqrt(d)"`` (from 1 / sqrt(number of blocks)),
            ``"divide_sqrt2"`` ((x + f(x)) / sqrt(2)), ``"fixup"`` or ``"none"`` (x + f(x)).
        alpha: weight of every residual branch, in ``"nf"`` only.
        zero_init_gain: the last gain of every branch starts at 0, in ``"nf"`` only.
        stem_width: channels of the 3x3 stem.
        shortcut: ``"strided"`` (strided 1x1) or ``"average_pool"`` (2x2 average, then 1x1).

    The other fields are those of :class:`~nf_zoo.models.configuration.Config`.
    """

    depths: tuple[int, ...] = (2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256)
    scheme: Literal[tuple(SCHEMES)] = "nf"
    alpha: float = 0.2
    zero_init_gain: bool = True
    stem_width: int = 16
    shortcut: Literal["strided", "average_pool"] = "strided"

    def __post_init__(self):
        super().__post_init__()
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in ("alpha", "zero_init_gain"):
            if self.scheme != "nf" and getattr(self, name) != defaults[name]:
                self._refuse(
                    name,
                    f"left alone with scheme={self.scheme!r}, because scheme='nf' alone has it",
                )


def row_of(name: str) -> tuple[str, dict] | None:
    """Return factory name and fields of ``"wide_resnet<n>_<k>"``, n = 6m + 4; None for others."""
    match = re.fullmatch(r"wide_resnet(\d{1,4})_(\d{1,3})", name)
    if match is None:
        return None
    layers, factor = int(match[1]), int(match[2])
    if layers < 10 or (layers - 4) % 6 or factor < 1:
        near = 6 * max(round((layers - 4) / 6), 1) + 4
        raise ValueError(
            "A Wide ResNet has 6 m + 4 layers, m at least 1, and a width factor of at least 1; "
            f"the nearest is wide_resnet{near}_{max(factor, 1)}. Received: {name!r}"
        )
    widths = tuple(factor * width for width in (16, 32, 64))
    return f"WideResNet{layers}_{factor}", {"depths": ((layers - 4) // 6,) * 3, "widths": widths}


ARCHITECTURES = {
    name: row_of(name)
    for name in (
        "wide_resnet16_1",
        "wide_resnet16_2",
        "wide_resnet16_4",
        "wide_resnet28_10",
        "wide_resnet40_4",
        "wide_resnet100_4",
        "wide_resnet1000_4",
    )
}
"""Architecture name -> (factory name, fields); names with any other 6m + 4 layers work too."""


def delegate(config: WideResNetConfig) -> tuple[Family, Config]:
    """Return the family whose block the scheme uses, and the record in that family's fields."""
    family, own = SCHEMES[config.scheme]
    shared = {
        name: getattr(config, name) for name in field_types(family.config) if hasattr(config, name)
    }
    return family, family.config(**{**shared, "block": "basic", "stem": "3x3", **own})


FAMILY = Family(
    name="wide_resnet",
    config=WideResNetConfig,
    architectures=ARCHITECTURES,
    delegate=delegate,
    row_of=row_of,
)
