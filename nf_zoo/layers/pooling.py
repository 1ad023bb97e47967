"""Pooling with the paddings that published networks use."""

import keras
from keras import ops

from nf_zoo.layers.recorded import RecordedLayer


@keras.saving.register_keras_serializable("nf_zoo")
class MaxPool2D(RecordedLayer):
    """Max pooling whose padding is minus infinity, placed symmetrically or as TensorFlow's SAME.

    Keras offers only SAME, which at stride 2 pads the bottom and right; networks published from
    PyTorch pad all four sides. Padding with zeros would be wrong, because the stem of a
    pre-activation network has negative values.

    Args:
        pool_size: side of the window, odd for symmetric padding.
        strides: step in pixels.
        padding: ``"symmetric"``, ``"same"``, ``"valid"``, or ``"mirrored"``: that of
            ``"symmetric"``, filled with the pixels next to the border. Every window contains those
            anyway, so the maxima are the same, without an infinity that 8 bits cannot hold.

    Input: (N, H, W, C). Output: (N, ceil(H / strides), ceil(W / strides), C) unless ``"valid"``.

    Raises:
        ValueError: if the padding is unknown.

    Example:
        >>> import numpy as np
        >>> MaxPool2D(3, 2, padding="symmetric")(np.zeros((1, 8, 9, 4), "float32")).shape
        TensorShape([1, 4, 5, 4])
    """

    def __init__(self, pool_size: int = 3, strides: int = 2, padding: str = "symmetric", **kwargs):
        super().__init__(**kwargs)
        if padding not in ("symmetric", "mirrored", "same", "valid"):
            raise ValueError(
                f"padding must be 'symmetric', 'mirrored', 'same' or 'valid'. Received: {padding!r}"
            )
        self.pool_size, self.strides, self.padding = int(pool_size), int(strides), padding
        self.built = True

    def call(self, x):
        padding = self.padding
        if padding in ("symmetric", "mirrored"):
            side = (self.pool_size - 1) // 2
            filling = {"constant_values": -float("inf")}
            if padding == "mirrored":
                filling = {"mode": "symmetric"}
            x = ops.pad(x, [[0, 0], [side, side], [side, side], [0, 0]], **filling)
            padding = "valid"
        return ops.max_pool(x, self.pool_size, self.strides, padding, data_format="channels_last")

    def compute_output_shape(self, input_shape):
        odd = self.pool_size - 1
        lost = {"same": 0, "valid": odd}.get(self.padding, odd - 2 * (odd // 2))
        sides = (None if n is None else -((lost - n) // self.strides) for n in input_shape[1:3])
        return (input_shape[0], *sides, input_shape[-1])


@keras.saving.register_keras_serializable("nf_zoo")
class DilatedAveragePool2D(RecordedLayer):
    """2x2 average pooling of stride 1 whose taps lie ``dilation`` pixels apart.

    It replaces a 2x2 pooling of stride 2 in a network that dilates instead of striding. The two are
    equal at every second pixel, up to the border, where only real pixels count.

    Args:
        dilation: distance between the taps, in pixels.

    Input and output: (N, H, W, C).

    Example:
        >>> import numpy as np
        >>> DilatedAveragePool2D(2)(np.zeros((1, 5, 7, 4), "float32")).shape
        TensorShape([1, 5, 7, 4])
    """

    def __init__(self, dilation: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.dilation = int(dilation)
        self.built = True

    def call(self, x):
        total = self._sum_of_taps(x)
        return total / self._sum_of_taps(ops.ones_like(x[:1, :, :, :1]))

    def _sum_of_taps(self, x):
        d = self.dilation
        x = x + ops.pad(x, [[0, 0], [0, d], [0, 0], [0, 0]])[:, d:]
        return x + ops.pad(x, [[0, 0], [0, 0], [0, d], [0, 0]])[:, :, d:]
