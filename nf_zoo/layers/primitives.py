"""The operations that convolve under TensorFlow, and those of the gradients on a CPU.

TensorFlow has no portable gradient of a grouped convolution on a CPU. oneDNN's gradient to a kernel
is slow for maps of few pixels, and in bfloat16 for larger ones too. Where oneDNN is off, as by
default on a processor with AVX2 alone, TensorFlow's own gradient to the input is slow, the more so
the smaller the map. All forms are exact up to rounding;
``benchmarks.training_forms`` compares them with TensorFlow's gradients in whole networks.
"""

import functools
import itertools
from collections.abc import Callable

from keras import ops

from nf_zoo.layers.gradients import with_own_gradient

NARROW = 16
"""Channels of a group up to which the gradients go over all groups at once."""

FEW_PIXELS = 2048
"""Pixels of a batch up to which one grouped convolution gives the gradient to a grouped kernel."""

USUAL_BATCH = 32
"""Pictures in a batch of unknown size."""


def primitive_of(x, kernel, strides, padding, dilation, groups, training) -> Callable | None:
    """Return the function of (x, kernel) that convolves fastest; None stands for Keras's.

    For inference a convolution without groups stays one plain operation. In training the gradients
    of a kernel of one tap are matrix products. So are those of a result that is up to 4 pixels
    wide, and a convolution of a map of up to four pixels is one product. In bfloat16 a result with
    64 channels for each pixel of its width has matrix products too; in other precisions products
    are taken from 2 pictures on, and the one product of several pixels from 8. Without oneDNN the
    gradient to an input of up to 16 pixels a side is a convolution with the turned kernel, from 2
    pictures on.
    """
    padding = padding.upper()
    if groups > 1 and kernel.shape[2] == 1 and 1 in (strides, dilation):
        grouped = _has_onednn() and not _on_gpu() and dilation == 1
        return _depthwise(strides, padding, dilation, grouped)
    if groups > 1:
        return _grouped(strides, padding, dilation, groups)
    if not training or dilation > 1 or None in x.shape[1:3] or _on_gpu():
        return None
    if tuple(kernel.shape[:2]) == (1, 1):
        return _with_own_gradients(strides, padding) if strides == 1 else None
    half, pictures = x.dtype == "bfloat16", x.shape[0] or USUAL_BATCH
    pixels = x.shape[1] * x.shape[2]
    if pixels == 1 or (pixels <= 4 and (half or pictures >= 8)):
        return functools.partial(_as_one_product, strides=strides, padding=padding)
    if not half and pictures == 1:
        return None
    side = -(-max(x.shape[1:3]) // strides)
    products = side <= (max(4, min(kernel.shape[2:]) // 64) if half else 4)
    turned = side <= 16 and not _has_onednn()
    if products or turned:
        return _with_own_gradients(strides, padding, turned, products)
    return None


@functools.cache
def _on_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))


@functools.cache
def _has_onednn() -> bool:
    """Return whether TensorFlow convolves by oneDNN; it says so in a private module only."""
    try:
        from tensorflow.python.util._pywrap_util_port import IsMklEnabled
    except ImportError:
        return True
    return IsMklEnabled()


def _border(size: int, taps: int, strides: int, padding: str) -> tuple[int, int]:
    """Return the pixels before the map and the length of the result, along one axis."""
    if padding == "VALID":
        return 0, (size - taps) // strides + 1
    length = -(-size // strides)
    return max((length - 1) * strides + taps - size, 0) // 2, length


def _fitted(x, starts, lengths):
    """Return rows and columns ``start`` to ``start + length`` of the maps, with zeros outside."""
    import tensorflow as tf

    widths, slices = [], []
    for start, length, size in zip(starts, lengths, x.shape[1:3], strict=True):
        widths.append((max(-start, 0), max(start + length - size, 0)))
        slices.append(slice(max(start, 0), max(min(start + length, size), 0)))
    x = x[:, slices[0], slices[1]]
    return tf.pad(x, [(0, 0), *widths, (0, 0)]) if any(map(any, widths)) else x


# --- without groups ---


def _as_one_product(x, kernel, strides, padding):
    """Multiply whole pictures with one matrix, (H * W * C, H' * W' * filters).

    Zeros around a map of 2 x 2 pixels are more than half of what a kernel of 3 x 3 meets there.
    """
    import tensorflow as tf

    taps = [tf.unstack(row) for row in tf.unstack(kernel)]
    (top, height), (left, width) = (
        _border(size, n, strides, padding)
        for size, n in zip(x.shape[1:3], kernel.shape[:2], strict=True)
    )

    def tap(y, x, row, column):
        i, j = y - strides * row + top, x - strides * column + left
        inside = 0 <= i < len(taps) and 0 <= j < len(taps[0])
        return taps[i][j] if inside else tf.zeros_like(taps[0][0])

    places = [(row, column) for row in range(height) for column in range(width)]
    matrix = [
        tf.concat([tap(y, x_, *place) for place in places], 1)
        for y in range(x.shape[1])
        for x_ in range(x.shape[2])
    ]
    x = tf.reshape(x, (-1, len(matrix) * x.shape[-1]))
    return tf.reshape(x @ tf.concat(matrix, 0), (-1, height, width, kernel.shape[-1]))


@functools.cache
def _with_own_gradients(strides, padding, turned=False, products=True) -> Callable:
    """Return a convolution with gradients of other forms than TensorFlow's.

    That to the input is a convolution with the ``turned`` kernel, that to the kernel matrix
    ``products``, one for each tap.
    """
    import tensorflow as tf

    own = {"strides": (1, strides, strides, 1), "padding": padding}

    def convolution(x, kernel):
        def gradient(upstream):
            return of_x(x, kernel, upstream), of_kernel(x, kernel, upstream)

        return tf.nn.conv2d(x, kernel, strides, padding), gradient

    def of_x(x, kernel, upstream):
        if tuple(kernel.shape[:2]) == (1, 1) and strides == 1:
            product = tf.matmul(_rows(upstream), kernel[0, 0], transpose_b=True)
            return tf.reshape(product, tf.shape(x))
        if turned:
            return _to_input(x, kernel, upstream, strides, padding)
        sizes = tf.shape(x)
        return tf.raw_ops.Conv2DBackpropInput(
            input_sizes=sizes, filter=kernel, out_backprop=upstream, **own
        )

    def of_kernel(x, kernel, upstream):
        if not products:
            sizes = kernel.shape
            return tf.raw_ops.Conv2DBackpropFilter(
                input=x, filter_sizes=sizes, out_backprop=upstream, **own
            )
        starts, lengths = [], []
        for size, taps in zip(x.shape[1:3], kernel.shape[:2], strict=True):
            before, length = _border(size, taps, strides, padding)
            starts.append(-before)
            lengths.append((length - 1) * strides + taps)
        x, upstream = _fitted(x, starts, lengths), _rows(upstream)
        height, width = (n - taps + 1 for n, taps in zip(lengths, kernel.shape[:2], strict=True))
        by_tap = [
            tf.matmul(
                _rows(x[:, i : i + height : strides, j : j + width : strides]),
                upstream,
                transpose_a=True,
            )
            for i in range(kernel.shape[0])
            for j in range(kernel.shape[1])
        ]
        return tf.reshape(tf.stack(by_tap), kernel.shape)

    return with_own_gradient(convolution)


def _rows(x):
    return ops.reshape(x, (-1, x.shape[-1]))


# --- groups ---


@functools.cache
def _depthwise(strides, padding, dilation, grouped: bool) -> Callable:
    """Return a convolution of every channel by itself, with a kernel (kh, kw, 1, filters).

    On a CPU oneDNN's ``grouped`` convolution is the fastest, but not its gradients. TensorFlow's
    own, where oneDNN is off, is much slower than the depthwise operation.
    """
    import tensorflow as tf

    steps = (1, strides, strides, 1)

    def by_channel(kernel, x):
        return tf.reshape(kernel, (*kernel.shape[:2], x.shape[-1], -1))

    if not grouped:
        own = {"strides": steps, "padding": padding, "dilations": (dilation, dilation)}
        return lambda x, kernel: tf.nn.depthwise_conv2d(x, by_channel(kernel, x), **own)

    def convolution(x, kernel):
        def gradient(upstream):
            taps = by_channel(kernel, x)
            own = {"out_backprop": upstream, "strides": steps, "padding": padding}
            of_x = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tf.shape(x), filter=taps, **own
            )
            of_taps = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
                input=x, filter_sizes=tf.shape(taps), **own
            )
            return of_x, tf.reshape(of_taps, kernel.shape)

        return tf.nn.conv2d(x, kernel, strides, padding), gradient

    return with_own_gradient(convolution)


