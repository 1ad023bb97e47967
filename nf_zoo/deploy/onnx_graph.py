"""A folded Keras model as an ONNX graph.

Written node by node: pictures are turned to NCHW once, paddings go into the convolutions and
poolings, and grouped convolutions stay single nodes, which no general converter manages.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from nf_zoo import functional
from nf_zoo.deploy.graph import Names
from nf_zoo.deploy.metadata import output_names
from nf_zoo.deploy.onnx_rules import RULES

OPSET = 20
"""The first with Gelu and with dilated average pooling; ONNX Runtime 1.17 reads it."""
IR_VERSION = 9


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor of the graph; of rank 4 always NCHW.

    Attributes:
        name: in the graph.
        rank: number of axes.
        pads: zeros still to be put around it, (top, left, bottom, right).
        not_negative: whether it comes from a ReLU, so that zeros pad a maximum.
    """

    name: str
    rank: int
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    not_negative: bool = False


class GraphWriter:
    """Collects the nodes and weights of a graph."""

    def __init__(self, onnx):
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.names = Names()
        self._constants: dict[tuple, str] = {}

    def node(self, operation: str, inputs: list[str], name: str, **attributes) -> str:
        """A node; the name of its result."""
        name = self.names.unique(name)
        made = self._onnx.helper.make_node(operation, inputs, [name], name=name, **attributes)
        self.nodes.append(made)
        return name

    def weight(self, array, name: str) -> str:
        """A constant tensor, float32 unless it is of integers."""
        array = np.asarray(array)
        if array.dtype.kind == "f":
            array = array.astype("float32")
        small = array.size <= 4
        key = (array.dtype.str, array.shape, array.tobytes()) if small else None
        if small and key in self._constants:
            return self._constants[key]
        name = self.names.unique(name)
        self.weights.append(self._onnx.numpy_helper.from_array(array, name))
        if small:
            self._constants[key] = name
        return name

    def padded(self, value: Value, name: str) -> str:
        """The tensor with its pending zeros around it."""
        if not any(value.pads):
            return value.name
        top, left, bottom, right = value.pads
        pads = self.weight(np.array([0, 0, top, left, 0, 0, bottom, right]), f"{name}_pads")
        return self.node("Pad", [value.name, pads], f"{name}_padded")


def to_onnx(onnx, model, metadata: dict[str, str]):
    """The ONNX model of a folded Keras model.

    Args:
        onnx: the module.
        model: a FoldedModel; float32 weights, whatever its policy.
        metadata: for ``metadata_props``.

    Returns:
        An ``onnx.ModelProto`` with one input for each of the model's and its outputs in order,
        all as Keras has them (NHWC), the batch and free sides dynamic.

    Raises:
        ValueError: naming a layer that ONNX export does not know.
    """
    writer = GraphWriter(onnx)
    values: dict[int, Value] = {}
    inputs = []
    for tensor in model.inputs:
        name = writer.names.unique(tensor._keras_history.operation.name)
        inputs.append(_value_info(onnx, name, tensor.shape))
        values[id(tensor)] = _from_keras(writer, name, len(tensor.shape))
    for node in functional.nodes_of(model):
        rule = RULES.get(type(node.operation).__name__)
        known = type(node.operation).__module__.startswith(("keras.", "nf_zoo."))
        if rule is None or not known or len(node.outputs) != 1:
            raise ValueError(_unknown(node.operation))
        arguments = [values[id(x)] for x in node.input_tensors]
        values[id(node.outputs[0])] = rule(writer, node.operation, arguments)
    outputs = []
    for name, tensor in zip(output_names(model), model.outputs, strict=True):
        _to_keras(writer, values[id(tensor)], name)
        outputs.append(_value_info(onnx, name, tensor.shape))
    graph = onnx.helper.make_graph(writer.nodes, model.name, inputs, outputs, writer.weights)
    opset = [onnx.helper.make_opsetid("", OPSET)]
    made = onnx.helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    made.producer_name = "nf_zoo"
    onnx.helper.set_model_props(made, metadata)
    return made


def _unknown(operation) -> str:
    return (
        "An ONNX file cannot hold this layer; export_saved_model writes every layer that "
        f"TensorFlow runs. Received: {operation.name!r} ({type(operation).__name__})"
    )


def _value_info(onnx, name: str, shape):
    # Free sides of the same name would have to be equal: each has its own.
    free = ["batch", "height", "width"] if len(shape) == 4 else ["batch"]
    sides = [
        (f"{name}_{free[axis]}" if axis else "batch") if side is None else side
        for axis, side in enumerate(shape)
    ]
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sides)


def _from_keras(writer: GraphWriter, name: str, rank: int) -> Value:
    if rank == 4:
        name = writer.node("Transpose", [name], f"{name}_nchw", perm=[0, 3, 1, 2])
    return Value(name, rank)


def _to_keras(writer: GraphWriter, value: Value, name: str) -> None:
    source = writer.padded(value, name)
    if value.rank == 4:
        writer.node("Transpose", [source], name, perm=[0, 2, 3, 1])
    else:
        writer.node("Identity", [source], name)
