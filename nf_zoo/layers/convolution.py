"""Plain convolution, the base class of both convolutions, and the choice of primitive."""

import contextlib
import contextvars
import math

import keras
from keras import ops

from nf_zoo.layers.channels import checked_channels, require_channels
from nf_zoo.layers.primitives import primitive_of
from nf_zoo.layers.recorded import RecordedLayer

PADDINGS = ("same", "valid", "symmetric", "reflect", "circular")

_GIVEN = contextvars.ContextVar("given_kernels", default=None)


def convolve(
    x,
    kernel,
    strides: int = 1,
    padding: str = "same",
    dilation: int = 1,
    groups: int = 1,
    training: bool = False,
):
    """Convolve NHWC images with the primitive that is fast on the running backend.

    Args:
        x: (N, H, W, C) images.
        kernel: (kh, kw, C / groups, filters).
        strides: step in pixels, the same in both directions.
        padding: ``"same"`` (TensorFlow's: the surplus goes to the bottom and right), ``"valid"``,
            ``"symmetric"`` (PyTorch's: zeros, ``dilation * (k - 1) // 2`` on all sides), or, of
            the same width with the picture's own pixels, ``"reflect"`` (mirrored) or
            ``"circular"`` (from the opposite side).
        dilation: distance between kernel taps, in pixels.
        groups: number of channel groups.
        training: choose for the speed of the gradients too; they are the same up to rounding.

    Returns:
        (N, H', W', filters).

    On TensorFlow, Keras runs grouped convolution through XLA, compiled for every shape; this
    function calls ``tf.nn.conv2d`` itself, with gradients of its own
    (:mod:`nf_zoo.layers.primitives`). A symmetric padding equal to SAME is passed as SAME; any
    other is applied first, because oneDNN does not accept explicit paddings.
    """
    if padding == "symmetric":
        x, padding = _pad_symmetrically(x, kernel.shape[:2], strides, dilation)
    elif padding in ("reflect", "circular"):
        x, padding = _pad_with_pixels(x, kernel.shape[:2], dilation, padding), "valid"
    if keras.backend.backend() == "tensorflow":
        primitive = primitive_of(x, kernel, strides, padding, dilation, groups, training)
        if primitive is not None:
            return primitive(x, kernel)
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
    """Pad with the picture's pixels; to reflect them it must be larger than the border."""
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
            x = ops.take(x, ops.arange(-side, length + side) % length, axis)
    return x


@contextlib.contextmanager
def given_kernels(kernels: dict):
    """Make convolutions use the given kernels instead of their own.

    This serves steps that run a network several times: :meth:`ScaledWSConv2D.effective_kernel` of
    every layer is computed once and differentiated once.

    Args:
        kernels: effective kernels by layer, Conv2D or ScaledWSConv2D; any other layer keeps its
            own. In nested contexts the innermost wins.

    The kernels apply to the current thread only, so replicas do not see each other's. Under
    TensorFlow no gradient reaches a given kernel through a recomputed block
    (``rematerialize=True``): give no kernels to the layers inside one.

    Raises:
        TypeError: if a key is not a convolution of this package.

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
            raise TypeError(
                f"kernels must have convolutions of nf_zoo as keys. Received: {layer!r}"
            )
    token = _GIVEN.set({**(_GIVEN.get() or {}), **kernels})
    try:
        yield
    finally:
        _GIVEN.reset(token)


class LinearLayer(RecordedLayer):
    """Base class of layers with a kernel (..., filters) and a bias (filters,)."""

    def __init__(
        self,
        use_bias: bool = True,
        kernel_initializer="he_normal",
        bias_initializer="zeros",
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def _add_kernel_and_bias(self, shape) -> None:
        # Standardization needs the float32 master weight, so the layer casts, not Keras.
        self.kernel = self.add_weight(
            name="kernel",
            shape=shape,
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            autocast=False,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=shape[-1:], initializer=self.bias_initializer
            )


class Convolution(LinearLayer):
    """Base class of the convolutions: hyperparameters, shape inference and bias."""

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int = 1,
        padding: str = "same",
        dilation: int = 1,
        groups: int = 1,
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
        self.filters, self.strides = int(filters), int(strides)
        pair = isinstance(kernel_size, tuple | list)
        self.kernel_size = tuple(map(int, kernel_size)) if pair else int(kernel_size)
        self.sides = self.kernel_size if pair else (self.kernel_size,) * 2
        self.padding, self.dilation, self.groups = padding, int(dilation), int(groups)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels is None or channels % self.groups:
            raise ValueError(
                f"{self.name}: the input's channels (last axis) must be known and divisible by "
                f"groups={self.groups}. Received: input shape {tuple(input_shape)}"
            )
        require_channels(self, channels, ndim=4)
        self._add_kernel_and_bias((*self.sides, channels // self.groups, self.filters))

    def effective_kernel(self):
        """Return the kernel that the images are convolved with."""
        return self.kernel

    def call(self, x, training=None):
        x = checked_channels(self, x)
        kernel = (_GIVEN.get() or {}).get(self)
        kernel = ops.cast(self.effective_kernel() if kernel is None else kernel, x.dtype)
        x = convolve(
            x, kernel, self.strides, self.padding, self.dilation, self.groups, bool(training)
        )
        if self.bias is None:
            return x
        bias = ops.cast(self.bias, x.dtype)
        # Keras turns ops.add into a BiasAdd, which TensorFlow fuses with the convolution. It fuses
        # a grouped one too, but cannot run that where oneDNN is off (many AMD processors).
        return ops.add(x, bias) if self.groups == 1 else x + bias

    def compute_output_shape(self, input_shape):
        sides = []
        for length, taps in zip(input_shape[1:3], self.sides, strict=True):
            span = self.dilation * (taps - 1)
            lost = {"same": 0, "valid": span}.get(self.padding, span - 2 * (span // 2))
            sides.append(None if length is None else -((lost - length) // self.strides))
        return (input_shape[0], *sides, self.filters)

    def multiply_adds(self, input_shape) -> int:
        """Return the multiply-adds for one picture of ``input_shape`` (N, H, W, C)."""
        _, height, width, _ = self.compute_output_shape(input_shape)
        fan_in = math.prod(self.sides) * input_shape[-1] // self.groups
        return height * width * self.filters * fan_in


@keras.saving.register_keras_serializable("nf_zoo")
class Conv2D(Convolution):
    """Plain convolution with the paddings of :func:`convolve`; NHWC only.

    Args:
        filters: number of output channels.
        kernel_size: side of the square kernel, or its (height, width), in pixels.
        strides: step in pixels.
        padding: ``"same"``, ``"valid"``, ``"symmetric"``, ``"reflect"`` or ``"circular"``.
        dilation: distance between kernel taps.
        groups: number of channel groups.
        use_bias: add a learnable bias.
        kernel_initializer, bias_initializer: any Keras initializer.
        kernel_regularizer: any Keras regularizer, or None.

    Input: (N, H, W, C). Output: (N, H', W', filters).

    Raises:
        ValueError: on an unknown padding, or channels not divisible by ``groups``.

    Example:
        >>> import numpy as np
        >>> Conv2D(8, 3, strides=2, padding="symmetric")(np.zeros((1, 9, 9, 3), "float32")).shape
        TensorShape([1, 5, 5, 8])
    """
