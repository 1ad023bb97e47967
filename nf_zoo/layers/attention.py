"""Channel attention. Both gates halve the signal on average; normalizer-free nets multiply by 2."""

import math

import keras
from keras import ops

from nf_zoo.layers.channels import checked_channels, require_channels
from nf_zoo.layers.composite import CompositeLayer
from nf_zoo.layers.recorded import RecordedLayer


@keras.saving.register_keras_serializable("nf_zoo")
class SqueezeExcite(CompositeLayer):
    """Squeeze-and-excitation: ``gate_gain * sigmoid(W2 relu(W1 mean(x))) * x``, channel by channel.

    Args:
        hidden: width of the hidden layer.
        gate_gain: constant factor; 2.0 in normalizer-free networks, because the sigmoid
            averages 1/2 at initialization, 1.0 elsewhere.

    Input and output: (N, H, W, C).

    Source: Hu et al., CVPR 2018; Brock, De & Smith, ICLR 2021, section 5.

    Example:
        >>> import numpy as np
        >>> SqueezeExcite(4, gate_gain=2.0)(np.ones((1, 2, 2, 16), "float32")).shape
        TensorShape([1, 2, 2, 16])
    """

    def __init__(self, hidden: int, gate_gain: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.gate_gain = int(hidden), float(gate_gain)
        policy = {"dtype": self.dtype_policy}
        self.reduce = keras.layers.Dense(self.hidden, activation="relu", name="reduce", **policy)
        # Its width is that of the input; build sets it.
        self.expand = keras.layers.Dense(1, activation="sigmoid", name="expand", **policy)

    def build(self, input_shape):
        channels = self.expand.units = input_shape[-1]
        self.reduce.build((None, channels))
        self.expand.build((None, self.hidden))

    def call(self, x):
        gate = self.expand(self.reduce(ops.mean(x, axis=(1, 2))))
        return x * (gate[:, None, None, :] * self.gate_gain)


@keras.saving.register_keras_serializable("nf_zoo")
class EfficientChannelAttention(RecordedLayer):
    """ECA: a short 1-D convolution over the pooled channels gives the sigmoid gate.

    Args:
        gate_gain: constant factor; 2.0 in normalizer-free networks, 1.0 elsewhere.
        kernel_size: odd width of the convolution, in channels; None takes the paper's rule,
            ``(log2(C) + 1) / 2`` truncated, then rounded up to odd, at least 3.

    Input and output: (N, H, W, C).

    Source: Wang et al., CVPR 2020; timm ``EcaModule``.

    Example:
        >>> import numpy as np
        >>> EfficientChannelAttention()(np.ones((1, 2, 2, 16), "float32")).shape
        TensorShape([1, 2, 2, 16])
    """

    def __init__(self, gate_gain: float = 1.0, kernel_size: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.gate_gain, self.kernel_size = float(gate_gain), kernel_size

    def build(self, input_shape):
        # The kernel alone would accept any number of channels.
        require_channels(self, input_shape[-1], ndim=4)
        size = self.kernel_size
        if size is None:
            half = int(abs(math.log2(input_shape[-1]) + 1) / 2)
            size = max(half + (half + 1) % 2, 3)
        self.kernel = self.add_weight(name="kernel", shape=(size, 1, 1))

    def call(self, x):
        pooled = ops.mean(checked_channels(self, x), axis=(1, 2))[:, :, None]
        kernel = ops.cast(self.kernel, pooled.dtype)
        gate = ops.conv(pooled, kernel, padding="same", data_format="channels_last")
        gate = ops.sigmoid(ops.squeeze(gate, -1))
        return x * (gate[:, None, None, :] * self.gate_gain)
