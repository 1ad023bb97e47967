"""Scaled weight standardization, and the layers that use it."""

import functools
import math
from collections.abc import Callable

import keras
from keras import ops

from nf_zoo.layers.channels import checked_channels, require_channels
from nf_zoo.layers.convolution import Convolution, LinearLayer
from nf_zoo.layers.gradients import with_own_gradient

EPS_FORMS = ("floor", "added")


def standardize(kernel, gain, gamma: float, eps: float, eps_form: str):
    """Return ``gain * gamma * (kernel - mean) / sqrt(fan_in * var)``; see :class:`ScaledWSConv2D`.

    The kernel is (..., filters), with the fan-in on all axes but the last, the gain (filters,),
    both float32 or float64. On TensorFlow a formula gives the gradient, which is
    less work than going back op by op.
    """
    if keras.backend.backend() == "tensorflow":
        return _on_tensorflow(gamma, eps, eps_form)(kernel, gain)
    fan_in = math.prod(kernel.shape[:-1])
    axes = tuple(range(len(kernel.shape) - 1))
    centered = kernel - ops.mean(kernel, axis=axes, keepdims=True)
    squares = ops.sum(ops.square(centered), axis=axes)
    return centered * (gain * gamma * ops.rsqrt(_with_eps(ops, squares, fan_in, eps, eps_form)))


def _with_eps(namespace, squares, fan_in: int, eps: float, eps_form: str):
    """Return ``fan_in * var``, kept away from zero."""
    return namespace.maximum(squares, eps) if eps_form == "floor" else squares + fan_in * eps


@functools.cache
def _on_tensorflow(gamma: float, eps: float, eps_form: str) -> Callable:
    import tensorflow as tf

    def sums(rows):
        # TensorFlow sums over rows slowly on CPU; on GPU a product may be rounded to TF32.
        if tf.config.list_logical_devices("GPU"):
            return tf.reduce_sum(rows, 0, keepdims=True)
        return tf.matmul(tf.ones((1, rows.shape[0]), rows.dtype), rows)

    def parts(kernel):
        fan_in = math.prod(kernel.shape[:-1])
        rows = tf.reshape(kernel, (fan_in, -1))
        centered = rows - sums(rows) / fan_in
        squares = sums(tf.square(centered))
        return centered, squares, tf.math.rsqrt(_with_eps(tf, squares, fan_in, eps, eps_form))

    def standardized(kernel, gain):
        def gradient(upstream):
            # Recomputed from the arguments, so that the gradient itself can be differentiated.
            centered, squares, inverse = parts(kernel)
            upstream = tf.reshape(upstream, centered.shape)
            along = sums(upstream * centered) * inverse
            back = along * inverse
            if eps_form == "floor":
                back = tf.where(squares >= eps, back, tf.zeros_like(back))
            of_rows = upstream - sums(upstream) / centered.shape[0] - centered * back
            of_rows *= gain * gamma * inverse
            return tf.reshape(of_rows, kernel.shape), tf.reshape(along * gamma, gain.shape)

        centered, _, inverse = parts(kernel)
        return tf.reshape(centered * (gain * gamma * inverse), kernel.shape), gradient

    return with_own_gradient(standardized)


class Standardized:
    """Mixin of the layers whose kernel (..., filters) is standardized with a learnable gain."""

    def _set_standardization(self, gamma: float, eps: float, eps_form: str, gain_initializer):
        if eps_form not in EPS_FORMS:
            raise ValueError(f"eps_form must be one of {EPS_FORMS}. Received: {eps_form!r}")
        self.gamma, self.eps, self.eps_form = float(gamma), float(eps), eps_form
        self.gain_initializer = keras.initializers.get(gain_initializer)

    def _add_gain(self) -> None:
        *inputs, filters = self.kernel.shape
        if math.prod(inputs) < 2:
            raise ValueError(
                "The fan-in must be at least 2: a kernel with one value for each output has no "
                f"deviation to divide by. Received: {self.name!r} with a kernel of shape "
                f"{tuple(self.kernel.shape)}"
            )
        shape = (filters,)
        self.gain = self.add_weight(
            name="gain", shape=shape, initializer=self.gain_initializer, autocast=False
        )

    def effective_kernel(self):
        """Return the standardized kernel, float32 or float64, of the kernel's shape."""
        precision = "float64" if self.compute_dtype == "float64" else "float32"
        kernel, gain = ops.cast(self.kernel, precision), ops.cast(self.gain, precision)
        return standardize(kernel, gain, self.gamma, self.eps, self.eps_form)


