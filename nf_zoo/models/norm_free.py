"""What the normalizer-free families share: fields of their records, and how blocks are stacked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from nf_zoo.models import trunk
from nf_zoo.models.configuration import Config
from nf_zoo.models.variance import variance_ledger


@dataclasses.dataclass(frozen=True)
class NormFreeConfig(Config):
    """Fields of every normalizer-free architecture. The defaults are timm's.

    Attributes:
        gamma_in: ``"weights"`` or ``"activation"``: where the activation's gamma is multiplied;
            None for networks without gamma.
        alpha: weight of every residual branch.
        rescale: beta is that of the variance ledger; else 1.
        standardize: convolutions have scaled weight standardization; else they are plain, of He's
            initialization. This, ``rescale`` and ``gamma_in=None`` are there to show what each
            part does.
        shortcut: ``"average_pool"`` (2x2 average, then 1x1) or ``"strided"`` (strided 1x1).
        eps, eps_form: of the standardization; see ScaledWSConv2D.
        zero_init_gain: the last gain of every branch starts at 0.
        skip_gain: initial value of a learnable scalar per branch; None for no such scalar.
        attention: None, ``"se"`` or ``"eca"``.
        attention_ratio: hidden width of squeeze-excite over the width it acts on.
        attention_divisor: the hidden width is rounded to a multiple of it, and at least it.

    The others are those of :class:`~nf_zoo.models.configuration.Config`.
    """

    gamma_in: str = "weights"
    alpha: float = 0.2
    rescale: bool = True
    standardize: bool = True
    shortcut: str = "average_pool"
    eps: float = 1e-5
    eps_form: str = "added"
    zero_init_gain: bool = True
    skip_gain: float | None = None
    attention: str | None = None
    attention_ratio: float = 0.5
    attention_divisor: int = 8

    choices = {
        **Config.choices,
        "gamma_in": ("weights", "activation", None),
        "rescale": (True, False),
        "standardize": (True, False),
        "shortcut": ("average_pool", "strided"),
        "eps_form": ("added", "floor"),
        "attention": (None, "se", "eca"),
        "zero_init_gain": (True, False),
    }

    def attention_width(self, channels: int) -> int:
        """Hidden width of squeeze-excite on ``channels``."""
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
"""What DeepMind's networks of all families have where timm's differ."""


def round_channels(width: float, divisor: int) -> int:
    """Truncated with divisor 1; else the nearest multiple, at least one of them."""
    if divisor == 1:
        return int(width)
    return max(divisor, int(width + divisor / 2) // divisor * divisor)


def activation(config: NormFreeConfig, name: str):
    """The network's activation, with its gamma if that does not live in the weights."""
    from nf_zoo import layers

    gamma = None if config.gamma_in == "activation" else 1.0
    return layers.ScaledActivation(config.activation, gamma=gamma, name=name)


def convolution(config: NormFreeConfig, name: str, filters: int, kernel_size: int, strides: int):
    """A standardized convolution outside the blocks.

    With ``gamma_in="weights"`` it carries gamma even where no activation precedes it, as in the
    stem: that is how the weights were published.
    """
    from nf_zoo import layers
    from nf_zoo.models.norm_free_block import fan_in_normal

    if not config.standardize:
        return layers.Conv2D(
            filters, kernel_size, strides=strides, padding=config.padding, name=name
        )
    gamma = 1.0
    if config.gamma_in == "weights":
        gamma = layers.ScaledActivation(config.activation).gamma
    return layers.ScaledWSConv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=config.padding,
        gamma=gamma,
        eps=config.eps,
        eps_form=config.eps_form,
        kernel_initializer=fan_in_normal(),
        name=name,
    )


def final_map(config: NormFreeConfig, x, filters: int):
    """The 1x1 convolution that widens the last map, activated."""
    return activation(config, "final_activation")(
        convolution(config, "final_conv", filters, 1, 1)(x)
    )


@dataclasses.dataclass(frozen=True)
class Branch:
    """The inside of a residual branch.

    Attributes:
        block: key of ``KERNEL_SIZES``.
        width: inner channels.
        groups: of the 3x3 convolutions.
        attention_inside: attention follows the last 3x3 instead of the last convolution.
    """

    block: str
    width: int
    groups: int = 1
    attention_inside: bool = False


def stack_blocks(
    config: NormFreeConfig,
    x,
    branch: Callable[[int, int, int], Branch],
    *,
    stride: int,
    widths: tuple[int, ...] | None = None,
    first_strides: int = 1,
) -> list[trunk.Level]:
    """All residual blocks, each with the beta of the variance ledger.

    Args:
        config: the record.
        x: output of the stem.
        branch: (index of the block, its input channels, its output channels) -> Branch.
        stride, widths, first_strides: as in :func:`nf_zoo.models.trunk.stack_blocks`.

    Returns:
        The output of every stage.
    """
    from nf_zoo.models.norm_free_block import NormFreeBlock

    ledger = variance_ledger(config.depths, config.alpha)

    def own_arguments(index: int, channels: int, filters: int) -> dict[str, Any]:
        inside = branch(index, channels, filters)
        attended = inside.width if inside.attention_inside else filters
        return {
            "width": inside.width,
            "block": inside.block,
            "groups": inside.groups,
            "beta": ledger[index].beta if config.rescale else 1.0,
            "standardize": config.standardize,
            "alpha": config.alpha,
            "gamma_in": config.gamma_in,
            "eps": config.eps,
            "eps_form": config.eps_form,
            "zero_init_gain": config.zero_init_gain,
            "skip_gain": config.skip_gain,
            "attention": config.attention,
            "attention_width": config.attention_width(attended)
            if config.attention == "se"
            else None,
            "attention_inside": inside.attention_inside,
        }

    return trunk.stack_blocks(
        config,
        x,
        NormFreeBlock,
        own_arguments,
        stride=stride,
        widths=widths,
        first_strides=first_strides,
        shortcut=config.shortcut,
    )
