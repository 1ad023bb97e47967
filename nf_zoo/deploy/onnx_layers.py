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
from keras import ops

from nf_zoo import layers
from nf_zoo.deploy.lowering import batch_norm_terms
from nf_zoo.deploy.onnx_graph import NO_PADS, TO_FILE, TO_KERAS, GraphWriter, Unsupported, Value

Writer = Callable[[GraphWriter, Any, list], Value]

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
_FLOAT, _INT64 = 1, 7
"""ONNX's numbers for the types of tensors."""


def _array(variable) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable), "float32")


def _pair(value) -> list[int]:
    return [value] * 2 if isinstance(value, int) else list(value)


def _plain(kind: str, attributes: Callable = lambda operation, value: {}) -> Writer:
    """Return a writer of a single node whose attributes follow from the layer and its input."""

    def write(writer, operation, inputs) -> Value:
        own = attributes(operation, inputs[0])
        return writer.apply(kind, inputs[:1], operation.name, **own)

    return write


# Layers with weights.


def _weights(writer, layer, kernel: np.ndarray) -> list[str]:
    """Return the names of a kernel and, if the layer has one, of its bias."""
    names = [writer.weight(kernel, f"{layer.name}_kernel")]
    if layer.bias is not None:
        names.append(writer.weight(_array(layer.bias), f"{layer.name}_bias"))
    return names


def _convolution(writer, layer, inputs) -> Value:
    """Write either Conv2D, with the pending zeros of its input as its padding."""
    kernel = _array(layer.kernel).transpose(3, 2, 0, 1)
    value = _convolved(writer, layer, inputs[0], kernel, layer.groups)
    return _activated(writer, value, getattr(layer, "activation", None), layer.name)


def _depthwise(writer, layer, inputs) -> Value:
    value = _convolved(writer, layer, inputs[0], *_by_channel(layer.kernel))
    return _activated(writer, value, layer.activation, layer.name)


def _separable(writer, layer, inputs) -> Value:
    kernel, groups = _by_channel(layer.depthwise_kernel)
    value = _convolved(writer, layer, inputs[0], kernel, groups, "_depthwise")
    kernel = _array(layer.pointwise_kernel).transpose(3, 2, 0, 1)
    value = writer.apply("Conv", [value, *_weights(writer, layer, kernel)], layer.name)
    return _activated(writer, value, layer.activation, layer.name)


def _by_channel(kernel) -> tuple[np.ndarray, int]:
    """Return a kernel (kh, kw, C, multiplier) as (C * multiplier, 1, kh, kw), and the C groups."""
    *sides, channels, multiplier = kernel.shape
    kernel = _array(kernel).reshape(*sides, 1, channels * multiplier)
    return kernel.transpose(3, 2, 0, 1), channels


