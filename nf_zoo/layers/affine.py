"""Factor and offset per channel: the part of a normalization that no convolution can absorb."""

import keras
from keras import ops

from nf_zoo.layers.channels import checked_channels, require_channels
from nf_zoo.layers.recorded import RecordedLayer


@keras.saving.register_keras_serializable("nf_zoo")
class ChannelAffine(RecordedLayer):
    """``scale * x + offset``, each a vector over the channels, a scalar, or absent.

    Args:
        scale: ``"channels"``, ``"scalar"`` or None; the factor starts at 1.
        offset: the same; the offset starts at 0.
        axis: axis of the channels.

    Input and output: (..., C), the same; the channels lie on ``axis`` if it is not -1.

    Raises:
        ValueError: if ``scale`` or ``offset`` has any other value.

    Example:
        >>> import numpy as np
        >>> ChannelAffine("scalar")(np.ones((1, 2, 2, 3), "float32")).shape
        TensorShape([1, 2, 2, 3])
    """

    def __init__(
        self,
        scale: str | None = "channels",
        offset: str | None = None,
        axis: int = -1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, extent in (("scale", scale), ("offset", offset)):
            if extent not in ("channels", "scalar", None):
                raise ValueError(
                    f"{name} must be 'channels', 'scalar' or None. Received: {extent!r}"
                )
        self._extents, self.axis = {"scale": scale, "offset": offset}, axis
        self.scale = self.offset = None
        self.supports_masking = True

    def build(self, input_shape):
        # A vector would broadcast one input channel to many.
        channels = input_shape[self.axis]
        require_channels(self, channels, axis=self.axis)
        self.scale = self._vector("scale", "ones", channels)
        self.offset = self._vector("offset", "zeros", channels)

    def _vector(self, name: str, initializer: str, channels: int):
        extent = self._extents[name]
        if extent is None:
            return None
        shape = (channels,) if extent == "channels" else ()
        return self.add_weight(name=name, shape=shape, initializer=initializer)

    def call(self, inputs):
        x = checked_channels(self, inputs)
        behind = -1 - self.axis if self.axis < 0 else len(x.shape) - 1 - self.axis
        if self.scale is not None:
            x = ops.multiply(x, _spread(self.scale, x.dtype, behind))
        if self.offset is not None:
            offset = _spread(self.offset, x.dtype, behind)
            # On TensorFlow ops.add is a BiasAdd, which is fused with a convolution. It would take
            # any vector of as many values as there are channels, along another axis too.
            x = x + offset if behind else ops.add(x, offset)
        return x


def _spread(values, dtype, behind: int):
    """Return a vector or scalar that broadcasts against maps with so many axes behind its own."""
    values = ops.cast(values, dtype)
    return ops.reshape(values, (-1, *[1] * behind)) if values.shape and behind else values


@keras.saving.register_keras_serializable("nf_zoo")
class ScalarBias(RecordedLayer):
    """Learnable scalar bias that starts at 0.

    Input and output: any shape, the same.

    Example:
        >>> import numpy as np
        >>> ScalarBias()(np.ones((2, 3), "float32")).shape
        TensorShape([2, 3])
    """

    def build(self, input_shape):
        self.bias = self.add_weight(name="bias", shape=(), initializer="zeros")

    def call(self, x):
        return x + self.bias
