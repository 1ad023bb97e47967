"""Where a functional Keras model merges a residual branch."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from nf_zoo.functional import as_functional, nodes_of, run

__all__ = ["Merge", "as_functional", "find_merges", "nodes_of", "norms_after_activations", "run"]

MERGES = ("Add", "Concatenate")
"""Class names of the operations, as layers and as functions, that can end a residual branch."""


@dataclasses.dataclass(frozen=True)
class Merge:
    """A residual merge of a graph.

    Attributes:
        name: of the merging operation.
        output: key of the tensor that comes out.
        residual: key of the tensor at the end of the branch.
        split: key of the tensor that both ways start from.
        branch: operations of the branch, in order.
    """

    name: str
    output: int
    residual: int
    split: int
    branch: tuple[Any, ...]


def find_merges(model) -> list[Merge]:
    """The residual merges of a functional model, in order of execution.

    A merge adds (or concatenates) two tensors that stem from one: the way with more weights is
    the branch, the other (nothing, or a projection) the skip path.
    """
    ancestors: dict[int, frozenset] = {id(x): frozenset((id(x),)) for x in model.inputs}
    order: dict[int, int] = {id(x): -1 for x in model.inputs}
    maker: dict[int, Any] = {}
    merges = []
    for index, node in enumerate(nodes_of(model)):
        above = frozenset().union(*(ancestors[id(x)] for x in node.input_tensors))
        for x in node.outputs:
            ancestors[id(x)] = above | {id(x)}
            order[id(x)], maker[id(x)] = index, node.operation
        if type(node.operation).__name__ in MERGES and len(node.input_tensors) == 2:
            merge = _residual_merge(node, ancestors, order, maker)
            if merge is not None:
                merges.append(merge)
    return merges


def _residual_merge(node, ancestors, order, maker) -> Merge | None:
    one, other = (id(x) for x in node.input_tensors)
    common = ancestors[one] & ancestors[other]
    if not common or one == other:
        return None
    split = max(common, key=order.__getitem__)

    def way(end: int) -> tuple:
        keys = sorted(ancestors[end] - ancestors[split], key=order.__getitem__)
        return tuple(dict.fromkeys(maker[key] for key in keys))

    ways = {one: way(one), other: way(other)}
    weights = {
        end: sum(bool(getattr(op, "weights", ())) for op in ops) for end, ops in ways.items()
    }
    residual, skip = sorted((one, other), key=lambda end: (-weights[end], end == split))
    if weights[residual] <= weights[skip]:
        return None
    if type(node.operation).__name__ == "Concatenate" and skip != split:
        return None
    return Merge(node.operation.name, id(node.outputs[0]), residual, split, ways[residual])


def norms_after_activations(model) -> list[str]:
    """Names of the BatchNorms between an activation and a convolution, on a residual branch."""
    branches = {operation for merge in find_merges(model) for operation in merge.branch}
    maker = {id(x): node.operation for node in nodes_of(model) for x in node.outputs}
    found = []
    for node in nodes_of(model):
        norm = maker.get(id(node.input_tensors[0]))
        if not isinstance(norm, keras.layers.BatchNormalization) or norm not in branches:
            continue
        before = maker.get(id(norm.input)) if len(norm._inbound_nodes) == 1 else None
        if _is_convolution(node.operation) and _is_activation(before):
            found.append(norm.name)
    return found


def _is_convolution(operation) -> bool:
    return "Conv" in type(operation).__name__ or isinstance(operation, keras.layers.Dense)


def _is_activation(operation) -> bool:
    if isinstance(operation, keras.layers.Activation | keras.layers.ReLU):
        return True
    # A convolution with an activation of its own counts too.
    activation = getattr(operation, "activation", None)
    return activation not in (None, keras.activations.linear)