def _convolved(writer, layer, value: Value, kernel, groups: int, part: str = "") -> Value:
    """Write a convolution; the first of two, with a ``part`` after its name, has no bias."""
    dilations = _pair(getattr(layer, "dilation", None) or layer.dilation_rate)
    own = {"strides": _pair(layer.strides), "dilations": dilations, "group": groups}
    reach = [d * (size - 1) for d, size in zip(dilations, kernel.shape[2:], strict=True)]
    half, padding = [extent // 2 for extent in reach], layer.padding
    if padding in ("reflect", "circular"):
        pads = writer.integers([0, 0, *half, 0, 0, *half], f"{layer.name}_pads")
        mode = {"reflect": "reflect", "circular": "wrap"}[padding]
        value = writer.apply("Pad", [value, pads], f"{layer.name}_padded", mode=mode)
    elif padding != "valid":
        value = writer.padded(value, layer.name)
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
    weights = _weights(writer, layer, _array(layer.kernel).transpose(3, 2, 0, 1))
    own = {"strides": strides, "dilations": dilations, "pads": [*before, *after]}
    own["output_padding"] = rest
    value = writer.apply("ConvTranspose", [inputs[0], *weights], layer.name, **own)
    return _activated(writer, value, layer.activation, layer.name)


def _dense(writer, layer, inputs) -> Value:
    kernel, value = _array(layer.kernel), inputs[0]
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
            weight = writer.constant(_array(array), value.rank, f"{made}_weight")
            value = writer.apply(operation, [value, weight], made)
    return value


def _affine(writer, layer, inputs) -> Value:
    return _scaled(writer, layer.name, inputs[0], layer.scale, layer.offset)


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
    if kind not in _ACTIVATIONS:
        known = ", ".join(sorted([*_ACTIVATIONS, "silu", "relu6"]))
        raise Unsupported(f"with activation={kind!r}, which must be one of {known}")
    operation, attributes = _ACTIVATIONS[kind]
    if "axis" in attributes:
        attributes = {"axis": value.axis(-1)}
    value = writer.apply(operation, [value], made, **attributes)
    return dataclasses.replace(value, not_negative=kind == "relu")


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
    slope = writer.constant(_array(layer.alpha), inputs[0].rank, f"{layer.name}_slope")
    return writer.apply("PRelu", [inputs[0], slope], layer.name)


# Poolings.


def _pool(operation: str) -> Writer:
    def write(writer, layer, inputs) -> Value:
        value, size = inputs[0], _pair(layer.pool_size)
        own = {"kernel_shape": size, "strides": _pair(layer.strides)}
        # MaxPool pads with minus infinity, so it takes pending zeros only if no value is below 0.
        if not (operation == "MaxPool" and value.not_negative):
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


# Layers and operations that move, cut and resize.


def _zero_padding(writer, layer, inputs) -> Value:
    (top, bottom), (left, right) = layer.padding
    more = (top, left, bottom, right)
    pads = tuple(a + b for a, b in zip(inputs[0].pads, more, strict=True))
    return dataclasses.replace(inputs[0], pads=pads)


def _cropping(writer, layer, inputs) -> Value:
    (top, bottom), (left, right) = layer.cropping
    ends = [-side if side else np.iinfo("int64").max for side in (bottom, right)]
    parts = ([top, left], ends, [2, 3])
    rows = [writer.integers(part, f"{layer.name}_range") for part in parts]
    return writer.apply("Slice", [inputs[0], *rows], layer.name)


def _flatten(writer, layer, inputs) -> Value:
    source = writer.to_keras(inputs[0], layer.name)
    return Value(writer.node("Flatten", [source], layer.name, axis=1), 2)


def _reshape(writer, layer, inputs) -> Value:
    # 0 keeps the batch.
    shape = writer.integers([0, *layer.target_shape], f"{layer.name}_shape")
    source = writer.to_keras(inputs[0], layer.name)
    source = writer.node("Reshape", [source, shape], layer.name)
    return writer.from_keras(source, 1 + len(layer.target_shape), layer.name)


def _order(layer, value: Value) -> dict:
    order = [0, *layer.dims]
    return {"perm": [TO_KERAS[order[axis]] for axis in TO_FILE] if value.rank == 4 else order}


def _one_axis(operation, value: Value) -> dict:
    if not isinstance(operation.axis, int):
        raise Unsupported(f"with axis={operation.axis}")
    return {"axis": value.axis(operation.axis)}


def _concatenate(writer, operation, inputs) -> Value:
    return writer.apply("Concat", inputs, operation.name, **_one_axis(operation, inputs[0]))


_BILINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
_REPEATED = {"mode": "nearest", "nearest_mode": "floor"}
_REPEATED["coordinate_transformation_mode"] = "asymmetric"


def _up_sampling(writer, layer, inputs) -> Value:
    _check_interpolation(layer)
    factors = writer.weight(np.array([1, 1, *layer.size], "float32"), f"{layer.name}_factors")
    own = _REPEATED if layer.interpolation == "nearest" else _BILINEAR
    return writer.apply("Resize", [inputs[0], "", factors], layer.name, **own)


def _resize(writer, operation, inputs) -> Value:
    """Write the layer Resizing or the operation ``keras.ops.image.resize``."""
    _check_interpolation(operation)
    for option in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias"):
        if getattr(operation, option, False):
            raise Unsupported(f"with {option}=True")
    size = getattr(operation, "size", None) or (operation.height, operation.width)
    name, value = operation.name, inputs[0]
    if value.rank != 4:
        raise Unsupported(f"on {value.rank} axes")
    if operation.interpolation == "nearest":
        for axis, side in zip((2, 3), size, strict=True):
            value = _nearest(writer, value, axis, side, name)
        return value
    sides = writer.integers(size, f"{name}_size")
    return writer.apply("Resize", [value, "", "", sides], name, axes=[2, 3], **_BILINEAR)


def _nearest(writer, value: Value, axis: int, side: int, name: str) -> Value:
    """Pick rows or columns as TensorFlow does; Resize breaks ties differently."""
    value = writer.padded(value, name)
    before = writer.node("Shape", [value], f"{name}_side", start=axis, end=axis + 1)
    before = writer.node("Cast", [before], f"{name}_side", to=_FLOAT)
    after = writer.weight(np.float32(side), f"{name}_side")
    scale = writer.node("Div", [before, after], f"{name}_scale")
    centers = writer.weight(np.arange(side, dtype="float32") + 0.5, f"{name}_centers")
    places = writer.node("Mul", [centers, scale], f"{name}_places")
    places = writer.node("Floor", [places], f"{name}_places")
    places = writer.node("Cast", [places], f"{name}_places", to=_INT64)
    return writer.apply("Gather", [value, places], name, axis=axis)


def _check_interpolation(operation) -> None:
    # TensorFlow reads bicubic weights from a table, so a file would answer differently.
    if operation.interpolation not in ("nearest", "bilinear"):
        raise Unsupported(f"with interpolation={operation.interpolation!r}")


# Arithmetic.


def _elementwise(kind: str) -> Writer:
    """Return a writer for tensors and constants, broadcast as in NumPy in Keras's axis order."""

    def write(writer, operation, inputs) -> Value:
        name, constant = operation.name, f"{operation.name}_constant"
        inputs = [x if isinstance(x, Value) else _constant(x) for x in inputs]
        rank = max(x.rank if isinstance(x, Value) else x.ndim for x in inputs)
        if all(x.rank == rank for x in inputs if isinstance(x, Value)):
            names = [
                x if isinstance(x, Value) else writer.constant(x, rank, constant) for x in inputs
            ]
            return Value(writer.node(kind, names, name), rank)
        names = [
            writer.to_keras(x, name) if isinstance(x, Value) else writer.weight(x, constant)
            for x in inputs
        ]
        return writer.from_keras(writer.node(kind, names, name), rank, name)

    return write


def _constant(value) -> np.ndarray:
    if value is None:
        raise Unsupported("with an argument None")
    if isinstance(value, int | float | list | tuple):
        return np.asarray(value, "float32")
    return _array(value)


def _square(writer, operation, inputs) -> Value:
    value = writer.padded(inputs[0], operation.name)
    return writer.apply("Mul", [value, value], operation.name)


def _reduce(kind: str) -> Writer:
    def write(writer, operation, inputs) -> Value:
        value, name = inputs[0], operation.name
        given = range(value.rank) if operation.axis is None else operation.axis
        axes = sorted({x % value.rank for x in ([given] if isinstance(given, int) else given)})
        if getattr(operation, "initial", None) is not None:
            raise Unsupported(f"with initial={operation.initial}")
        over = writer.integers([value.axis(axis) for axis in axes], f"{name}_axes")
        reduced = writer.apply(kind, [value, over], name, keepdims=1)
        if operation.keepdims:
            return reduced
        # The tensor is small by now, so transposing it costs nothing.
        gone = writer.integers(axes, f"{name}_gone")
        source = [writer.to_keras(reduced, name), gone]
        source = writer.node("Squeeze", source, f"{name}_squeezed")
        return writer.from_keras(source, value.rank - len(axes), name)

    return write


def _merge(kind: str, mean: bool = False) -> Writer:
    """Return a writer that joins two or more; a lower rank gets axes behind the batch."""

    def write(writer, layer, inputs) -> Value:
        rank = max(value.rank for value in inputs)
        result, *others = (_of_rank(writer, value, rank, layer.name) for value in inputs)
        for other in others:
            result = writer.apply(kind, [result, other], layer.name)
        if mean:
            share = writer.weight(np.float32(1 / len(inputs)), f"{layer.name}_share")
            result = writer.apply("Mul", [result, share], f"{layer.name}_mean")
        return result

    return write


def _of_rank(writer, value: Value, rank: int, name: str) -> Value:
    if value.rank == rank:
        return value
    axes = writer.integers(range(1, 1 + rank - value.rank), f"{name}_axes")
    source = writer.node("Unsqueeze", [writer.to_keras(value, name), axes], f"{name}_unsqueezed")
    return writer.from_keras(source, rank, name)


LAYERS: dict[type, Writer] = {
    layers.Conv2D: _convolution,
    keras.layers.Conv2D: _convolution,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.SeparableConv2D: _separable,
    keras.layers.Conv2DTranspose: _transposed,
    keras.layers.Dense: _dense,
    layers.ChannelAffine: _affine,
    keras.layers.Rescaling: _affine,
    keras.layers.BatchNormalization: _batch_norm,
    keras.layers.LayerNormalization: _layer_norm,
    keras.layers.Activation: _activation,
    layers.Rectifier: _activation,
    layers.ScaledActivation: _activation,
    keras.layers.ReLU: _rectifier,
    keras.layers.LeakyReLU: _plain("LeakyRelu", lambda x, _: {"alpha": float(x.negative_slope)}),
    keras.layers.ELU: _plain("Elu", lambda x, _: {"alpha": float(x.alpha)}),
    keras.layers.PReLU: _prelu,
    keras.layers.Softmax: _plain("Softmax", _one_axis),
    keras.layers.MaxPooling2D: _pool("MaxPool"),
    layers.MaxPool2D: _pool("MaxPool"),
    keras.layers.AveragePooling2D: _pool("AveragePool"),
    layers.DilatedAveragePool2D: _plain(
        "AveragePool",
        lambda x, _: {
            "kernel_shape": [2, 2],
            "dilations": [x.dilation] * 2,
            "pads": [0, 0, x.dilation, x.dilation],
        },
    ),
    keras.layers.GlobalAveragePooling2D: _global_pool("GlobalAveragePool"),
    keras.layers.GlobalMaxPooling2D: _global_pool("GlobalMaxPool"),
    keras.layers.ZeroPadding2D: _zero_padding,
    keras.layers.Cropping2D: _cropping,
    keras.layers.Flatten: _flatten,
    keras.layers.Reshape: _reshape,
    keras.layers.Permute: _plain("Transpose", _order),
    keras.layers.Concatenate: _concatenate,
    keras.layers.UpSampling2D: _up_sampling,
    keras.layers.Resizing: _resize,
    keras.layers.Add: _merge("Add"),
    keras.layers.Subtract: _merge("Sub"),
    keras.layers.Multiply: _merge("Mul"),
    keras.layers.Average: _merge("Add", mean=True),
    keras.layers.Maximum: _merge("Max"),
    keras.layers.Minimum: _merge("Min"),
}
"""Exact class of a layer -> writer."""

ARITHMETIC: dict[str, Writer] = {
    "numpy.Add": _elementwise("Add"),
    "numpy.Subtract": _elementwise("Sub"),
    "numpy.Multiply": _elementwise("Mul"),
    "numpy.Divide": _elementwise("Div"),
    "numpy.TrueDivide": _elementwise("Div"),
    "numpy.Maximum": _elementwise("Max"),
    "numpy.Minimum": _elementwise("Min"),
    "numpy.Power": _elementwise("Pow"),
}
"""Module and class of a Keras operation -> writer that takes constants too."""

OPERATIONS: dict[str, Writer] = {
    "numpy.Negative": _plain("Neg"),
    "numpy.Absolute": _plain("Abs"),
    "numpy.Abs": _plain("Abs"),
    "numpy.Exp": _plain("Exp"),
    "numpy.Log": _plain("Log"),
    "numpy.Sqrt": _plain("Sqrt"),
    "numpy.Square": _square,
    "numpy.Tanh": _plain("Tanh"),
    **{f"nn.{kind}": _named(kind.lower()) for kind in ("Relu", "Relu6", "Sigmoid", "Silu")},
    **{f"nn.{kind}": _named(kind.lower()) for kind in ("Softplus", "Gelu")},
    "nn.Softmax": _plain("Softmax", _one_axis),
    "numpy.Mean": _reduce("ReduceMean"),
    "numpy.Sum": _reduce("ReduceSum"),
    "numpy.Max": _reduce("ReduceMax"),
    "numpy.Min": _reduce("ReduceMin"),
    "numpy.Concatenate": _concatenate,
    "image.Resize": _resize,
}
"""Module and class of a Keras operation -> writer that takes tensors only."""
