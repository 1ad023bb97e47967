"""Writers of operations without weights in ONNX: those that move, resize, combine and reduce.

A writer takes the graph that is being written, the layer or operation, and the values of its
inputs, and returns the value of its output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from nf_zoo.deploy.onnx_graph import TO_FILE, TO_KERAS, GraphWriter, Unsupported, Value

Writer = Callable[[GraphWriter, Any, list], Value]

_FLOAT, _INT64 = 1, 7
"""ONNX's numbers for the types of tensors."""


def values_of(variable) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable), "float32")


def plain(kind: str, attributes: Callable = lambda operation, value: {}) -> Writer:
    """Return a writer of a single node whose attributes follow from the layer and its input."""

    def write(writer, operation, inputs) -> Value:
        own = attributes(operation, inputs[0])
        return writer.apply(kind, inputs[:1], operation.name, **own)

    return write


# Layers and operations that move, cut and resize.


def zero_padding(writer, layer, inputs) -> Value:
    (top, bottom), (left, right) = layer.padding
    more = (top, left, bottom, right)
    pads = tuple(a + b for a, b in zip(inputs[0].pads, more, strict=True))
    return dataclasses.replace(inputs[0], pads=pads)


def cropping(writer, layer, inputs) -> Value:
    (top, bottom), (left, right) = layer.cropping
    ends = [-side if side else np.iinfo("int64").max for side in (bottom, right)]
    parts = ([top, left], ends, [2, 3])
    rows = [writer.integers(part, f"{layer.name}_range") for part in parts]
    return writer.apply("Slice", [inputs[0], *rows], layer.name)


def flatten(writer, layer, inputs) -> Value:
    source = writer.to_keras(inputs[0], layer.name)
    return Value(writer.node("Flatten", [source], layer.name, axis=1), 2)


def reshape(writer, layer, inputs) -> Value:
    # 0 keeps the batch.
    shape = writer.integers([0, *layer.target_shape], f"{layer.name}_shape")
    source = writer.to_keras(inputs[0], layer.name)
    source = writer.node("Reshape", [source, shape], layer.name)
    return writer.from_keras(source, 1 + len(layer.target_shape), layer.name)


def order(layer, value: Value) -> dict:
    order = [0, *layer.dims]
    return {"perm": [TO_KERAS[order[axis]] for axis in TO_FILE] if value.rank == 4 else order}


def one_axis(operation, value: Value) -> dict:
    if not isinstance(operation.axis, int):
        raise Unsupported(f"with axis={operation.axis}")
    return {"axis": value.axis(operation.axis)}


def concatenate(writer, operation, inputs) -> Value:
    return writer.apply("Concat", inputs, operation.name, **one_axis(operation, inputs[0]))


_BILINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
_REPEATED = {"mode": "nearest", "nearest_mode": "floor"}
_REPEATED["coordinate_transformation_mode"] = "asymmetric"


def up_sampling(writer, layer, inputs) -> Value:
    _check_interpolation(layer)
    factors = writer.weight(np.array([1, 1, *layer.size], "float32"), f"{layer.name}_factors")
    own = _REPEATED if layer.interpolation == "nearest" else _BILINEAR
    return writer.apply("Resize", [inputs[0], "", factors], layer.name, **own)


def resize(writer, operation, inputs) -> Value:
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
    value = writer.padded(value, name)
    sides = [_sides(writer, value, [0, 1], name), writer.integers(size, f"{name}_size")]
    sides = writer.node("Concat", sides, f"{name}_sides", axis=0)
    return writer.apply("Resize", [value, "", "", sides], name, **_BILINEAR)


def _sides(writer, value: Value, axes: list[int], name: str) -> str:
    """Return the name of a vector of the tensor's lengths along axes of the file."""
    shape = writer.node("Shape", [value], f"{name}_shape")
    return writer.node("Gather", [shape, writer.integers(axes, f"{name}_axes")], f"{name}_side")


def _nearest(writer, value: Value, axis: int, side: int, name: str) -> Value:
    """Pick rows or columns as TensorFlow does; Resize breaks ties differently."""
    value = writer.padded(value, name)
    before = _sides(writer, value, [axis], name)
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
    return values_of(value)


def square(writer, operation, inputs) -> Value:
    value = writer.padded(inputs[0], operation.name)
    return writer.apply("Mul", [value, value], operation.name)


def reduce(kind: str) -> Writer:
    def write(writer, operation, inputs) -> Value:
        value, name = inputs[0], operation.name
        given = range(value.rank) if operation.axis is None else operation.axis
        axes = sorted({x % value.rank for x in ([given] if isinstance(given, int) else given)})
        if getattr(operation, "initial", None) is not None:
            raise Unsupported(f"with initial={operation.initial}")
        over = [value.axis(axis) for axis in axes]
        if writer.opset >= 18 or kind == "ReduceSum":
            over = writer.integers(over, f"{name}_axes")
            reduced = writer.apply(kind, [value, over], name, keepdims=1)
        else:
            reduced = writer.apply(kind, [value], name, keepdims=1, axes=over)
        if operation.keepdims:
            return reduced
        # The tensor is small by now, so transposing it costs nothing.
        gone = writer.integers(axes, f"{name}_gone")
        source = [writer.to_keras(reduced, name), gone]
        source = writer.node("Squeeze", source, f"{name}_squeezed")
        return writer.from_keras(source, value.rank - len(axes), name)

    return write


def merge(kind: str, mean: bool = False) -> Writer:
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
