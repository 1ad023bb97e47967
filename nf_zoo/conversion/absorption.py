"""How a layer with a kernel absorbs a factor and an offset per channel before or after it."""

from __future__ import annotations

import math

import keras
import numpy as np

from nf_zoo import layers
from nf_zoo.deploy.lowering import array


class Absorber:
    """The weights of a convolution, which absorb ``scale * x + offset`` before or after it.

    They are float64 copies: the kernels by attribute, in the order of the layer's weights, and the
    bias (filters,), zeros if the layer has none.
    """

    names = ("kernel",)

    def __init__(self, layer):
        self.layer = layer
        self.kernels = {name: array(getattr(layer, name)) for name in self.names}
        self.bias = np.zeros(self.outputs) if layer.bias is None else array(layer.bias)

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return self.kernels[self.names[-1]].shape[-1]

    def weights(self) -> list[np.ndarray]:
        """Return the weights of a copy of the layer that has a bias."""
        return [*self.kernels.values(), self.bias]

    @staticmethod
    def takes_offsets(layer) -> bool:
        """Return True if no zeros from outside come in, to which no offset was added."""
        is_wide = np.prod(getattr(layer, "kernel_size", 1)) > 1
        return not (is_wide and layer.padding in ("same", "causal", "symmetric"))

    def absorb_after(self, scale: np.ndarray, offset: np.ndarray) -> None:
        """Absorb a ``scale * y + offset`` of the results."""
        last = self.names[-1]
        self.kernels[last] = self.kernels[last] * self.along_outputs(scale)
        self.bias = self.bias * scale + offset

    def absorb_before(self, scale: np.ndarray, offset: np.ndarray) -> None:
        """Absorb a ``scale * x + offset`` of the input."""
        first = self.names[0]
        if np.any(offset):
            self.bias = self.bias + self.response(offset)
        self.kernels[first] = self.kernels[first] * self.along_inputs(scale)

    def along_outputs(self, values: np.ndarray) -> np.ndarray:
        """Return a value for each output channel, in the shape of the last kernel's end."""
        return values

    def along_inputs(self, values: np.ndarray) -> np.ndarray:
        """Return a value for each input channel, in the shape of the first kernel's end."""
        groups = getattr(self.layer, "groups", 1)
        return np.repeat(values.reshape(groups, -1).T, self.outputs // groups, axis=1)

    def response(self, offset: np.ndarray) -> np.ndarray:
        """Return what the kernels make of an input that is ``offset`` everywhere."""
        terms = self.kernels[self.names[0]] * self.along_inputs(offset)
        return terms.reshape(-1, self.outputs).sum(0)


class _Transposed(Absorber):
    """Kernel (*size, filters, channels); pixels at the border get fewer taps than others."""

    @staticmethod
    def takes_offsets(layer) -> bool:
        return False

    @property
    def outputs(self) -> int:
        return self.kernels["kernel"].shape[-2]

    def along_outputs(self, values):
        return values[:, None]

    def along_inputs(self, values):
        return values


class _Depthwise(Absorber):
    """Kernel (*size, channels, multiplier)."""

    @property
    def outputs(self) -> int:
        return math.prod(self.kernels["kernel"].shape[-2:])

    def along_outputs(self, values):
        return values.reshape(self.kernels["kernel"].shape[-2:])

    def along_inputs(self, values):
        return values[:, None]


class _Separable(Absorber):
    """Kernels (*size, channels, multiplier) and (1, ..., channels * multiplier, filters)."""

    names = ("depthwise_kernel", "pointwise_kernel")

    def along_inputs(self, values):
        return values[:, None]

    def response(self, offset):
        depthwise, pointwise = self.kernels.values()
        maps = (depthwise * offset[:, None]).sum(tuple(range(depthwise.ndim - 2)))
        return maps.ravel() @ pointwise.reshape(-1, self.outputs)


KINDS: dict[type, type[Absorber]] = {
    **dict.fromkeys((keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D), Absorber),
    layers.Conv2D: Absorber,
    keras.layers.Dense: Absorber,
    keras.layers.DepthwiseConv1D: _Depthwise,
    keras.layers.DepthwiseConv2D: _Depthwise,
    keras.layers.SeparableConv1D: _Separable,
    keras.layers.SeparableConv2D: _Separable,
    keras.layers.Conv1DTranspose: _Transposed,
    keras.layers.Conv2DTranspose: _Transposed,
    keras.layers.Conv3DTranspose: _Transposed,
}
"""Exact class of a layer -> its absorber. A subclass may do anything, so it absorbs nothing."""


POOLINGS: dict[type, bool] = {
    getattr(keras.layers, f"{extent}{kind}Pooling{rank}D"): kind == "Max"
    for extent in ("", "Global")
    for kind in ("Average", "Max")
    for rank in (1, 2, 3)
}
"""Class of a pooling -> whether it takes maxima. Averages leave out the padding."""


def passes(layer, scale: np.ndarray, axis: int) -> bool:
    """Return True if ``layer(scale * x + offset)`` is ``scale * layer(x) + offset`` at inference.

    ``axis`` is that of the channels, counted from the end.
    """
    if type(layer) not in POOLINGS or axis != -1 or layer.data_format != "channels_last":
        return False
    return not POOLINGS[type(layer)] or bool(np.all(scale >= 0))


def can_absorb(layer) -> bool:
    """Return True if the layer's kernels and bias may take any value, and stay what they are.

    A constraint would pull them back after a step of training, and a regularizer of the results
    would see others. LoRA and quantization keep a kernel in parts.
    """
    if type(layer) not in KINDS:
        return False
    kinds = ("kernel", "bias", "depthwise", "pointwise")
    bound = any(getattr(layer, f"{kind}_constraint", None) is not None for kind in kinds)
    bound |= getattr(layer, "activity_regularizer", None) is not None
    in_parts = getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None)
    return not (bound or in_parts)


def is_linear(layer) -> bool:
    """Return True if the layer has no activation of its own."""
    return getattr(layer, "activation", None) in (None, keras.activations.linear)


def channel_axis(layer) -> int:
    """Return the axis of a layer's channels, counted from the end."""
    if getattr(layer, "data_format", "channels_last") == "channels_last":
        return -1
    return -1 - layer.rank
