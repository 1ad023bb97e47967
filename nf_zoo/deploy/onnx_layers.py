"""Writers of the layers and operations of a folded model in ONNX.

A writer takes the graph that is being written, the layer or operation, and the values of its
inputs, and returns the value of its output. The tables at the end list them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from nf_zoo import layers
from nf_zoo.deploy.lowering import batch_norm_terms
from nf_zoo.deploy.onnx_graph import NO_PADS, Unsupported, Value
from nf_zoo.deploy.onnx_operations import (
    Writer,
    concatenate,
    cropping,
    flatten,
    merge,
    one_axis,
    order,
    plain,
    reduce,
    reshape,
    resize,
    square,
    up_sampling,
    values_of,
    zero_padding,
)

_ACTIVATIONS = {
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


def _pair(value) -> list[int]:
    return [value] * 2 if isinstance(value, int) else list(value)


# Layers with weights.


def _weights(writer, layer, kernel: np.ndarray) -> list[str]:
    """Return the names of a kernel and, if the layer has one, of its bias."""
    names = [writer.weight(kernel, f"{layer.name}_kernel")]
    if layer.bias is not None:
        names.append(writer.weight(values_of(layer.bias), f"{layer.name}_bias"))
    return names


def _convolution(writer, layer, inputs) -> Value:
    """Write either Conv2D, with the pending zeros of its input as its padding."""
    kernel = values_of(layer.kernel).transpose(3, 2, 0, 1)
    value = _convolved(writer, layer, inputs[0], kernel, layer.groups)
    return _activated(writer, value, getattr(layer, "activation", None), layer.name)


def _depthwise(writer, layer, inputs) -> Value:
    value = _convolved(writer, layer, inputs[0], *_by_channel(layer.kernel))
    return _activated(writer, value, layer.activation, layer.name)


def _separable(writer, layer, inputs) -> Value:
    kernel, groups = _by_channel(layer.depthwise_kernel)
    value = _convolved(writer, layer, inputs[0], kernel, groups, "_depthwise")
    kernel = values_of(layer.pointwise_kernel).transpose(3, 2, 0, 1)
    value = writer.apply("Conv", [value, *_weights(writer, layer, kernel)], layer.name)
    return _activated(writer, value, layer.activation, layer.name)


def _by_channel(kernel) -> tuple[np.ndarray, int]:
    """Return a kernel (kh, kw, C, multiplier) as (C * multiplier, 1, kh, kw), and the C groups."""
    *sides, channels, multiplier = kernel.shape
    kernel = values_of(kernel).reshape(*sides, 1, channels * multiplier)
    return kernel.transpose(3, 2, 0, 1), channels


def _convolved(writer, layer, value: Value, kernel, groups: int, part: str = "") -> Value:
    """Write a convolution; the first of two, with a ``part`` after its name, has no bias."""
    dilations = _pair(getattr(layer, "dilation", None) or layer.dilation_rate)
    own = {"strides": _pair(layer.strides), "dilations": dilations, "group": groups}
    reach = [d * (size - 1) for d, size in zip(dilations, kernel.shape[2:], strict=True)]
    half, padding = [extent // 2 for extent in reach], layer.padding
    if padding in ("reflect", "circular"):
        if padding == "circular" and writer.opset < 19:
            raise Unsupported(f"with opset={writer.opset}: its padding needs 19")
        pads = writer.integers([0, 0, *half, 0, 0, *half], f"{layer.name}_pads")
        mode = {"reflect": "reflect", "circular": "wrap"}[padding]
        value = writer.apply("Pad", [value, pads], f"{layer.name}_padded", mode=mode)
    elif padding != "valid":
        value = writer.padded(value, layer.name)
    if own["strides"] != [1, 1] and dilations != [1, 1]:
        raise Unsupported("with strides and a dilation")  # which runtimes compute otherwise
    if padding == "same" and own["strides"] != [1, 1]:
        own["auto_pad"] = "SAME_UPPER"
    elif padding == "same":
        own["pads"] = [*half, *(extent - side for extent, side in zip(reach, half, strict=True))]
    else:
        own["pads"] = half * 2 if padding == "symmetric" else list(value.pads)
    if part:
        weights = [writer.weight(kernel, f"{layer.name}{part}_kernel")]
    else:
        weights = _weights(writer, layer, kernel)
    return Value(writer.node("Conv", [value.name, *weights], f"{layer.name}{part}", **own), 4)


def _transposed(writer, layer, inputs) -> Value:
    """Write a transposed convolution, whose output Keras makes ``strides`` times as large."""
    strides, dilations = _pair(layer.strides), _pair(layer.dilation_rate)
    more = [None] * 2 if layer.output_padding is None else _pair(layer.output_padding)
    before, after, rest = [], [], []
    for size, stride, dilation, extra in zip(
        layer.kernel_size, strides, dilations, more, strict=True
    ):
        reach = dilation * (size - 1) + 1
        # The output is ``stride * (input - 1)`` plus this.
        if extra is None:
            wanted = stride if layer.padding == "same" else max(reach, stride)
        else:
            wanted = reach + extra - (2 * (reach // 2) if layer.padding == "same" else 0)
        cut = max(reach - wanted, 0)
        before.append(cut // 2)
        after.append(cut - cut // 2)
        rest.append(max(wanted - reach, 0))
    weights = _weights(writer, layer, values_of(layer.kernel).transpose(3, 2, 0, 1))
    own = {"strides": strides, "dilations": dilations, "pads": [*before, *after]}
    own["output_padding"] = rest
    value = writer.apply("ConvTranspose", [inputs[0], *weights], layer.name, **own)
    return _activated(writer, value, layer.activation, layer.name)


def _dense(writer, layer, inputs) -> Value:
    kernel, value = values_of(layer.kernel), inputs[0]
    if value.rank == 4:
        weights = _weights(writer, layer, kernel.T[:, :, None, None])
        value = writer.apply("Conv", [value, *weights], layer.name)
    elif value.rank == 2:
        value = writer.apply("Gemm", [value, *_weights(writer, layer, kernel)], layer.name)
    else:
        weight, *bias = _weights(writer, layer, kernel)
        value = writer.apply("MatMul", [value, weight], layer.name)
        if bias:
            value = writer.apply("Add", [value, *bias], f"{layer.name}_biased")
    return _activated(writer, value, layer.activation, layer.name)


def _scaled(writer, name: str, value: Value, scale, offset) -> Value:
    """Write ``scale * x + offset``, each None or an array that broadcasts as in Keras."""
    for operation, array in (("Mul", scale), ("Add", offset)):
        if array is not None:
            made = f"{name}_{operation.lower()}"
            weight = writer.constant(values_of(array), value.rank, f"{made}_weight")
            value = writer.apply(operation, [value, weight], made)
    return value


def _affine(writer, layer, inputs) -> Value:
    return _scaled(writer, layer.name, inputs[0], layer.scale, layer.offset)


def _per_channel(terms: Callable[[Any], tuple]) -> Writer:
    """Write a factor and a term of a layer with an axis of channels."""

    def write(writer, layer, inputs) -> Value:
        shape = [1] * inputs[0].rank
        shape[layer.axis] = -1
        own = [x if x is None else values_of(x).reshape(shape) for x in terms(layer)]
        return _scaled(writer, layer.name, inputs[0], *own)

    return write


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
    gamma = np.ones(beta.shape) if gamma is None else values_of(gamma)
    names = [writer.weight(gamma, f"{name}_gamma")]
    if beta is not None:
        names.append(writer.weight(values_of(beta), f"{name}_beta"))
    source, own = writer.to_keras(value, name), {"axis": first, "epsilon": layer.epsilon}
    result = writer.node("LayerNormalization", [source, *names], name, **own)
    return writer.from_keras(result, value.rank, name)


# Activations.


def _activated(writer, value: Value, activation, name: str) -> Value:
    """Return the value after an activation, given as a name or a function of Keras."""
    kind = getattr(activation, "__name__", activation)
    if kind in ("linear", "identity", None):
        return value
    made, value = f"{name}_{kind}", writer.padded(value, name)
    if kind in ("silu", "swish"):
        gate = writer.node("Sigmoid", [value], f"{made}_sigmoid")
        return writer.apply("Mul", [value, gate], made)
    if kind == "relu6":
        return _clipped(writer, value, 6.0, made)
    if kind in _PARTS and writer.opset < _PARTS[kind][0]:
        return _PARTS[kind][1](writer, value, made)
    if kind not in _ACTIVATIONS:
        known = ", ".join(sorted([*_ACTIVATIONS, "silu", "relu6"]))
        raise Unsupported(f"with activation={kind!r}, which must be one of {known}")
    operation, attributes = _ACTIVATIONS[kind]
    if "axis" in attributes:
        attributes = {"axis": value.axis(-1)}
    value = writer.apply(operation, [value], made, **attributes)
    return dataclasses.replace(value, not_negative=kind == "relu")


def _gelu(writer, value: Value, name: str) -> Value:
    """Write ``x / 2 * (1 + erf(x / sqrt(2)))``."""
    part = _scaled(writer, f"{name}_part", value, np.sqrt(0.5), None)
    return _gated(writer, value, writer.apply("Erf", [part], f"{name}_erf"), name)


def _gelu_tanh(writer, value: Value, name: str) -> Value:
    """Write ``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))``."""
    square = writer.apply("Mul", [value, value], f"{name}_square")
    root = np.sqrt(2 / np.pi)
    factor = _scaled(writer, f"{name}_part", square, 0.044715 * root, root)
    part = writer.apply("Mul", [value, factor], f"{name}_part")
    return _gated(writer, value, writer.apply("Tanh", [part], f"{name}_tanh"), name)


def _gated(writer, value: Value, gate: Value, name: str) -> Value:
    """Write ``x * (gate + 1) / 2``."""
    gate = _scaled(writer, f"{name}_gate", gate, 0.5, 0.5)
    return writer.apply("Mul", [value, gate], name)


def _mish(writer, value: Value, name: str) -> Value:
    """Write ``x * tanh(softplus(x))``."""
    gate = writer.apply("Softplus", [value], f"{name}_softplus")
    gate = writer.apply("Tanh", [gate], f"{name}_tanh")
    return writer.apply("Mul", [value, gate], name)


_PARTS = {"gelu": (20, _gelu), "gelu_tanh": (20, _gelu_tanh), "mish": (18, _mish)}
"""Activation -> the first opset that has it, and what writes it in an older one."""


def _clipped(writer, value: Value, most: float, name: str) -> Value:
    limits = [writer.weight(np.float32(limit), f"{name}_limit") for limit in (0, most)]
    value = writer.apply("Clip", [value, *limits], name)
    return dataclasses.replace(value, not_negative=True)


def _activation(writer, layer, inputs) -> Value:
    value = _activated(writer, inputs[0], layer.activation, layer.name)
    gamma = getattr(layer, "gamma", 1.0)
    return value if gamma == 1.0 else _scaled(writer, layer.name, value, gamma, None)


def _named(kind: str) -> Writer:
    def write(writer, operation, inputs) -> Value:
        approximate = kind == "gelu" and operation.approximate
        return _activated(writer, inputs[0], "gelu_tanh" if approximate else kind, operation.name)

    return write


def _rectifier(writer, layer, inputs) -> Value:
    most, slope = layer.max_value, float(layer.negative_slope or 0)
    if layer.threshold or (slope and most is not None):
        option = "threshold" if layer.threshold else "max_value and negative_slope"
        raise Unsupported(f"with {option}")
    if most is not None:
        return _clipped(writer, inputs[0], most, layer.name)
    if slope:
        return writer.apply("LeakyRelu", inputs, layer.name, alpha=slope)
    return dataclasses.replace(writer.apply("Relu", inputs, layer.name), not_negative=True)


def _prelu(writer, layer, inputs) -> Value:
    slope = writer.constant(values_of(layer.alpha), inputs[0].rank, f"{layer.name}_slope")
    return writer.apply("PRelu", [inputs[0], slope], layer.name)


# Poolings.


def _pool(operation: str) -> Writer:
    def write(writer, layer, inputs) -> Value:
        value, size = inputs[0], _pair(layer.pool_size)
        own = {"kernel_shape": size, "strides": _pair(layer.strides)}
        # MaxPool pads with minus infinity, so it takes pending zeros only if no value is below 0,
        # and only if it has no padding of its own.
        takes_zeros = operation == "MaxPool" and value.not_negative and layer.padding == "valid"
        if not takes_zeros:
            value = writer.padded(value, layer.name)
        if layer.padding == "same":
            own["auto_pad"] = "SAME_UPPER"
        elif layer.padding in ("symmetric", "mirrored"):
            own["pads"] = [(side - 1) // 2 for side in size] * 2
        else:
            own["pads"] = list(value.pads)
        return Value(writer.node(operation, [value.name], layer.name, **own), 4)

    return write


def _global_pool(operation: str) -> Writer:
    def write(writer, layer, inputs) -> Value:
        value = inputs[0]
        result = writer.node(operation, [value], layer.name)
        if layer.keepdims:
            return dataclasses.replace(value, name=result, pads=NO_PADS)
        return Value(writer.node("Flatten", [result], f"{layer.name}_flat"), 2)

    return write


def _dilated_pool(writer, layer, inputs) -> Value:
    """Write the mean of a map and itself shifted, rows first; past the border it is unshifted.

    AveragePool has dilations, but ONNX Runtime allows no padding as wide as the kernel.
    """
    value, name, ends = writer.padded(inputs[0], layer.name), layer.name, np.iinfo("int64").max
    for axis in (2, 3):
        parts = []
        for start in (layer.dilation, -layer.dilation):
            bounds = [writer.integers([x], f"{name}_bound") for x in (start, ends, axis)]
            parts.append(writer.apply("Slice", [value, *bounds], f"{name}_part"))
        shifted = writer.apply("Concat", parts, f"{name}_shifted", axis=axis)
        total = writer.apply("Add", [value, shifted], f"{name}_sum")
        value = _scaled(writer, name, total, 0.5, None)
    return value


LAYERS: dict[type, Writer] = {
    layers.Conv2D: _convolution,
    keras.layers.Conv2D: _convolution,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.SeparableConv2D: _separable,
    keras.layers.Conv2DTranspose: _transposed,
    keras.layers.Dense: _dense,
    layers.ChannelAffine: _per_channel(lambda layer: (layer.scale, layer.offset)),
    keras.layers.Rescaling: _affine,
    keras.layers.BatchNormalization: _per_channel(batch_norm_terms),
    keras.layers.LayerNormalization: _layer_norm,
    keras.layers.Activation: _activation,
    layers.Rectifier: _activation,
    layers.ScaledActivation: _activation,
    keras.layers.ReLU: _rectifier,
    keras.layers.LeakyReLU: plain("LeakyRelu", lambda x, _: {"alpha": float(x.negative_slope)}),
    keras.layers.ELU: plain("Elu", lambda x, _: {"alpha": float(x.alpha)}),
    keras.layers.PReLU: _prelu,
    keras.layers.Softmax: plain("Softmax", one_axis),
    keras.layers.MaxPooling2D: _pool("MaxPool"),
    layers.MaxPool2D: _pool("MaxPool"),
    keras.layers.AveragePooling2D: _pool("AveragePool"),
    layers.DilatedAveragePool2D: _dilated_pool,
    keras.layers.GlobalAveragePooling2D: _global_pool("GlobalAveragePool"),
    keras.layers.GlobalMaxPooling2D: _global_pool("GlobalMaxPool"),
    keras.layers.ZeroPadding2D: zero_padding,
    keras.layers.Cropping2D: cropping,
    keras.layers.Flatten: flatten,
    keras.layers.Reshape: reshape,
    keras.layers.Permute: plain("Transpose", order),
    keras.layers.Concatenate: concatenate,
    keras.layers.UpSampling2D: up_sampling,
    keras.layers.Resizing: resize,
    keras.layers.Add: merge("Add"),
    keras.layers.Subtract: merge("Sub"),
    keras.layers.Multiply: merge("Mul"),
    keras.layers.Average: merge("Add", mean=True),
    keras.layers.Maximum: merge("Max"),
    keras.layers.Minimum: merge("Min"),
}
"""Exact class of a layer -> writer."""

OPERATIONS: dict[str, Writer] = {
    "numpy.Negative": plain("Neg"),
    "numpy.Absolute": plain("Abs"),
    "numpy.Abs": plain("Abs"),
    "numpy.Exp": plain("Exp"),
    "numpy.Log": plain("Log"),
    "numpy.Sqrt": plain("Sqrt"),
    "numpy.Square": square,
    "numpy.Tanh": plain("Tanh"),
    **{f"nn.{kind}": _named(kind.lower()) for kind in ("Relu", "Relu6", "Sigmoid", "Silu")},
    **{f"nn.{kind}": _named(kind.lower()) for kind in ("Softplus", "Gelu")},
    "nn.Softmax": plain("Softmax", one_axis),
    "numpy.Mean": reduce("ReduceMean"),
    "numpy.Sum": reduce("ReduceSum"),
    "numpy.Max": reduce("ReduceMax"),
    "numpy.Min": reduce("ReduceMin"),
    "numpy.Concatenate": concatenate,
    "image.Resize": resize,
}
"""Module and class of a Keras operation -> writer that takes tensors only."""
