"""What each kind of layer is in the inference graph."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from nf_zoo import layers
from nf_zoo.deploy import graph

Inputs = list[graph.Node]


def array(value) -> np.ndarray:
    """A number, array or variable as float64."""
    if isinstance(value, int | float | list | tuple):
        return np.asarray(value, "float64")
    return ops.convert_to_numpy(value).astype("float64")


def _float32(value) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(value), "float32")


def _activated(layer, node: graph.Node, activation, name: str) -> graph.Node:
    """The node, followed by the activation of its layer, if that is one."""
    activation = _name_of(activation)
    if activation in ("linear", "identity", None):
        return node
    return graph.Activation(name, [node], layer.dtype_policy, activation=activation)


def _name_of(activation):
    """A Keras function's name, by which Keras finds it; else what it is."""
    name = getattr(activation, "__name__", activation)
    if callable(activation) and getattr(keras.activations, str(name), None) is activation:
        return name
    return activation


def _convolution(layer, inputs: Inputs, name: str) -> graph.Node:
    return graph.Linear(
        name,
        inputs,
        layer.dtype_policy,
        kernel=_float32(layer.effective_kernel()),
        bias=np.zeros(layer.filters) if layer.bias is None else array(layer.bias),
        convolution={
            key: getattr(layer, key) for key in ("strides", "padding", "dilation", "groups")
        },
    )


def _keras_convolution(layer, inputs: Inputs, name: str) -> graph.Node | None:
    square = len(set(layer.strides)) == len(set(layer.dilation_rate)) == 1
    plain = layer.data_format == "channels_last" and layer.padding in ("same", "valid")
    if not (square and plain) or len(set(layer.kernel_size)) != 1:
        return None
    node = graph.Linear(
        name,
        inputs,
        layer.dtype_policy,
        kernel=_float32(layer.kernel),
        bias=np.zeros(layer.filters) if layer.bias is None else array(layer.bias),
        convolution={
            "strides": layer.strides[0],
            "padding": layer.padding,
            "dilation": layer.dilation_rate[0],
            "groups": layer.groups,
        },
    )
    return _activated(layer, node, layer.activation, f"{name}_activation")


def _dense(layer, inputs: Inputs, name: str) -> graph.Node:
    node = graph.Linear(
        name,
        inputs,
        layer.dtype_policy,
        kernel=_float32(layer.kernel),
        bias=np.zeros(layer.units) if layer.bias is None else array(layer.bias),
    )
    return _activated(layer, node, layer.activation, f"{name}_activation")


def _scaled_activation(layer, inputs: Inputs, name: str) -> graph.Node:
    node = _activated(layer, inputs[0], layer.activation, name)
    if layer.gamma == 1.0:
        return node
    return graph.Affine(f"{name}_gamma", [node], layer.dtype_policy, scale=array(layer.gamma))


def _activation(layer, inputs: Inputs, name: str) -> graph.Node:
    return _activated(layer, inputs[0], layer.activation, name)


def _relu(layer, inputs: Inputs, name: str) -> graph.Node | None:
    if layer.max_value is not None or layer.negative_slope or layer.threshold:
        return None
    return graph.Activation(name, inputs, layer.dtype_policy, activation="relu")


