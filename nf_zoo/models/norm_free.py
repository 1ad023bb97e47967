"""The forward pass of the normalizer-free families: convolutions, block, and betas.

x_{l+1} = x_l + alpha * f_l(x_l * beta_l), with f_l variance preserving, adds alpha^2 to the
variance; beta_l = 1 / sqrt(Var(x_l)). The first block of a stage projects its shortcut from the
down-scaled input, which resets the variance to 1 before that block's own growth.

Source: Brock, De & Smith, ICLR 2021, section 3.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from nf_zoo import layers
from nf_zoo.models import residual_block
from nf_zoo.models.norm_free_config import NormFreeConfig, NormFreeFields
from nf_zoo.models.residual_block import Level, ResidualBlock


def convolution(config: NormFreeConfig, name: str, filters: int, kernel_size: int, strides: int):
    """Standardized convolution outside the blocks.

    With ``gamma_in="weights"`` it carries gamma even where no activation precedes it, as in the
    stem; the weights were published that way.
    """
    return _convolution(
        config,
        config.activation,
        filters=filters,
        kernel_size=kernel_size,
        strides=strides,
        padding=config.padding,
        name=name,
    )


def _convolution(fields: NormFreeFields, activation: str, zero_gain: bool = False, **arguments):
    if not fields.standardize:
        return layers.Conv2D(**arguments)
    return layers.ScaledWSConv2D(
        gamma=layers.ScaledActivation(activation).gamma if fields.gamma_in == "weights" else 1.0,
        eps=fields.eps,
        eps_form=fields.eps_form,
        gain_initializer="zeros" if zero_gain else "ones",
        # The distribution that standardization assumes: N(0, 1 / fan_in).
        kernel_initializer=keras.initializers.VarianceScaling(1.0, "fan_in", "untruncated_normal"),
        **arguments,
    )


@keras.saving.register_keras_serializable("nf_zoo")
class NormFreeBlock(ResidualBlock):
    """``x + alpha * f(beta * activation(x))``: the normalizer-free pre-activation block.

    Along the branch: (activation, convolution with scaled weight standardization) repeated, then
    attention, stochastic depth, skip gain and alpha. A projection starts from the activated,
    beta-scaled input; an identity shortcut is the raw input. ``attention_width`` is the hidden
    width of squeeze-excite; ``attention_inside`` puts attention after the last 3x3 convolution
    instead of the last one. ``kwargs`` hold the fields of NormFreeFields too.

    Source: Brock, De & Smith, ICLR 2021, section 3.
    """

    fields = tuple(field.name for field in dataclasses.fields(NormFreeFields))

    def __init__(
        self,
        filters: int,
        *,
        beta: float = 1.0,
        attention_width: int | None = None,
        attention_inside: bool = False,
        **kwargs,
    ):
        given = {name: kwargs.pop(name) for name in self.fields if name in kwargs}
        self.beta, self.record = beta, NormFreeFields(**given)
        super().__init__(filters, **kwargs)
        self._is_relu = self.activation.activation == "relu"
        self.attended = self.last_spatial if attention_inside else len(self.convs) - 1
        policy = self.dtype_policy
        if self.record.attention == "se":
            self.attention = layers.SqueezeExcite(
                attention_width, gate_gain=2.0, name="attention", dtype=policy
            )
        elif self.record.attention == "eca":
            self.attention = layers.EfficientChannelAttention(
                gate_gain=2.0, name="attention", dtype=policy
            )
        if self.record.skip_gain is not None:
            self.skip_gain = layers.SkipInit(self.record.skip_gain, name="skip_gain", dtype=policy)

    @property
    def alpha(self) -> float:
        """Weight of the branch."""
        return self.record.alpha

    def make_activation(self, activation):
        gamma = None if self.record.gamma_in == "activation" else 1.0
        return super().make_activation(activation, gamma)

    def make_convolution(self, index, **arguments):
        zero_gain = self.record.zero_init_gain and self.is_last(index)
        return _convolution(self.record, self.activation.activation, zero_gain, **arguments)

    def preactivate(self, x, training=False):
        """Return ``activation(x) * beta``, the input of branch and projection."""
        if self._is_relu:
            # The same up to rounding; training keeps one map for the backward pass, not two.
            return self.activation(x * self.beta)
        return self.activation(x) * self.beta

    def merge(self, residual, skip):
        """Scale the branch by skip gain (if any) and alpha, and add the shortcut."""
        if self.skip_gain is not None:
            residual = self.skip_gain(residual)
        return residual * self.alpha + skip


def stack_blocks(
    config: NormFreeConfig, x, inside: Callable[[int, int, int], dict[str, Any]], **arguments
) -> list[Level]:
    """Stack all residual blocks, each with the beta of the variance ledger.

    ``inside`` gives the arguments of a block's branch, ``width`` and any others that differ from
    the defaults, for (index, input channels, output channels).
    """
    ledger = variance_ledger(config.depths, config.alpha)

    def own_arguments(index: int, channels: int, filters: int) -> dict[str, Any]:
        own = inside(index, channels, filters)
        attended = own["width"] if own.get("attention_inside") else filters
        return {
            **own,
            "beta": ledger[index].beta if config.rescale else 1.0,
            "attention_width": config.attention_width(attended)
            if config.attention == "se"
            else None,
        }

    return residual_block.stack_blocks(config, x, NormFreeBlock, own_arguments, **arguments)


def final_map(config: NormFreeConfig, x):
    """Widen the last map with a 1x1 convolution and activate it."""
    x = convolution(config, "final_conv", config.features, 1, 1)(x)
    return config.activation_layer("final_activation")(x)


@dataclasses.dataclass(frozen=True)
class BlockVariance:
    """Expected variance around one residual block at initialization."""

    stage: int  # 1-based stage
    block: int  # 1-based position in the stage
    before: float  # variance of the block's input
    after: float  # variance of its output, the branch counted at full strength

    @property
    def beta(self) -> float:
        """Factor on the block's input: 1 / sqrt(before)."""
        return 1.0 / math.sqrt(self.before)


def variance_ledger(depths: Sequence[int], alpha: float = 0.2) -> list[BlockVariance]:
    """Return the expected variance before and after every block, in depth order.

    Source: Brock, De & Smith, ICLR 2021, section 3.
    """
    rows = []
    variance = 1.0
    for stage, depth in enumerate(depths, start=1):
        for block in range(1, depth + 1):
            before = variance
            # A transition resets the expected variance, then adds one block of growth.
            variance = (1.0 if block == 1 else before) + alpha**2
            rows.append(BlockVariance(stage, block, before, variance))
    return rows
