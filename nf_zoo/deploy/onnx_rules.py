"""How layers with weights, activations and poolings of a folded model are written in ONNX."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
from keras import ops

from nf_zoo import layers
from nf_zoo.deploy.layer_rules import batch_norm_terms
from nf_zoo.deploy.onnx_writer import Unsupported, Value

_SIMPLE = {
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "log_softmax": ("LogSoftmax", {"axis": -1}),
    "tanh": ("Tanh", {}),
    "elu": ("Elu", {"alpha": 1.0}),
    "selu": ("Selu", {}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "mish": ("Mish", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
    "hard_silu": ("HardSwish", {}),
    "hard_swish": ("HardSwish", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "exponential": ("Exp", {}),
    "gelu": ("Gelu", {"approximate": "none"}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
}
"""Activation -> (operation, attributes) with Keras's constants."""


def _array(variable) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable), "float32")


def _weights(writer, layer, kernel: np.ndarray) -> list[str]:
    """The names of a kernel and, if the layer has one, of its bias."""
    names = [writer.weight(kernel, f"{layer.name}_kernel")]
    if layer.bias is not None:
        names.append(writer.weight(_array(layer.bias), f"{layer.name}_bias"))
    return names


def activated(writer, value: Value, activation, name: str) -> Value:
    """The value after an activation, given by name or as a function of Keras."""
    kind = getattr(activation, "__name__", activation)
    if kind in ("linear", "identity", None):
        return value
    made, source = f"{name}_{kind}", value.name
    if kind in ("silu", "swish"):
        gate = writer.node("Sigmoid", [source], f"{made}_sigmoid")
        return Value(writer.node("Mul", [source, gate], made), value.rank)
    if kind == "relu6":
        return Value(_clip(writer, source, 6.0, made), value.rank, not_negative=True)
    if kind not in _SIMPLE:
        known = ", ".join(sorted([*_SIMPLE, "silu", "relu6"]))
        raise Unsupported(f"with activation={kind!r}, of which it knows {known}")
    operation, attributes = _SIMPLE[kind]
    if "axis" in attributes:
        attributes = {"axis": value.axis(-1)}
    result = writer.node(operation, [source], made, **attributes)
    return Value(result, value.rank, not_negative=kind == "relu")


def _clip(writer, source: str, most: float, name: str) -> str:
    limits = [writer.weight(np.float32(limit), f"{name}_limit") for limit in (0, most)]
    return writer.node("Clip", [source, *limits], name)


def _convolution(writer, layer, inputs) -> Value:
    """Either Conv2D; zeros that are still to be added go into it."""
    kernel = _array(layer.kernel).transpose(3, 2, 0, 1)
    value = _convolved(writer, layer, inputs[0], kernel, layer.groups)
    return activated(writer, value, getattr(layer, "activation", None), layer.name)


def _depthwise(writer, layer, inputs) -> Value:
    value = _convolved(writer, layer, inputs[0], *_by_channel(layer.kernel))
    return activated(writer, value, layer.activation, layer.name)


def _separable(writer, layer, inputs) -> Value:
    kernel, groups = _by_channel(layer.depthwise_kernel)
    value = _convolved(writer, layer, inputs[0], kernel, groups, "_depthwise")
    kernel = _array(layer.pointwise_kernel).transpose(3, 2, 0, 1)
    result = writer.node("Conv", [value.name, *_weights(writer, layer, kernel)], layer.name)
    return activated(writer, Value(result, 4), layer.activation, layer.name)


def _by_channel(kernel) -> tuple[np.ndarray, int]:
    """(kh, kw, C, multiplier) -> (C * multiplier, 1, kh, kw), and the C groups."""
    kernel = _array(kernel)
    *sides, channels, multiplier = kernel.shape
    kernel = kernel.reshape(*sides, 1, channels * multiplier)
    return kernel.transpose(3, 2, 0, 1), channels