def batch_norm_terms(layer) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset (C,), float64, of BatchNormalization at inference."""
    scale = 1 / np.sqrt(array(layer.moving_variance) + layer.epsilon)
    if layer.gamma is not None:
        scale = scale * array(layer.gamma)
    offset = -array(layer.moving_mean) * scale
    if layer.beta is not None:
        offset = offset + array(layer.beta)
    return scale, offset


def _batch_norm(layer, inputs: Inputs, name: str) -> graph.Node | None:
    if layer.axis not in (-1, layer.input_spec.ndim - 1):
        return None
    return _of_channels(layer, inputs, name, *batch_norm_terms(layer))


def _rescaling(layer, inputs: Inputs, name: str) -> graph.Node | None:
    return _of_channels(layer, inputs, name, array(layer.scale), array(layer.offset))


def _normalization(layer, inputs: Inputs, name: str) -> graph.Node | None:
    mean, variance = array(layer.mean), array(layer.variance)
    spread = np.maximum(np.sqrt(variance), keras.config.epsilon())
    if layer.invert:
        return _of_channels(layer, inputs, name, spread, mean)
    return _of_channels(layer, inputs, name, 1 / spread, -mean / spread)


def _of_channels(layer, inputs: Inputs, name: str, scale, offset) -> graph.Node | None:
    """An affine node, if every value belongs to all the pixels of one channel or of all."""
    terms = []
    for value in (scale, offset):
        if value.size != 1 and value.size != value.shape[-1]:
            return None
        terms.append(value.reshape(() if value.size == 1 else -1))
    return graph.Affine(name, inputs, layer.dtype_policy, scale=terms[0], offset=terms[1])


def _channel_affine(layer, inputs: Inputs, name: str) -> graph.Node:
    scale = np.ones(()) if layer.scale is None else array(layer.scale)
    offset = np.zeros(()) if layer.offset is None else array(layer.offset)
    return graph.Affine(name, inputs, layer.dtype_policy, scale=scale, offset=offset)


def _skip_init(layer, inputs: Inputs, name: str) -> graph.Node:
    return graph.Affine(name, inputs, layer.dtype_policy, scale=array(layer.gain))


def _scalar_bias(layer, inputs: Inputs, name: str) -> graph.Node:
    return graph.Affine(name, inputs, layer.dtype_policy, offset=array(layer.bias))


def _nothing(layer, inputs: Inputs, name: str) -> graph.Node:
    return inputs[0]


def _average(layer, inputs: Inputs, name: str, is_maximum: bool = False) -> graph.Node | None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return None
    return graph.Pool(name, inputs, layer.dtype_policy, layer=layer, is_maximum=is_maximum)


def _maximum(layer, inputs: Inputs, name: str) -> graph.Node | None:
    return _average(layer, inputs, name, is_maximum=True)


def _add(layer, inputs: Inputs, name: str) -> graph.Node:
    return graph.Add(name, inputs, layer.dtype_policy)


def _squeeze_excite(layer, inputs: Inputs, name: str) -> graph.Node:
    weights = {
        f"{part}_{kind}": _float32(getattr(getattr(layer, part), kind))
        for part in ("reduce", "expand")
        for kind in ("kernel", "bias")
    }
    return _gate(layer, inputs, name, "se", weights)


def _efficient_attention(layer, inputs: Inputs, name: str) -> graph.Node:
    return _gate(layer, inputs, name, "eca", {"kernel": _float32(layer.kernel)})


def _gate(layer, inputs: Inputs, name: str, kind: str, weights: dict) -> graph.Node:
    node = graph.Gate(name, inputs, layer.dtype_policy, kind=kind, weights=weights)
    node.output_scale = array(layer.gate_gain)
    return node


TRAINING = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.AlphaDropout,
    keras.layers.GaussianNoise,
    keras.layers.GaussianDropout,
    keras.layers.ActivityRegularization,
    keras.layers.Identity,
    keras.layers.RandAugment,
    keras.layers.AugMix,
    keras.layers.RandomBrightness,
    keras.layers.RandomColorDegeneration,
    keras.layers.RandomColorJitter,
    keras.layers.RandomContrast,
    keras.layers.RandomElasticTransform,
    keras.layers.RandomErasing,
    keras.layers.RandomFlip,
    keras.layers.RandomGaussianBlur,
    keras.layers.RandomGrayscale,
    keras.layers.RandomHue,
    keras.layers.RandomInvert,
    keras.layers.RandomPerspective,
    keras.layers.RandomPosterization,
    keras.layers.RandomRotation,
    keras.layers.RandomSaturation,
    keras.layers.RandomSharpness,
    keras.layers.RandomShear,
    keras.layers.RandomTranslation,
    keras.layers.RandomZoom,
)
"""Layers of Keras that give what they take, but in training."""

RULES: dict[type, Callable] = {
    layers.Conv2D: _convolution,
    layers.ScaledWSConv2D: _convolution,
    layers.ScaledActivation: _scaled_activation,
    layers.SkipInit: _skip_init,
    layers.StochasticDepth: _nothing,
    layers.Dropout: _nothing,
    layers.SqueezeExcite: _squeeze_excite,
    layers.EfficientChannelAttention: _efficient_attention,
    layers.MaxPool2D: _maximum,
    layers.DilatedAveragePool2D: _average,
    layers.ChannelAffine: _channel_affine,
    layers.ScalarBias: _scalar_bias,
    keras.layers.Conv2D: _keras_convolution,
    keras.layers.Dense: _dense,
    keras.layers.Activation: _activation,
    layers.Rectifier: _activation,
    keras.layers.ReLU: _relu,
    keras.layers.BatchNormalization: _batch_norm,
    keras.layers.Rescaling: _rescaling,
    keras.layers.Normalization: _normalization,
    keras.layers.AveragePooling2D: _average,
    keras.layers.GlobalAveragePooling2D: _average,
    keras.layers.MaxPooling2D: _maximum,
    keras.layers.GlobalMaxPooling2D: _maximum,
    keras.layers.Add: _add,
    # Those that this Keras has; MixUp and the like take labels too, RandomCrop always crops.
    **dict.fromkeys(TRAINING, _nothing),
}
"""Exact class -> (layer, inputs, name) -> its node, or None if this one is not understood.

A subclass may do anything, so it is not taken for its parent.
"""
