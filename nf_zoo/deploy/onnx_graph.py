"""Writer of an ONNX graph: its nodes, weights and layouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from nf_zoo.deploy.formats import NEWEST_OPSET
from nf_zoo.deploy.inference_graph import Names

TO_FILE, TO_KERAS = [0, 3, 1, 2], [0, 2, 3, 1]
"""Permutations from NHWC to NCHW and back."""
NO_PADS = (0, 0, 0, 0)


class Unsupported(Exception):
    """Error for a layer without a counterpart in ONNX; the text names the option at fault."""


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor of the graph; always NCHW if its rank is 4."""

    name: str  # name in the graph
    rank: int  # number of axes
    pads: tuple[int, int, int, int] = NO_PADS  # zeros yet to be added: top, left, bottom, right
    not_negative: bool = False  # whether it comes from a ReLU, so that zeros can pad a maximum

    def axis(self, axis: int) -> int:
        """Return the axis in the file for an axis of Keras's tensor."""
        axis %= self.rank
        return TO_KERAS[axis] if self.rank == 4 else axis


class GraphWriter:
    """Collector of the nodes and weights of a graph."""

    def __init__(self, onnx, opset: int):
        self._onnx, self.opset = onnx, opset
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.tensors = Names()  # of inputs, outputs, weights and results
        self._nodes = Names()
        self._constants: dict[tuple, str] = {}

    def node(
        self, kind: str, inputs: Sequence[str | Value], name: str, result: str = "", **attributes
    ) -> str:
        """Add a node, after any pending zeros of its inputs; return the name of its result."""
        inputs = [self.padded(x, name).name if isinstance(x, Value) else x for x in inputs]
        self._check_opset(kind, len(inputs), attributes)
        result, name = result or self.tensors.unique(name), self._nodes.unique(name)
        made = self._onnx.helper.make_node(kind, inputs, [result], name=name, **attributes)
        self.nodes.append(made)
        return result

    def _check_opset(self, kind: str, inputs: int, attributes: dict) -> None:
        """Check that the opset has the operation, with that many inputs and these attributes."""
        defs = self._onnx.defs

        def knows(opset: int) -> bool:
            try:
                schema = defs.get_schema(kind, opset)
            except defs.SchemaError:
                return False
            return inputs <= schema.max_input and attributes.keys() <= schema.attributes.keys()

        if not knows(self.opset):
            first = next(n for n in range(self.opset, NEWEST_OPSET + 1) if knows(n))
            raise Unsupported(f"with opset={self.opset}: it needs {first}")

    def apply(self, kind: str, inputs: Sequence[str | Value], name: str, **attributes) -> Value:
        """Add a node whose result has the rank of the first input."""
        return Value(self.node(kind, inputs, name, **attributes), inputs[0].rank)

    def weight(self, array, name: str) -> str:
        """Add a constant tensor, float32 or integers; small ones are shared."""
        array = np.asarray(array)
        if array.dtype.kind == "f":
            array = array.astype("float32")
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 4 else name
        if key in self._constants and array.size <= 4:
            return self._constants[key]
        self._constants[key] = name = self.tensors.unique(name)
        self.weights.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def constant(self, array, rank: int, name: str) -> str:
        """Add a weight that broadcasts against a tensor of that rank as in Keras."""
        array = np.asarray(array, "float32")
        if rank == 4 and array.size > 1:
            array = array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(TO_FILE)
        elif array.size == 1:
            array = array.reshape(())
        return self.weight(array, name)

    def integers(self, values, name: str) -> str:
        """Add a constant vector of integers, such as a shape, axes or paddings."""
        return self.weight(np.array(values, "int64"), name)

    def padded(self, value: Value, name: str) -> Value:
        """Return the tensor with its pending zeros added."""
        if not any(value.pads):
            return value
        top, left, bottom, right = value.pads
        pads = self.integers([0, 0, top, left, 0, 0, bottom, right], f"{name}_pads")
        return Value(self.node("Pad", [value.name, pads], f"{name}_padded"), value.rank)

    def to_keras(self, value: Value, name: str) -> str:
        """Return the tensor with its axes in Keras's order."""
        value = self.padded(value, name)
        if value.rank != 4:
            return value.name
        return self.node("Transpose", [value], f"{name}_nhwc", perm=TO_KERAS)

    def from_keras(self, source: str, rank: int, name: str) -> Value:
        """Return the value of a tensor whose axes are in Keras's order."""
        if rank == 4:
            source = self.node("Transpose", [source], f"{name}_nchw", perm=TO_FILE)
        return Value(source, rank)
