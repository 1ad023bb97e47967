"""How each layer of a folded model is written in ONNX."""

from __future__ import annotations

import dataclasses

import numpy as np
from keras import ops

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


def _activated(writer, name: str, activation, layer) -> str:
    """``name`` after an activation, given by name or as a function of Keras."""
    kind = getattr(activation, "__name__", activation)
    if kind in ("linear", "identity", None):
        return name
    made = f"{layer.name}_{kind}"
    if kind in ("silu", "swish"):
        gate = writer.node("Sigmoid", [name], f"{made}_sigmoid")
        return writer.node("Mul", [name, gate], made)
    if kind not in _SIMPLE:
        raise ValueError(
            f"ONNX export knows the activations {', '.join(sorted([*_SIMPLE, 'silu']))}; "
            "export_saved_model writes every activation that TensorFlow runs. "
            f"Received: {kind!r} of the layer {layer.name!r}"
        )
    operation, attributes = _SIMPLE[kind]
    return writer.node(operation, [name], made, **attributes)


def _convolution(writer, layer, inputs):
    """Either Conv2D; zeros that are still to be added go into it."""
    value = inputs[0]
    strides, dilation = _one(layer.strides), _one(_first(layer, "dilation", "dilation_rate"))
    own = {"strides": [strides] * 2, "dilations": [dilation] * 2, "group": layer.groups}
    reach = [dilation * (size - 1) for size in layer.kernel.shape[:2]]
    half = [extent // 2 for extent in reach] * 2
    source, pads, padding = value.name, value.pads, layer.padding
    if padding == "same" and strides == 1 and not any(extent % 2 for extent in reach):
        padding = "symmetric"
    if padding in ("reflect", "circular"):
        source, pads = _pad_with_pixels(writer, layer, value, half), (0, 0, 0, 0)
    elif padding != "valid" and any(pads):
        source, pads = writer.padded(value, layer.name), (0, 0, 0, 0)
    if padding == "same" and any(reach):
        own["auto_pad"] = "SAME_UPPER"
    else:
        own["pads"] = half if padding == "symmetric" else list(pads)
    kernel = writer.weight(_array(layer.kernel).transpose(3, 2, 0, 1), f"{layer.name}_kernel")
    bias = [] if layer.bias is None else [writer.weight(_array(layer.bias), f"{layer.name}_bias")]
    name = writer.node("Conv", [source, kernel, *bias], layer.name, **own)
    name = _activated(writer, name, getattr(layer, "activation", None), layer)
    return _value(value, name)


def _pad_with_pixels(writer, layer, value, half: list[int]) -> str:
    pads = writer.weight(np.array([0, 0, *half[:2], 0, 0, *half[2:]]), f"{layer.name}_pads")
    mode = {"reflect": "reflect", "circular": "wrap"}[layer.padding]
    source = writer.padded(value, layer.name)
    return writer.node("Pad", [source, pads], f"{layer.name}_padded", mode=mode)


def _dense(writer, layer, inputs):
    kernel = writer.weight(_array(layer.kernel), f"{layer.name}_kernel")
    bias = [] if layer.bias is None else [writer.weight(_array(layer.bias), f"{layer.name}_bias")]
    if inputs[0].rank != 2:
        raise ValueError(f"ONNX export knows Dense on (N, C). Received: {layer.name!r}")
    name = writer.node("Gemm", [inputs[0].name, kernel, *bias], layer.name)
    name = _activated(writer, name, layer.activation, layer)
    return _value(inputs[0], name)


def _affine(writer, layer, inputs):
    name = writer.padded(inputs[0], layer.name)
    for operation, variable in (("Mul", layer.scale), ("Add", layer.offset)):
        if variable is not None:
            array = _array(variable)
            if array.ndim and inputs[0].rank == 4:
                array = array[:, None, None]
            weight = writer.weight(array, f"{layer.name}_{operation.lower()}_weight")
            name = writer.node(operation, [name, weight], f"{layer.name}_{operation.lower()}")
    return _value(inputs[0], name)


def _activation(writer, layer, inputs):
    source = writer.padded(inputs[0], layer.name)
    name = _activated(writer, source, layer.activation, layer)
    kind = getattr(layer.activation, "__name__", layer.activation)
    if getattr(layer, "gamma", 1.0) != 1.0:
        factor = writer.weight(np.float32(layer.gamma), f"{layer.name}_gamma")
        name = writer.node("Mul", [name, factor], f"{layer.name}_scaled")
    return dataclasses.replace(_value(inputs[0], name), not_negative=kind == "relu")


def _zero_padding(writer, layer, inputs):
    (top, bottom), (left, right) = layer.padding
    more = (top, left, bottom, right)
    pads = tuple(a + b for a, b in zip(inputs[0].pads, more, strict=True))
    return dataclasses.replace(inputs[0], pads=pads)


def _pool(operation: str):
    def write(writer, layer, inputs):
        value = inputs[0]
        size, strides = _one(layer.pool_size), _one(layer.strides)
        own = {"kernel_shape": [size] * 2, "strides": [strides] * 2}
        source, pads = value.name, value.pads
        # A maximum is padded with minus infinity, so zeros go in only where they change nothing.
        if any(pads) and not (operation == "MaxPool" and value.not_negative):
            source, pads = writer.padded(value, layer.name), (0, 0, 0, 0)
        if layer.padding == "same":
            own["auto_pad"] = "SAME_UPPER"
        elif layer.padding in ("symmetric", "mirrored"):
            own["pads"] = [(size - 1) // 2] * 4
        else:
            own["pads"] = list(pads)
        return _value(value, writer.node(operation, [source], layer.name, **own))

    return write


def _dilated_average(writer, layer, inputs):
    source, d = writer.padded(inputs[0], layer.name), layer.dilation
    own = {"kernel_shape": [2, 2], "dilations": [d, d], "pads": [0, 0, d, d]}
    return _value(inputs[0], writer.node("AveragePool", [source], layer.name, **own))


def _global_pool(operation: str):
    def write(writer, layer, inputs):
        source = writer.padded(inputs[0], layer.name)
        name = writer.node(operation, [source], layer.name)
        if layer.keepdims:
            return _value(inputs[0], name)
        return _value(inputs[0], writer.node("Flatten", [name], f"{layer.name}_flat"), rank=2)

    return write


def _merge(operation: str):
    def write(writer, layer, inputs):
        name, *others = (writer.padded(value, layer.name) for value in inputs)
        for other in others:
            name = writer.node(operation, [name, other], layer.name)
        return _value(max(inputs, key=lambda value: value.rank), name)

    return write


def _concatenate(writer, layer, inputs):
    axis = 1 if inputs[0].rank == 4 else -1
    if layer.axis not in (-1, inputs[0].rank - 1):
        raise ValueError(f"ONNX export joins channels alone. Received: {layer.name!r}")
    names = [writer.padded(value, layer.name) for value in inputs]
    return _value(inputs[0], writer.node("Concat", names, layer.name, axis=axis))


def _permute(writer, layer, inputs):
    """Width and channels change places, which NCHW has at other axes."""
    if tuple(layer.dims) != (1, 3, 2):
        raise ValueError(
            f"ONNX export knows Permute((1, 3, 2)). Received: {layer.dims} of {layer.name!r}"
        )
    source = writer.padded(inputs[0], layer.name)
    return _value(inputs[0], writer.node("Transpose", [source], layer.name, perm=[0, 3, 2, 1]))


def _value(like, name: str, rank: int | None = None):
    rank = like.rank if rank is None else rank
    return type(like)(name, rank)


def _one(value) -> int:
    """The side of a square, given once or twice."""
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) != 1:
        raise ValueError(f"ONNX export knows the same extent on both sides. Received: {value}")
    return sides.pop()


def _first(layer, *names: str):
    return next(getattr(layer, name) for name in names if hasattr(layer, name))


RULES = {
    "Conv2D": _convolution,
    "Dense": _dense,
    "ChannelAffine": _affine,
    "Activation": _activation,
    "Rectifier": _activation,
    "ScaledActivation": _activation,
    "ZeroPadding2D": _zero_padding,
    "MaxPooling2D": _pool("MaxPool"),
    "MaxPool2D": _pool("MaxPool"),
    "AveragePooling2D": _pool("AveragePool"),
    "DilatedAveragePool2D": _dilated_average,
    "GlobalAveragePooling2D": _global_pool("GlobalAveragePool"),
    "GlobalMaxPooling2D": _global_pool("GlobalMaxPool"),
    "Add": _merge("Add"),
    "Multiply": _merge("Mul"),
    "Concatenate": _concatenate,
    "Permute": _permute,
}
"""Class of a layer of Keras or nf_zoo -> (writer, layer, input values) -> its value."""
