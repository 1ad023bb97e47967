"""The normalizer-free pre-activation block."""

from __future__ import annotations

import keras

from nf_zoo import layers
from nf_zoo.models.residual_block import KERNEL_SIZES, ResidualBlock


@keras.saving.register_keras_serializable("nf_zoo")
class NormFreeBlock(ResidualBlock):
    """``x + alpha * f(beta * activation(x))``: the normalizer-free pre-activation block.

    Along the branch: (activation, convolution with scaled weight standardization) repeated, then
    attention, stochastic depth, skip gain and alpha. A projection starts from the activated,
    beta-scaled input; an identity shortcut is the raw input.

    Args:
        beta: 1 / sqrt(expected variance of the input).
        alpha: weight of the residual branch.
        activation: a name; ``gamma_in`` says where its gamma lives: ``"activation"``
            (DeepMind), ``"weights"`` (timm) or None (nowhere).
        standardize: convolutions have scaled weight standardization; else they are plain, of He's
            initialization, and have no gains.
        eps, eps_form: of the standardization.
        zero_init_gain: start the last convolution's gain at 0.
        skip_gain: initial value of the learnable scalar at the branch's end; None for none.
        attention: None, ``"se"`` or ``"eca"``; its gate is doubled.
        attention_width: hidden width of squeeze-excite.
        attention_inside: attention follows the last 3x3 convolution instead of the last one.
        **kwargs: those of ResidualBlock.

    Source: Brock, De & Smith, ICLR 2021, section 3.

    Example:
        >>> import numpy as np
        >>> block = NormFreeBlock(64, width=16, strides=2, projection="average_pool")
        >>> block(np.zeros((1, 8, 8, 32), "float32")).shape
        TensorShape([1, 4, 4, 64])
    """

    def __init__(
        self,
        filters: int,
        *,
        beta: float = 1.0,
        alpha: float = 0.2,
        activation: str = "relu",
        gamma_in: str | None = "weights",
        standardize: bool = True,
        eps: float = 1e-5,
        eps_form: str = "added",
        zero_init_gain: bool = False,
        skip_gain: float | None = None,
        attention: str | None = None,
        attention_width: int | None = None,
        attention_inside: bool = False,
        **kwargs,
    ):
        self.beta, self.alpha, self._is_relu = beta, alpha, activation == "relu"
        self._gamma_in, self._zero_init_gain = gamma_in, zero_init_gain
        self._standardize = standardize
        gamma = layers.ScaledActivation(activation).gamma if gamma_in == "weights" else 1.0
        self._standardization = {"gamma": gamma, "eps": eps, "eps_form": eps_form}
        super().__init__(filters, activation=activation, **kwargs)
        self._attended = len(self.convs) - 1
        if attention_inside:
            sizes = KERNEL_SIZES[self.block]
            self._attended = max(i for i, size in enumerate(sizes) if size == 3)
        self.attention = None
        if attention == "se":
            self.attention = layers.SqueezeExcite(
                attention_width, gate_gain=2.0, name="attention", dtype=self.dtype_policy
            )
        elif attention == "eca":
            self.attention = layers.EfficientChannelAttention(
                gate_gain=2.0, name="attention", dtype=self.dtype_policy
            )
        self.skip_gain = None
        if skip_gain is not None:
            self.skip_gain = layers.SkipInit(skip_gain, name="skip_gain", dtype=self.dtype_policy)

    def make_activation(self, activation):
        return self._activation(activation, None if self._gamma_in == "activation" else 1.0)

    def make_convolution(self, index, **arguments):
        if not self._standardize:
            return layers.Conv2D(**arguments)
        zero = self._zero_init_gain and self.is_last(index)
        return layers.ScaledWSConv2D(
            gain_initializer="zeros" if zero else "ones",
            kernel_initializer=fan_in_normal(),
            **self._standardization,
            **arguments,
        )

    def build_branch(self, input_shape):
        super().build_branch(input_shape)
        if self.attention is not None:
            self.attention.build((None, None, None, self.convs[self._attended].filters))
        if self.skip_gain is not None:
            self.skip_gain.build()

    def preactivate(self, x, training=False):
        """``activation(x) * beta``, the input of branch and projection."""
        if self._is_relu:
            # The same but for rounding; training keeps one map for the way back instead of two.
            return self.activation(x * self.beta)
        return self.activation(x) * self.beta

    def branch(self, activated, training=False):
        """The residual branch from the activated input to its last convolution or attention."""
        x = activated
        for index, conv in enumerate(self.convs):
            x = conv(self.activation(x) if index else x)
            if self.attention is not None and index == self._attended:
                x = self.attention(x)
        return x

    def merge(self, residual, skip):
        """Skip gain (if any) and alpha on the branch, added to the shortcut."""
        if self.skip_gain is not None:
            residual = self.skip_gain(residual)
        return residual * self.alpha + skip

    def multiply_adds(self, input_shape) -> int:
        """Multiply-adds of convolutions and squeeze-excite for one picture of ``input_shape``."""
        total = super().multiply_adds(input_shape)
        if isinstance(self.attention, layers.SqueezeExcite):
            total += 2 * self.convs[self._attended].filters * self.attention.hidden
        return total


def fan_in_normal():
    """N(0, 1 / fan_in): what standardization assumes before it acts."""
    return keras.initializers.VarianceScaling(1.0, "fan_in", "untruncated_normal")
