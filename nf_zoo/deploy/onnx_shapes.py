"""How layers that move, cut and resize are written in ONNX."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from nf_zoo.deploy.onnx_writer import TO_FILE, TO_KERAS, Unsupported, Value

_FLOAT, _INT64 = 1, 7
"""Types of tensors, by ONNX's numbers."""


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
    source = writer.padded(inputs[0], layer.name)
    return Value(writer.node("Slice", [source, *rows], layer.name), inputs[0].rank)


def _flatten(writer, layer, inputs) -> Value:
    source = writer.to_keras(inputs[0], layer.name)
    return Value(writer.node("Flatten", [source], layer.name, axis=1), 2)


def _reshape(writer, layer, inputs) -> Value:
    # 0 stands for the batch as it is.
    shape = writer.integers([0, *layer.target_shape], f"{layer.name}_shape")
    source = writer.to_keras(inputs[0], layer.name)
    source = writer.node("Reshape", [source, shape], layer.name)
    return writer.from_keras(source, 1 + len(layer.target_shape), layer.name)


def _permute(writer, layer, inputs) -> Value:
    order, rank = [0, *layer.dims], inputs[0].rank
    if rank == 4:
        order = [TO_KERAS[order[axis]] for axis in TO_FILE]
    source = writer.padded(inputs[0], layer.name)
    return Value(writer.node("Transpose", [source], layer.name, perm=order), rank)


def concatenate(writer, operation, inputs) -> Value:
    """The layer, and the operation of the same name."""
    name, axis = operation.name, operation.axis
    if axis is None:
        raise Unsupported("with axis=None")
    names = [writer.padded(value, name) for value in inputs]
    joined = writer.node("Concat", names, name, axis=inputs[0].axis(axis))
    return Value(joined, inputs[0].rank)


def _up_sampling(writer, layer, inputs) -> Value:
    factors = writer.weight(np.array([1, 1, *layer.size], "float32"), f"{layer.name}_factors")
    own = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    if layer.interpolation == "nearest":
        own = {"mode": "nearest", "nearest_mode": "floor"}
        own["coordinate_transformation_mode"] = "asymmetric"
    _check_interpolation(layer)
    source = writer.padded(inputs[0], layer.name)
    return Value(writer.node("Resize", [source, "", factors], layer.name, **own), 4)


def resize(writer, operation, inputs) -> Value:
    """The layer Resizing, and the operation ``keras.ops.image.resize``."""
    _check_interpolation(operation)
    for option in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias"):
        if getattr(operation, option, False):
            raise Unsupported(f"with {option}=True")
    size = getattr(operation, "size", None) or (operation.height, operation.width)
    if inputs[0].rank != 4:
        raise Unsupported(f"on {inputs[0].rank} axes")
    name, source = operation.name, writer.padded(inputs[0], operation.name)
    if operation.interpolation == "nearest":
        for axis, side in zip((2, 3), size, strict=True):
            source = _nearest(writer, source, axis, side, name)
        return Value(source, 4)
    rest = writer.node("Shape", [source], f"{name}_rest", start=0, end=2)
    sides = writer.integers(size, f"{name}_size")
    shape = writer.node("Concat", [rest, sides], f"{name}_shape", axis=0)
    own = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    return Value(writer.node("Resize", [source, "", "", shape], name, **own), 4)


def _nearest(writer, source: str, axis: int, side: int, name: str) -> str:
    """Rows or columns picked as TensorFlow picks them; Resize breaks ties otherwise."""
    before = writer.node("Shape", [source], f"{name}_side", start=axis, end=axis + 1)
    before = writer.node("Cast", [before], f"{name}_side", to=_FLOAT)
    after = writer.weight(np.float32(side), f"{name}_side")
    scale = writer.node("Div", [before, after], f"{name}_scale")
    centers = writer.weight(np.arange(side, dtype="float32") + 0.5, f"{name}_centers")
    places = writer.node("Mul", [centers, scale], f"{name}_places")
    places = writer.node("Floor", [places], f"{name}_places")
    places = writer.node("Cast", [places], f"{name}_places", to=_INT64)
    return writer.node("Gather", [source, places], name, axis=axis)


def _check_interpolation(operation) -> None:
    # TensorFlow reads bicubic weights from a table, so no file would answer alike.
    if operation.interpolation not in ("nearest", "bilinear"):
        raise Unsupported(f"with interpolation={operation.interpolation!r}")


SHAPES = {
    keras.layers.ZeroPadding2D: _zero_padding,
    keras.layers.Cropping2D: _cropping,
    keras.layers.Flatten: _flatten,
    keras.layers.Reshape: _reshape,
    keras.layers.Permute: _permute,
    keras.layers.Concatenate: concatenate,
    keras.layers.UpSampling2D: _up_sampling,
    keras.layers.Resizing: resize,
}
