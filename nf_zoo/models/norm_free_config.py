"""Fields and names that the normalizer-free families share.

The forward pass is in :mod:`nf_zoo.models.norm_free`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

from nf_zoo.models.configuration import Config
from nf_zoo.models.family import BLOCK, CONVOLUTION, LINEAR, STANDARDIZED, Ledger, Part


@dataclasses.dataclass(frozen=True)
class NormFreeFields:
    """Fields that the stem and every block read.

    Attributes:
        gamma_in: ``"weights"`` (timm) or ``"activation"`` (DeepMind): where the activation's gamma
            is applied; None for networks without gamma.
        alpha: weight of every residual branch.
        standardize: convolutions have scaled weight standardization; else they are plain, with
            He's initialization and no gains. This, ``rescale`` and ``gamma_in=None`` exist to show
            what each part does.
        eps, eps_form: epsilon of the standardization and its place; see ScaledWSConv2D.
        zero_init_gain: the last gain of every branch starts at 0.
        skip_gain: initial value of a learnable scalar per branch; None for no such scalar.
        attention: None, ``"se"`` or ``"eca"``; the gate is doubled.
    """

    gamma_in: Literal["weights", "activation"] | None = "weights"
    alpha: float = 0.2
    standardize: bool = True
    eps: float = 1e-5
    eps_form: Literal["added", "floor"] = "added"
    zero_init_gain: bool = True
    skip_gain: float | None = None
    attention: Literal["se", "eca"] | None = None


@dataclasses.dataclass(frozen=True)
class NormFreeConfig(NormFreeFields, Config):
    """Fields of every normalizer-free architecture. The defaults are timm's.

    Attributes:
        rescale: beta comes from the variance ledger; else it is 1.
        shortcut: ``"average_pool"`` (2x2 average, then 1x1) or ``"strided"`` (strided 1x1).
        attention_ratio: hidden width of squeeze-excite, divided by the width it acts on.
        attention_divisor: the hidden width is rounded to a multiple of this, and is at least this.

    The other fields are those of :class:`NormFreeFields` and of
    :class:`~nf_zoo.models.configuration.Config`.
    """

    rescale: bool = True
    shortcut: Literal["average_pool", "strided"] = "average_pool"
    attention_ratio: float = 0.5
    attention_divisor: int = 8

    @property
    def gamma(self) -> float | None:
        return None if self.gamma_in == "activation" else 1.0

    def attention_width(self, channels: int) -> int:
        """Return the hidden width of squeeze-excite on ``channels``."""
        return round_channels(self.attention_ratio * channels, self.attention_divisor)


PAPER = {
    "gamma_in": "activation",
    "padding": "same",
    "eps": 1e-4,
    "eps_form": "floor",
    "zero_init_gain": False,
    "skip_gain": 0.0,
    "attention_divisor": 1,
    "stochastic_depth_rescale": False,
    "stochastic_depth_last": False,
}
"""Fields in which DeepMind's networks of all families differ from timm's."""

FORM = ("gamma_in", "padding", "eps_form")
"""Fields of ``PAPER`` that no weights make up for."""


def round_channels(width: float, divisor: int) -> int:
    """Truncate with divisor 1; else round to the nearest multiple, at least the divisor."""
    if divisor == 1:
        return int(width)
    return max(divisor, int(width + divisor / 2) // divisor * divisor)


def parts(
    config: NormFreeConfig,
    haiku: str,
    convolutions: str,
    stem: str = "",
    final: bool = True,
    attention: str = "attn_last",
) -> Iterator[Part]:
    """Yield the layers with weights, and their names.

    ``haiku`` names network and block in DeepMind's trees, ``"NFNet nf_block"``. ``convolutions``
    are timm's numbers of those in a block, ``"1 2 2b 3"``, and ``stem`` those of the stem's, ``""``
    for one without a number. ``final`` is for a convolution after the blocks, ``attention`` timm's
    name of squeeze-excite and ECA.
    """
    network, module = haiku.split()
    weights = STANDARDIZED if config.standardize else LINEAR
    timm, root, haiku = "stages.{s}.{b}.", f"{network}/~/", f"{network}/~/{module}{{n}}/"
    if not stem:
        yield Part("stem/conv", weights, "stem.conv", f"{root}initial_conv")
    for i in map(int, stem):
        yield Part(f"stem/conv{i}", weights, f"stem.conv{i}", f"{root}stem_conv{i - 1}")
    for i, number in enumerate(convolutions.split(), start=1):
        theirs = f"{haiku}~/conv{int(number[0]) - 1}{number[1:]}"
        yield Part(f"{BLOCK}conv{i}", weights, f"{timm}conv{number}", theirs)
    shortcut = f"{BLOCK}shortcut_conv", weights, f"{timm}downsample.conv", f"{haiku}~/conv_shortcut"
    yield Part(*shortcut, optional=True)
    if config.attention == "se":
        for name, number, linear in (("reduce", 1, "linear"), ("expand", 2, "linear_1")):
            theirs = f"{haiku}~/squeeze_excite/~/{linear}/{{own}}"
            yield Part(f"{BLOCK}attention/{name}", LINEAR, f"{timm}{attention}.fc{number}", theirs)
    if config.attention == "eca":
        yield Part(f"{BLOCK}attention", CONVOLUTION, f"{timm}{attention}.conv")
    if config.skip_gain is not None:
        theirs = f"{timm}skipinit_{{leaf}}", f"{haiku}skip_{{leaf}}"
        yield Part(f"{BLOCK}skip_gain", ("gain",), *theirs)
    if final:
        yield Part("final_conv", weights, "final_conv", f"{root}final_conv")
    yield Part("head", LINEAR, "head.fc", f"{root}linear/{{own}}")


def variance(config: NormFreeConfig, stem_activations: int = 0) -> Ledger | None:
    """Return the ledger that a network follows at initialization; None if it follows none."""
    if not (config.standardize and config.gamma_in):
        return None
    strength = 0.0 if config.zero_init_gain else 1.0
    if config.skip_gain is not None:
        strength *= config.skip_gain
    return Ledger(config.alpha, strength, config.gamma_in == "weights", stem_activations)
