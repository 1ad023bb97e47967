"""Nodes, weights and layouts of an ONNX graph that is being written."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from nf_zoo.deploy.graph import Names

TO_FILE, TO_KERAS = [0, 3, 1, 2], [0, 2, 3, 1]
"""Permutations from NHWC to NCHW and back."""


class Unsupported(Exception):
    """A layer that a file has no counterpart of; the text names the option at fault."""


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

    def axis(self, axis: int) -> int:
        """Where the file has that axis of Keras's tensor."""
        axis %= self.rank
        return TO_KERAS[axis] if self.rank == 4 else axis


class GraphWriter:
    """Collects the nodes and weights of a graph.

    Attributes:
        tensors: names of inputs, outputs, weights and results.
    """

    def __init__(self, onnx):
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.tensors, self._nodes = Names(), Names()
        self._constants: dict[tuple, str] = {}

    def node(self, operation: str, inputs: list[str], name: str, **attributes) -> str:
        """A node; the name of its result."""
        result = self.tensors.unique(name)
        self.add(operation, inputs, name, result, **attributes)
        return result

    def add(self, operation: str, inputs: list[str], name: str, result: str, **attributes) -> None:
        """A node whose result has a name that was reserved."""
        name = self._nodes.unique(name)
        made = self._onnx.helper.make_node(operation, inputs, [result], name=name, **attributes)
        self.nodes.append(made)

    def weight(self, array, name: str) -> str:
        """A constant tensor, float32 unless it is of integers."""
        array = np.asarray(array)
        if array.dtype.kind == "f":
            array = array.astype("float32")
        small = array.size <= 4
        key = (array.dtype.str, array.shape, array.tobytes()) if small else None
        if small and key in self._constants:
            return self._constants[key]
        name = self.tensors.unique(name)
        self.weights.append(self._onnx.numpy_helper.from_array(array, name))
        if small:
            self._constants[key] = name
        return name

    def constant(self, array, rank: int, name: str) -> str:
        """A weight that is broadcast against a tensor of that rank, as Keras would."""
        array = np.asarray(array, "float32")
        if rank == 4 and array.size > 1:
            array = array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(TO_FILE)
        elif array.size == 1:
            array = array.reshape(())
        return self.weight(array, name)

    def integers(self, values, name: str) -> str:
        """A constant row of shapes, axes or paddings."""
        return self.weight(np.array(values, "int64"), name)

    def padded(self, value: Value, name: str) -> str:
        """The tensor with its pending zeros around it."""
        if not any(value.pads):
            return value.name
        top, left, bottom, right = value.pads
        pads = self.integers([0, 0, top, left, 0, 0, bottom, right], f"{name}_pads")
        return self.node("Pad", [value.name, pads], f"{name}_padded")

    def to_keras(self, value: Value, name: str) -> str:
        """The tensor with its axes in Keras's order."""
        source = self.padded(value, name)
        if value.rank != 4:
            return source
        return self.node("Transpose", [source], f"{name}_nhwc", perm=TO_KERAS)

    def from_keras(self, source: str, rank: int, name: str) -> Value:
        """The value of a tensor whose axes are in Keras's order."""
        if rank == 4:
            source = self.node("Transpose", [source], f"{name}_nchw", perm=TO_FILE)
        return Value(source, rank)