@functools.cache
def _grouped(strides, padding, dilation, groups, inside: bool = False) -> Callable:
    """Return a grouped convolution; one operation, except dilated on a CPU.

    ``inside`` a gradient, its own gradient goes group by group: TensorFlow cannot load a SavedModel
    in which two gradients need each other.
    """
    import tensorflow as tf

    def native(x, kernel):
        return tf.nn.conv2d(x, kernel, strides, padding, dilations=dilation)

    def split(x, kernel):
        parts = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
        convolved = [tf.nn.convolution(*part, strides, padding, None, dilation) for part in parts]
        return tf.concat(convolved, -1)

    if _on_gpu() or groups == 1:
        return native
    if dilation > 1:
        return split

    def convolution(x, kernel):
        def gradient(upstream):
            known = None not in (*x.shape[1:], *kernel.shape)
            if known and not inside and max(kernel.shape[2], kernel.shape[3] // groups) <= NARROW:
                arguments = (x, kernel, upstream, strides, padding, groups)
                return _to_input(*arguments), _to_grouped_kernel(*arguments)
            with tf.GradientTape() as tape:
                tape.watch([x, kernel])
                y = split(x, kernel)
            return tape.gradient(y, [x, kernel], upstream)

        return native(x, kernel), gradient

    return with_own_gradient(convolution)


def _to_input(x, kernel, upstream, strides, padding, groups=1):
    """Return the gradient to x: a convolution of ``upstream`` with the turned kernel.

    With strides s it has s * s times the channels, one set for each of the s * s places that a
    pixel can have between two steps.
    """
    import tensorflow as tf

    *taps, fan, filters = kernel.shape
    filters //= groups
    borders = [_border(n, k, strides, padding)[0] for n, k in zip(x.shape[1:3], taps, strict=True)]
    steps = [-(-k // strides) for k in taps]
    kernel = _turned(kernel, steps, strides, groups)
    if strides == 1 and padding == "SAME" and all(k % 2 for k in taps):
        return _grouped(1, "SAME", 1, groups, inside=True)(upstream, kernel)
    lengths = [-(-(b + n) // strides) for b, n in zip(borders, x.shape[1:3], strict=True)]
    padded = [length + k - 1 for length, k in zip(lengths, steps, strict=True)]
    upstream = _fitted(upstream, [1 - k for k in steps], padded)
    y = _grouped(1, "VALID", 1, groups, inside=True)(upstream, kernel)
    if strides > 1:
        y = tf.reshape(y, (-1, *lengths, groups, strides, strides, fan))
        y = tf.transpose(y, (0, 1, 4, 2, 5, 3, 6))
        y = tf.reshape(y, (-1, *(strides * n for n in lengths), groups * fan))
    return _fitted(y, borders, x.shape[1:3])


def _turned(kernel, steps, strides, groups):
    """Return the kernel of :func:`_to_input`, (*steps, filters of a group, channels).

    It is turned tap by tap: one transposition of everything is slower than the convolution.
    """
    import tensorflow as tf

    shape = (kernel.shape[2], groups, kernel.shape[3] // groups)
    taps = [tf.unstack(row) for row in tf.unstack(kernel)]
    nothing = tf.zeros(shape[::-1], kernel.dtype)

    def tap(row, column):
        if row >= len(taps) or column >= len(taps[0]):
            return nothing
        return tf.transpose(tf.reshape(taps[row][column], shape), (2, 1, 0))

    places = list(itertools.product(range(strides), repeat=2))
    turned = [
        tf.stack([tap(row * strides + i, column * strides + j) for i, j in places], axis=2)
        for row, column in itertools.product(*(range(n)[::-1] for n in steps))
    ]
    return tf.reshape(tf.stack(turned), (*steps, shape[2], -1))


def _to_grouped_kernel(x, kernel, upstream, strides, padding, groups):
    """Return the gradient to the kernel by the form that is fast for the number of pixels."""
    import tensorflow as tf

    pictures = x.shape[0] or USUAL_BATCH
    if pictures * upstream.shape[1] * upstream.shape[2] <= FEW_PIXELS:
        return _pictures_as_channels(x, kernel, upstream, strides, padding, groups)
    *taps, fan, filters = kernel.shape
    filters //= groups
    packed = max(1, NARROW // max(fan, filters))
    sizes = [min(packed, groups - first) for first in range(0, groups, packed)]
    parts = []
    for a, b, size in zip(
        tf.split(x, [size * fan for size in sizes], -1),
        tf.split(upstream, [size * filters for size in sizes], -1),
        sizes,
        strict=True,
    ):
        dense = tf.raw_ops.Conv2DBackpropFilter(
            input=a,
            filter_sizes=(*taps, size * fan, size * filters),
            out_backprop=b,
            strides=(1, strides, strides, 1),
            padding=padding,
        )
        dense = tf.reshape(dense, (*taps, size, fan, size, filters))
        parts += [dense[:, :, i, :, i] for i in range(size)]
    return tf.concat(parts, -1)


def _pictures_as_channels(x, kernel, upstream, strides, padding, groups):
    """Return the gradient to the kernel as one grouped convolution.

    The pictures are the channels of a group, ``upstream`` is the kernel, and the channels of a
    group of x are the pictures: with strides s, one for each of the s * s places of a pixel.
    """
    import tensorflow as tf

    *taps, fan, filters = kernel.shape
    steps = [-(-k // strides) for k in taps]
    lengths = [n - 1 + k for n, k in zip(upstream.shape[1:3], steps, strict=True)]
    borders = [_border(n, k, strides, padding)[0] for n, k in zip(x.shape[1:3], taps, strict=True)]
    x = _fitted(x, [-border for border in borders], [strides * n for n in lengths])
    x = tf.reshape(x, (-1, lengths[0], strides, lengths[1], strides, groups, fan))
    x = tf.transpose(x, (2, 4, 6, 1, 3, 5, 0))
    x = tf.reshape(x, (strides**2 * fan, *lengths, groups * tf.shape(upstream)[0]))
    y = _grouped(1, "VALID", 1, groups, inside=True)(x, tf.transpose(upstream, (1, 2, 0, 3)))
    y = tf.reshape(y, (strides, strides, fan, *steps, filters))
    y = tf.transpose(y, (3, 0, 4, 1, 2, 5))
    y = tf.reshape(y, (steps[0] * strides, steps[1] * strides, fan, filters))
    return y[: taps[0], : taps[1]]