@keras.saving.register_keras_serializable("nf_zoo")
class ScaledWSConv2D(Standardized, Convolution):
    """Convolution with Scaled Weight Standardization, computed in float32 or better.

    For every output channel, with mean and population variance over the fan-in axes::

        W^ = gain * gamma * (W - mean(W)) / sqrt(fan_in * var(W))

    Args:
        filters: number of output channels.
        kernel_size: side of the square kernel, or its (height, width), in pixels.
        gamma: constant of the preceding activation (:data:`~nf_zoo.layers.GAMMA`), where the
            network keeps it in the weights; 1.0 where the activation carries it.
        eps: keeps the division finite.
        eps_form: where eps goes; the two published implementations differ. ``"floor"``
            (DeepMind) divides by ``sqrt(max(fan_in * var, eps))``; ``"added"`` (timm) by
            ``sqrt(fan_in * (var + eps))``.
        gain_initializer: initializer of the learnable gain, shape (filters,).
        strides, padding, dilation, groups, use_bias, kernel_initializer, bias_initializer,
            kernel_regularizer: as in :class:`Conv2D`.

    Input: (N, H, W, C). Output: (N, H', W', filters). NHWC only.

    Raises:
        ValueError: on an unknown padding or eps_form, or channels not divisible by ``groups``.

    Source: Brock, De & Smith, ICLR 2021, section 4.

    Example:
        >>> import numpy as np
        >>> layer = ScaledWSConv2D(8, 3, gamma=1.7139588594436646)
        >>> layer(np.zeros((1, 8, 8, 3), "float32")).shape
        TensorShape([1, 8, 8, 8])
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        *,
        gamma: float = 1.0,
        eps: float = 1e-4,
        eps_form: str = "floor",
        gain_initializer="ones",
        **kwargs,
    ):
        super().__init__(filters, kernel_size, **kwargs)
        self._set_standardization(gamma, eps, eps_form, gain_initializer)

    def build(self, input_shape):
        super().build(input_shape)
        self._add_gain()


@keras.saving.register_keras_serializable("nf_zoo")
class ScaledWSDepthwiseConv2D(ScaledWSConv2D):
    """Depthwise convolution with Scaled Weight Standardization: every channel by itself.

    The kernel has the shape of a convolution with one group for each channel,
    (kh, kw, 1, C * depth_multiplier), so the fan-in is the ``kh * kw`` taps. Taps with a mean of
    zero pass on nothing of a constant map, and little of a smooth one.

    Args:
        kernel_size: side of the square kernel, or its (height, width), in pixels.
        depth_multiplier: number of output channels for each input channel.
        **kwargs: the arguments of :class:`ScaledWSConv2D`, without ``filters`` and ``groups``.

    Input: (N, H, W, C). Output: (N, H', W', C * depth_multiplier). NHWC only.

    Raises:
        ValueError: on an unknown padding or eps_form, or a multiplier below 1.

    Source: Brock, De & Smith, ICLR 2021, section 4.

    Example:
        >>> import numpy as np
        >>> layer = ScaledWSDepthwiseConv2D(3, strides=2, depth_multiplier=2)
        >>> layer(np.zeros((1, 8, 8, 3), "float32")).shape
        TensorShape([1, 4, 4, 6])
    """

    def __init__(self, kernel_size: int | tuple[int, int], depth_multiplier: int = 1, **kwargs):
        super().__init__(depth_multiplier, kernel_size, **kwargs)
        self.depth_multiplier = self.filters

    def build(self, input_shape):
        if input_shape[-1] is not None:
            self.groups = input_shape[-1]
            self.filters = self.groups * self.depth_multiplier
        super().build(input_shape)

    def compute_output_shape(self, input_shape):
        filters = input_shape[-1] * self.depth_multiplier
        return (*super().compute_output_shape(input_shape)[:-1], filters)


@keras.saving.register_keras_serializable("nf_zoo")
class ScaledWSDense(Standardized, LinearLayer):
    """Dense layer with Scaled Weight Standardization, computed in float32 or better.

    Args:
        units: number of outputs.
        use_bias: add a learnable bias.
        gamma, eps, eps_form, gain_initializer: as in :class:`ScaledWSConv2D`.
        kernel_initializer, bias_initializer: any Keras initializer.
        kernel_regularizer: any Keras regularizer, or None.

    Input: (N, ..., C). Output: (N, ..., units).

    Raises:
        ValueError: on an unknown eps_form, or units below 1.

    Source: Brock, De & Smith, ICLR 2021, section 4.

    Example:
        >>> import numpy as np
        >>> ScaledWSDense(8, gamma=1.7139588594436646)(np.zeros((2, 5), "float32")).shape
        TensorShape([2, 8])
    """

    def __init__(
        self,
        units: int,
        *,
        gamma: float = 1.0,
        eps: float = 1e-4,
        eps_form: str = "floor",
        gain_initializer="ones",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"units must be positive. Received: {units!r}")
        self.units = int(units)
        self._set_standardization(gamma, eps, eps_form, gain_initializer)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def build(self, input_shape):
        require_channels(self, input_shape[-1])
        self._add_kernel_and_bias((input_shape[-1], self.units))
        self._add_gain()

    def call(self, x):
        x = checked_channels(self, x)
        x = ops.matmul(x, ops.cast(self.effective_kernel(), x.dtype))
        return x if self.bias is None else ops.add(x, ops.cast(self.bias, x.dtype))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)
