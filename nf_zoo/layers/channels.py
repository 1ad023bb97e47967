"""Checks that a layer is called with the channels it was built for."""

import keras


def require_channels(layer, channels: int, ndim: int | None = None, axis: int = -1) -> None:
    """Make Keras reject inputs with other channels, or of another rank, from now on."""
    layer.input_spec = keras.layers.InputSpec(ndim=ndim, axes={axis: channels})


def as_float(layer, x):
    """Return a layer's input, with whole numbers in the layer's precision."""
    if keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)):
        return x
    return keras.ops.cast(x, layer.compute_dtype)


def checked_channels(layer, x):
    """Return a layer's input, with whole numbers in its precision; check unknown channels.

    TensorFlow retraces a function with unknown dimensions when pictures of other shapes come. The
    channels are then unknown too, and Keras's check sees nothing, so they are checked when the
    layer runs. TensorFlow's convolution would treat a multiple of the kernel's channels as a
    grouped convolution.
    """
    x = as_float(layer, x)
    ((axis, channels),) = layer.input_spec.axes.items()
    if x.shape[axis] is not None or keras.backend.backend() != "tensorflow":
        return x
    import tensorflow as tf

    shape = list(x.shape)
    shape[axis] = channels
    return tf.ensure_shape(x, shape)
