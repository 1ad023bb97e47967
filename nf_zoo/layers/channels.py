"""The number of channels that a layer was built for, held to wherever it is called."""

from __future__ import annotations

import keras


def require_channels(layer, channels: int, ndim: int | None = None) -> None:
    """Have Keras refuse inputs of other channels, or of another rank, from now on."""
    layer.input_spec = keras.layers.InputSpec(ndim=ndim, axes={-1: channels})


def checked_channels(layer, x):
    """The input of a layer, checked when it runs where its channels are not known before.

    TensorFlow traces a function again with unknown sides when pictures of other shapes come, the
    channels among them, so that Keras's check sees nothing. TensorFlow's convolution would then
    take a multiple of the kernel's channels for a grouped one.
    """
    if x.shape[-1] is not None or keras.backend.backend() != "tensorflow":
        return x
    import tensorflow as tf

    return tf.ensure_shape(x, [*x.shape[:-1], layer.input_spec.axes[-1]])
