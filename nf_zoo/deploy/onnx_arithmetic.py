"""How sums, products and other operations without weights are written in ONNX."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from nf_zoo.deploy.onnx_rules import activated, softmax
from nf_zoo.deploy.onnx_shapes import concatenate, resize
from nf_zoo.deploy.onnx_writer import Unsupported, Value


def _elementwise(kind: str) -> Callable:
    """Of tensors and constants, broadcast as NumPy does, in Keras's order of the axes."""

    def write(writer, operation, inputs) -> Value:
        name = operation.name
        inputs = [x if isinstance(x, Value) else _constant(x) for x in inputs]
        tensors = [x for x in inputs if isinstance(x, Value)]
        rank = max(x.rank if isinstance(x, Value) else x.ndim for x in inputs)
        if all(x.rank == rank for x in tensors):
            names = [
                writer.padded(x, name)
                if isinstance(x, Value)
                else writer.constant(x, rank, f"{name}_constant")
                for x in inputs
            ]
            return Value(writer.node(kind, names, name), rank)
        names = [
            writer.to_keras(x, name)
            if isinstance(x, Value)
            else writer.weight(x, f"{name}_constant")
            for x in inputs
        ]
        return writer.from_keras(writer.node(kind, names, name), rank, name)

    return write


def _constant(value) -> np.ndarray:
    if value is None:
        raise Unsupported("with an argument None")
    if isinstance(value, int | float | list | tuple):
        return np.asarray(value, "float32")
    return np.asarray(ops.convert_to_numpy(value), "float32")


def _square(writer, operation, inputs) -> Value:
    source = writer.padded(inputs[0], operation.name)
    return Value(writer.node("Mul", [source, source], operation.name), inputs[0].rank)


def _unary(kind: str) -> Callable:
    def write(writer, operation, inputs) -> Value:
        source = writer.padded(inputs[0], operation.name)
        return Value(writer.node(kind, [source], operation.name), inputs[0].rank)

    return write


def _activation(kind: str) -> Callable:
    def write(writer, operation, inputs) -> Value:
        source = writer.padded(inputs[0], operation.name)
        return activated(writer, Value(source, inputs[0].rank), kind, operation.name)

    return write


def _gelu(writer, operation, inputs) -> Value:
    kind = "gelu_tanh" if operation.approximate else "gelu"
    return _activation(kind)(writer, operation, inputs)


def _reduce(kind: str) -> Callable:
    def write(writer, operation, inputs) -> Value:
        value, name = inputs[0], operation.name
        given = range(value.rank) if operation.axis is None else operation.axis
        axes = sorted({x % value.rank for x in ([given] if isinstance(given, int) else given)})
        if getattr(operation, "initial", None) is not None:
            raise Unsupported(f"with initial={operation.initial}")
        over = writer.integers([value.axis(axis) for axis in axes], f"{name}_axes")
        source = writer.node(kind, [writer.padded(value, name), over], name, keepdims=1)
        if operation.keepdims:
            return Value(source, value.rank)
        # Small by now, so that turning it costs nothing.
        source = writer.to_keras(Value(source, value.rank), name)
        gone = writer.integers(axes, f"{name}_gone")
        source = writer.node("Squeeze", [source, gone], f"{name}_squeezed")
        return writer.from_keras(source, value.rank - len(axes), name)

    return write


def _merge(kind: str, mean: bool = False) -> Callable:
    """A layer that joins two or more; one of a lower rank gets axes behind the batch."""

    def write(writer, layer, inputs) -> Value:
        rank = max(value.rank for value in inputs)
        result, *others = (_of_rank(writer, value, rank, layer.name) for value in inputs)
        for other in others:
            result = writer.node(kind, [result, other], layer.name)
        if mean:
            share = writer.weight(np.float32(1 / len(inputs)), f"{layer.name}_share")
            result = writer.node("Mul", [result, share], f"{layer.name}_mean")
        return Value(result, rank)

    return write


def _of_rank(writer, value: Value, rank: int, name: str) -> str:
    if value.rank == rank:
        return writer.padded(value, name)
    axes = writer.integers(range(1, 1 + rank - value.rank), f"{name}_axes")
    source = writer.node("Unsqueeze", [writer.to_keras(value, name), axes], f"{name}_unsqueezed")
    return writer.from_keras(source, rank, name).name


ARITHMETIC = {
    "numpy.Add": _elementwise("Add"),
    "numpy.Subtract": _elementwise("Sub"),
    "numpy.Multiply": _elementwise("Mul"),
    "numpy.Divide": _elementwise("Div"),
    "numpy.TrueDivide": _elementwise("Div"),
    "numpy.Maximum": _elementwise("Max"),
    "numpy.Minimum": _elementwise("Min"),
    "numpy.Power": _elementwise("Pow"),
}
"""Module and class of an operation of Keras -> (writer, operation, values and constants)."""

OPERATIONS = {
    "numpy.Negative": _unary("Neg"),
    "numpy.Absolute": _unary("Abs"),
    "numpy.Abs": _unary("Abs"),
    "numpy.Exp": _unary("Exp"),
    "numpy.Log": _unary("Log"),
    "numpy.Sqrt": _unary("Sqrt"),
    "numpy.Square": _square,
    "numpy.Tanh": _unary("Tanh"),
    "nn.Relu": _activation("relu"),
    "nn.Relu6": _activation("relu6"),
    "nn.Sigmoid": _activation("sigmoid"),
    "nn.Silu": _activation("silu"),
    "nn.Softplus": _activation("softplus"),
    "nn.Gelu": _gelu,
    "nn.Softmax": softmax,
    "numpy.Mean": _reduce("ReduceMean"),
    "numpy.Sum": _reduce("ReduceSum"),
    "numpy.Max": _reduce("ReduceMax"),
    "numpy.Min": _reduce("ReduceMin"),
    "numpy.Concatenate": concatenate,
    "image.Resize": resize,
}
"""The same for those that take tensors alone."""

MERGES = {
    keras.layers.Add: _merge("Add"),
    keras.layers.Subtract: _merge("Sub"),
    keras.layers.Multiply: _merge("Mul"),
    keras.layers.Average: _merge("Add", mean=True),
    keras.layers.Maximum: _merge("Max"),
    keras.layers.Minimum: _merge("Min"),
}
