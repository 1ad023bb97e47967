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

    Input and output: (..., C), the same.

    Raises:
        ValueError: on any other value.

    Example:
        >>> import numpy as np
        >>> ChannelAffine("scalar")(np.ones((1, 2, 2, 3), "float32")).shape
        TensorShape([1, 2, 2, 3])
    """

    def __init__(self, scale: str | None = "channels", offset: str | None = None, **kwargs):
        super().__init__(**kwargs)
        for name, extent in (("scale", scale), ("offset", offset)):
            if extent not in ("channels", "scalar", None):
                raise ValueError(
                    f"{name} must be 'channels', 'scalar' or None. Received: {extent!r}"
                )
        self._extents = {"scale": scale, "offset": offset}
        self.scale = self.offset = None

    def build(self, input_shape):
        # A vector would broadcast one input channel to many.
        require_channels(self, input_shape[-1])
        self.scale = self._vector("scale", "ones", input_shape[-1])
        self.offset = self._vector("offset", "zeros", input_shape[-1])

    def _vector(self, name: str, initializer: str, channels: int):
        extent = self._extents[name]
        if extent is None:
            return None
        shape = (channels,) if extent == "channels" else ()
        return self.add_weight(name=name, shape=shape, initializer=initializer)

    def call(self, x):
        x = checked_channels(self, x)
        if self.scale is not None:
            x = ops.multiply(x, ops.cast(self.scale, x.dtype))
        if self.offset is not None:
            x = ops.add(x, ops.cast(self.offset, x.dtype))
        return x


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
