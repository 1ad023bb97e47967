"""Plain convolution, what it shares with the standardized one, and the choice of primitive."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable

import keras
from keras import ops

from nf_zoo.layers.channels import checked_channels, require_channels
from nf_zoo.layers.gradients import with_own_gradient
from nf_zoo.layers.recorded import RecordedLayer

PADDINGS = ("same", "valid", "symmetric", "reflect", "circular")

_GIVEN = contextvars.ContextVar("given_kernels", default=None)


def convolve(x, kernel, strides: int = 1, padding: str = "same", dilation: int = 1, groups=1):
    """2-D convolution of NHWC images, by the primitive that is fast on the running backend.

    Args:
        x: (N, H, W, C) images.
        kernel: (kh, kw, C / groups, filters).
        strides: step in pixels, the same in both directions.
        padding: ``"same"`` (TensorFlow's: the surplus goes to the bottom and right), ``"valid"``,
            ``"symmetric"`` (PyTorch's: zeros, ``dilation * (k - 1) // 2`` on all sides), or as
            wide with the picture's own pixels: ``"reflect"`` (mirrored) or ``"circular"`` (from
            the opposite side).
        dilation: distance between kernel taps, in pixels.
        groups: number of groups that the channels are split into.

    Returns:
        (N, H', W', filters).

    On TensorFlow, Keras runs grouped convolution through XLA, compiled for every shape; this
    calls ``tf.nn.conv2d`` itself. A symmetric padding that equals SAME is given as SAME, any
    other is padded first: oneDNN does not take explicit paddings.
    """
    if padding == "symmetric":
        x, padding = _pad_symmetrically(x, kernel.shape[:2], strides, dilation)
    elif padding in ("reflect", "circular"):
        x, padding = _pad_with_pixels(x, kernel.shape[:2], dilation, padding), "valid"
    if keras.backend.backend() == "tensorflow" and groups > 1:
        return _grouped_on_tensorflow(strides, padding.upper(), dilation, groups)(x, kernel)
    return ops.conv(
        x,
        kernel,
        strides=strides,
        padding=padding,
        dilation_rate=dilation,
        data_format="channels_last",
    )


def _pad_symmetrically(x, kernel_size, strides: int, dilation: int):
    sides = [dilation * (size - 1) // 2 for size in kernel_size]
    if not any(sides):
        return x, "valid"
    if strides == 1 and all(size % 2 for size in kernel_size):
        return x, "same"
    return ops.pad(x, [[0, 0], [sides[0]] * 2, [sides[1]] * 2, [0, 0]]), "valid"


def _pad_with_pixels(x, kernel_size, dilation: int, mode: str):
    """Border pixels from inside the picture, which must be larger than the border."""
    for axis, size in enumerate(kernel_size, start=1):
        side = dilation * (size - 1) // 2
        if not side:
            continue
        if mode == "reflect":
            widths = [[0, 0] for _ in range(4)]
            widths[axis] = [side, side]
            x = ops.pad(x, widths, mode="reflect")
        else:
            length = ops.shape(x)[axis]
            before = ops.take(x, ops.arange(length - side, length), axis)
            x = ops.concatenate([before, x, ops.take(x, ops.arange(side), axis)], axis)
    return x


@functools.cache
def _grouped_on_tensorflow(strides, padding, dilation, groups) -> Callable:
    """Native forward pass; TensorFlow has no portable grouped gradient on CPU, so it is split."""
    import tensorflow as tf

    def native(x, kernel):
        return tf.nn.conv2d(x, kernel, strides, padding, dilations=dilation)

    def split(x, kernel):
        parts = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
        return tf.concat([_dilated(a, b, strides, padding, dilation) for a, b in parts], -1)

    if tf.config.list_logical_devices("GPU"):
        return native
    if dilation > 1:
        return split

    def convolution(x, kernel):
        def gradient(upstream):
            with tf.GradientTape() as tape:
                tape.watch([x, kernel])
                y = split(x, kernel)
            return tape.gradient(y, [x, kernel], upstream)

        return native(x, kernel), gradient

    return with_own_gradient(convolution)


def _dilated(x, kernel, strides, padding, dilation):
    return ops.conv(x, kernel, strides, padding.lower(), "channels_last", dilation)


@contextlib.contextmanager
def given_kernels(kernels: dict):
    """Within it, convolutions take the kernels given instead of their own.

    For steps that run a network several times: :meth:`ScaledWSConv2D.effective_kernel` of every
    layer is then computed once, and once differentiated.

    Args:
        kernels: effective kernels by layer, Conv2D or ScaledWSConv2D; a layer that is not among
            them goes on with its own. Nested, the innermost counts.

    It holds in the running thread alone, so that replicas do not see one another's. Under
    TensorFlow the gradient with respect to a kernel given does not pass a block that is recomputed
    (``rematerialize=True``): give none to the layers in there.

    Raises:
        TypeError: on a key that is not a convolution of this package.

    Example:
        >>> import numpy as np
        >>> from nf_zoo.layers import ScaledWSConv2D, given_kernels
        >>> layer = ScaledWSConv2D(8, 3)
        >>> x = np.ones((1, 4, 4, 3), "float32")
        >>> y, kernel = layer(x), layer.effective_kernel()
        >>> with given_kernels({layer: 2.0 * kernel}):
        ...     print(np.allclose(layer(x), 2.0 * y))
        True
    """
    for layer in kernels:
        if not isinstance(layer, Convolution):
            raise TypeError(f"Kernels are given to convolutions of nf_zoo. Received: {layer!r}")
    token = _GIVEN.set({**(_GIVEN.get() or {}), **kernels})
    try:
        yield
    finally:
        _GIVEN.reset(token)


class Convolution(RecordedLayer):
    """Hyperparameters, shape inference and bias shared by the convolutions here."""

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        padding: str = "same",
        dilation: int = 1,
        groups: int = 1,
        use_bias: bool = True,
        kernel_initializer="he_normal",
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if padding not in PADDINGS:
            raise ValueError(f"padding must be one of {PADDINGS}. Received: {padding!r}")
        if filters <= 0 or filters % groups:
            raise ValueError(
                "filters must be positive and divisible by groups. "
                f"Received: filters={filters}, groups={groups}"
            )
        self.filters, self.kernel_size, self.strides = int(filters), int(kernel_size), int(strides)
        self.padding, self.dilation, self.groups = padding, int(dilation), int(groups)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels is None or channels % self.groups:
            raise ValueError(
                f"{self.name}: the input's channels (last axis) must be known and divisible by "
                f"groups={self.groups}. Received: input shape {tuple(input_shape)}"
            )
        require_channels(self, channels, ndim=4)
        shape = (self.kernel_size, self.kernel_size, channels // self.groups, self.filters)
        # Standardization needs the float32 master weight, so the layer casts, not Keras.
        self.kernel = self.add_weight(
            name="kernel", shape=shape, initializer=self.kernel_initializer, autocast=False
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(self.filters,), initializer=self.bias_initializer
            )

    def effective_kernel(self):
        """The kernel that the images are convolved with."""
        return self.kernel

    def call(self, x):
        x = checked_channels(self, x)
        kernel = (_GIVEN.get() or {}).get(self)
        kernel = ops.cast(self.effective_kernel() if kernel is None else kernel, x.dtype)
        x = convolve(x, kernel, self.strides, self.padding, self.dilation, self.groups)
        if self.bias is None:
            return x
        bias = ops.cast(self.bias, x.dtype)
        # Keras makes ops.add a BiasAdd, which TensorFlow fuses with the convolution; that of groups
        # it fuses too, and cannot run it where oneDNN is off (many AMD processors).
        return ops.add(x, bias) if self.groups == 1 else x + bias

    def compute_output_shape(self, input_shape):
        span = self.dilation * (self.kernel_size - 1)
        lost = {"same": 0, "valid": span}.get(self.padding, span - 2 * (span // 2))
        sides = (None if n is None else -((lost - n) // self.strides) for n in input_shape[1:3])
        return (input_shape[0], *sides, self.filters)

    def multiply_adds(self, input_shape) -> int:
        """Multiply-adds for one picture of ``input_shape`` (N, H, W, C)."""
        _, height, width, _ = self.compute_output_shape(input_shape)
        fan_in = self.kernel_size**2 * input_shape[-1] // self.groups
        return height * width * self.filters * fan_in


@keras.saving.register_keras_serializable("nf_zoo")
class Conv2D(Convolution):
    """Plain convolution with the paddings of :func:`convolve`; NHWC only.

    Args:
        filters: number of output channels.
        kernel_size: side of the square kernel, in pixels.
        strides: step in pixels.
        padding: ``"same"``, ``"valid"``, ``"symmetric"``, ``"reflect"`` or ``"circular"``.
        dilation: distance between kernel taps.
        groups: number of channel groups.
        use_bias: add a learnable bias.
        kernel_initializer: any Keras initializer.
        bias_initializer: any Keras initializer.

    Input: (N, H, W, C). Output: (N, H', W', filters).

    Raises:
        ValueError: on an unknown padding or channels that groups do not divide.

    Example:
        >>> import numpy as np
        >>> Conv2D(8, 3, strides=2, padding="symmetric")(np.zeros((1, 9, 9, 3), "float32")).shape
        TensorShape([1, 5, 5, 8])
    """