def _convolved(writer, layer, value: Value, kernel, groups: int, part: str = "") -> Value:
    """A convolution; the first of two, with a ``part`` after the name, has no bias."""
    strides, dilations = _pair(layer.strides), _dilations(layer)
    own = {"strides": strides, "dilations": dilations, "group": groups}
    reach = [d * (size - 1) for d, size in zip(dilations, kernel.shape[2:], strict=True)]
    half = [extent // 2 for extent in reach]
    # What "same" is where nothing is left out.
    around = [*half, *(extent - side for extent, side in zip(reach, half, strict=True))]
    source, pads, padding = value.name, value.pads, layer.padding
    if padding in ("reflect", "circular"):
        source, pads = _pad_with_pixels(writer, layer, value, half * 2), (0, 0, 0, 0)
    elif padding != "valid" and any(pads):
        source, pads = writer.padded(value, layer.name), (0, 0, 0, 0)
    if padding == "same" and strides != [1, 1]:
        own["auto_pad"] = "SAME_UPPER"
    elif padding in ("same", "symmetric"):
        own["pads"] = around if padding == "same" else half * 2
    else:
        own["pads"] = list(pads)
    if part:
        weights = [writer.weight(kernel, f"{layer.name}{part}_kernel")]
    else:
        weights = _weights(writer, layer, kernel)
    return Value(writer.node("Conv", [source, *weights], f"{layer.name}{part}", **own), 4)


def _pad_with_pixels(writer, layer, value: Value, half: list[int]) -> str:
    pads = writer.integers([0, 0, *half[:2], 0, 0, *half[2:]], f"{layer.name}_pads")
    mode = {"reflect": "reflect", "circular": "wrap"}[layer.padding]
    source = writer.padded(value, layer.name)
    return writer.node("Pad", [source, pads], f"{layer.name}_padded", mode=mode)


def _transposed(writer, layer, inputs) -> Value:
    """The gradient of a convolution, whose output Keras makes ``strides`` times as large."""
    strides, dilations = _pair(layer.strides), _dilations(layer)
    more = layer.output_padding
    more = [None, None] if more is None else _pair(more)
    before, after, rest = [], [], []
    for size, stride, dilation, extra in zip(
        layer.kernel_size, strides, dilations, more, strict=True
    ):
        reach = dilation * (size - 1) + 1
        # The output is ``stride * (input - 1)`` and so much more.
        if extra is None:
            wanted = stride if layer.padding == "same" else max(reach, stride)
        else:
            wanted = reach + extra - (2 * (reach // 2) if layer.padding == "same" else 0)
        cut = max(reach - wanted, 0)
        before.append(cut // 2)
        after.append(cut - cut // 2)
        rest.append(max(wanted - reach, 0))
    weights = _weights(writer, layer, _array(layer.kernel).transpose(3, 2, 0, 1))
    source = writer.padded(inputs[0], layer.name)
    own = {"strides": strides, "dilations": dilations, "pads": [*before, *after]}
    own["output_padding"] = rest
    result = writer.node("ConvTranspose", [source, *weights], layer.name, **own)
    return activated(writer, Value(result, 4), layer.activation, layer.name)


def _dense(writer, layer, inputs) -> Value:
    kernel, value = _array(layer.kernel), inputs[0]
    source = writer.padded(value, layer.name)
    if value.rank == 4:
        weights = _weights(writer, layer, kernel.T[:, :, None, None])
        result = writer.node("Conv", [source, *weights], layer.name)
    elif value.rank == 2:
        result = writer.node("Gemm", [source, *_weights(writer, layer, kernel)], layer.name)
    else:
        weight, *bias = _weights(writer, layer, kernel)
        result = writer.node("MatMul", [source, weight], layer.name)
        if bias:
            result = writer.node("Add", [result, *bias], f"{layer.name}_biased")
    return activated(writer, Value(result, value.rank), layer.activation, layer.name)


def _scaled(writer, name: str, value: Value, scale, offset) -> Value:
    """``scale * x + offset``, each None or an array broadcast as Keras would."""
    source = writer.padded(value, name)
    for operation, array in (("Mul", scale), ("Add", offset)):
        if array is not None:
            made = f"{name}_{operation.lower()}"
            weight = writer.constant(array, value.rank, f"{made}_weight")
            source = writer.node(operation, [source, weight], made)
    return Value(source, value.rank)


def _affine(writer, layer, inputs) -> Value:
    terms = [x if x is None else _array(x) for x in (layer.scale, layer.offset)]
    return _scaled(writer, layer.name, inputs[0], *terms)


def _rescaling(writer, layer, inputs) -> Value:
    return _scaled(writer, layer.name, inputs[0], _array(layer.scale), _array(layer.offset))


def _batch_norm(writer, layer, inputs) -> Value:
    shape = [1] * inputs[0].rank
    shape[layer.axis] = -1
    terms = [term.reshape(shape) for term in batch_norm_terms(layer)]
    return _scaled(writer, layer.name, inputs[0], *terms)


def _layer_norm(writer, layer, inputs) -> Value:
    value, name = inputs[0], layer.name
    axes = [axis % value.rank for axis in layer.axis]
    first, gamma, beta = axes[0], layer.gamma, layer.beta
    if axes != list(range(first, value.rank)):
        raise Unsupported(f"with axis={layer.axis}")
    if getattr(layer, "rms_scaling", False):
        raise Unsupported("with rms_scaling=True")
    if gamma is None and beta is None:
        raise Unsupported("with center=False and scale=False")
    gamma = np.ones(beta.shape) if gamma is None else _array(gamma)
    names = [writer.weight(gamma, f"{name}_gamma")]
    if beta is not None:
        names.append(writer.weight(_array(beta), f"{name}_beta"))
    source, own = writer.to_keras(value, name), {"axis": first, "epsilon": layer.epsilon}
    result = writer.node("LayerNormalization", [source, *names], name, **own)
    return writer.from_keras(result, value.rank, name)


def _activation(writer, layer, inputs) -> Value:
    source = writer.padded(inputs[0], layer.name)
    value = activated(writer, Value(source, inputs[0].rank), layer.activation, layer.name)
    if getattr(layer, "gamma", 1.0) == 1.0:
        return value
    return _scaled(writer, layer.name, value, np.float32(layer.gamma), None)


def _rectifier(writer, layer, inputs) -> Value:
    source, name = writer.padded(inputs[0], layer.name), layer.name
    most, slope = layer.max_value, float(layer.negative_slope or 0)
    if layer.threshold or (slope and most is not None):
        option = "threshold" if layer.threshold else "max_value and negative_slope"
        raise Unsupported(f"with {option}")
    if most is not None:
        result = _clip(writer, source, most, name)
    elif slope:
        result = writer.node("LeakyRelu", [source], name, alpha=slope)
    else:
        result = writer.node("Relu", [source], name)
    return Value(result, inputs[0].rank, not_negative=not slope)


def _sloped(operation: str, option: str):
    def write(writer, layer, inputs) -> Value:
        source, alpha = writer.padded(inputs[0], layer.name), float(getattr(layer, option))
        return Value(writer.node(operation, [source], layer.name, alpha=alpha), inputs[0].rank)

    return write


def _prelu(writer, layer, inputs) -> Value:
    value, name = inputs[0], layer.name
    slope = writer.constant(_array(layer.alpha), value.rank, f"{name}_slope")
    return Value(writer.node("PRelu", [writer.padded(value, name), slope], name), value.rank)


def softmax(writer, layer, inputs) -> Value:
    """The layer, and the operation of the same name."""
    value, axis = inputs[0], layer.axis
    if not isinstance(axis, int):
        raise Unsupported(f"with axis={axis}")
    source = writer.padded(value, layer.name)
    made = writer.node("Softmax", [source], layer.name, axis=value.axis(axis))
    return Value(made, value.rank)


def _pool(operation: str):
    def write(writer, layer, inputs) -> Value:
        value, size = inputs[0], _pair(layer.pool_size)
        own = {"kernel_shape": size, "strides": _pair(layer.strides)}
        source, pads = value.name, value.pads
        # A maximum is padded with minus infinity, so zeros go in only where they change nothing.
        if any(pads) and not (operation == "MaxPool" and value.not_negative):
            source, pads = writer.padded(value, layer.name), (0, 0, 0, 0)
        if layer.padding == "same":
            own["auto_pad"] = "SAME_UPPER"
        elif layer.padding in ("symmetric", "mirrored"):
            own["pads"] = [(side - 1) // 2 for side in size] * 2
        else:
            own["pads"] = list(pads)
        return Value(writer.node(operation, [source], layer.name, **own), 4)

    return write


def _dilated_average(writer, layer, inputs) -> Value:
    source, d = writer.padded(inputs[0], layer.name), layer.dilation
    own = {"kernel_shape": [2, 2], "dilations": [d, d], "pads": [0, 0, d, d]}
    return Value(writer.node("AveragePool", [source], layer.name, **own), 4)


def _global_pool(operation: str):
    def write(writer, layer, inputs) -> Value:
        source = writer.padded(inputs[0], layer.name)
        result = writer.node(operation, [source], layer.name)
        if layer.keepdims:
            return dataclasses.replace(inputs[0], name=result, pads=(0, 0, 0, 0))
        return Value(writer.node("Flatten", [result], f"{layer.name}_flat"), 2)

    return write


def _pair(value) -> list[int]:
    """Of both sides, given once or twice."""
    return [value] * 2 if isinstance(value, int) else list(value)


def _dilations(layer) -> list[int]:
    names = ("dilation", "dilation_rate")
    return _pair(next(getattr(layer, name) for name in names if hasattr(layer, name)))


LAYERS = {
    layers.Conv2D: _convolution,
    keras.layers.Conv2D: _convolution,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.SeparableConv2D: _separable,
    keras.layers.Conv2DTranspose: _transposed,
    keras.layers.Dense: _dense,
    layers.ChannelAffine: _affine,
    keras.layers.Rescaling: _rescaling,
    keras.layers.BatchNormalization: _batch_norm,
    keras.layers.LayerNormalization: _layer_norm,
    keras.layers.Activation: _activation,
    layers.Rectifier: _activation,
    layers.ScaledActivation: _activation,
    keras.layers.ReLU: _rectifier,
    keras.layers.LeakyReLU: _sloped("LeakyRelu", "negative_slope"),
    keras.layers.ELU: _sloped("Elu", "alpha"),
    keras.layers.PReLU: _prelu,
    keras.layers.Softmax: softmax,
    keras.layers.MaxPooling2D: _pool("MaxPool"),
    layers.MaxPool2D: _pool("MaxPool"),
    keras.layers.AveragePooling2D: _pool("AveragePool"),
    layers.DilatedAveragePool2D: _dilated_average,
    keras.layers.GlobalAveragePooling2D: _global_pool("GlobalAveragePool"),
    keras.layers.GlobalMaxPooling2D: _global_pool("GlobalMaxPool"),
}
"""Exact class of a layer -> (writer, layer, input values) -> its value."""
