"""Inspection of a model without a run: places where branches merge, and whether it is trained."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from nf_zoo.functional import nodes_of

MERGES = ("Add", "Concatenate")
"""Class names of layers and operations that can end a residual branch."""
CONSTANTS = (keras.initializers.Zeros, keras.initializers.Ones, keras.initializers.Constant)
FEWEST = 100
"""Smallest number of values in a kernel that makes its deviation meaningful."""
DEVIATION = 0.25
"""Smallest relative distance of a trained kernel's deviation from its initializer's."""


@dataclasses.dataclass(frozen=True)
class Merge:
    """A residual merge of a graph."""

    name: str  # name of the merging operation
    output: int  # key of its output tensor
    residual: int  # key of the tensor at the end of the branch
    split: int  # key of the tensor that both paths start from
    branch: tuple[Any, ...]  # operations of the branch, in order


def find_merges(model) -> list[Merge]:
    """Return the residual merges of a functional model, in order of execution.

    A merge adds (or concatenates) two tensors that stem from one. The path with more weights is
    the branch, the other (empty, or a projection) the skip path. A constant factor at the end of
    the branch is no part of it.
    """
    calls = [
        (node.operation, list(map(id, node.input_tensors)), list(map(id, node.outputs)))
        for node in nodes_of(model)
    ]
    return merges_among(map(id, model.inputs), calls)


def merges_among(inputs: Iterable, calls: Iterable[tuple[Any, list, list]]) -> list[Merge]:
    """Return the residual merges of a graph, given the keys of its inputs, and its calls.

    A call is (operation, keys of its inputs, keys of its outputs); they are in execution order.
    """
    ancestors: dict[Any, frozenset] = {key: frozenset((key,)) for key in inputs}
    order: dict[Any, int] = dict.fromkeys(ancestors, -1)
    maker: dict[Any, tuple] = {}
    merges = []
    for index, call in enumerate(calls):
        operation, taken, made = call
        above = frozenset().union(*(ancestors[key] for key in taken))
        for key in made:
            ancestors[key] = above | {key}
            order[key], maker[key] = index, call
        if type(operation).__name__ in MERGES and len(taken) == 2:
            merge = _residual_merge(call, ancestors, order, maker)
            if merge is not None:
                merges.append(merge)
    return merges


def _residual_merge(call, ancestors, order, maker) -> Merge | None:
    operation, (one, other), (output,) = call
    common = ancestors[one] & ancestors[other]
    if not common or one == other:
        return None
    split = max(common, key=order.__getitem__)

    def way(end: int) -> tuple:
        keys = sorted(ancestors[end] - ancestors[split], key=order.__getitem__)
        return tuple(dict.fromkeys(maker[key][0] for key in keys))

    ways = {one: way(one), other: way(other)}
    weights = {
        end: sum(bool(getattr(op, "weights", ())) for op in ops) for end, ops in ways.items()
    }
    residual, skip = sorted((one, other), key=lambda end: (-weights[end], end == split))
    if weights[residual] <= weights[skip]:
        return None
    if type(operation).__name__ == "Concatenate" and skip != split:
        return None
    branch = ways[residual]
    while type(maker.get(residual, (None,))[0]) is keras.layers.Rescaling:
        residual = maker[residual][1][0]
    return Merge(operation.name, output, residual, split, branch)


def norms_after_activations(model) -> list[str]:
    """Return the names of BatchNorms between activation and convolution on residual branches."""
    branches = {operation for merge in find_merges(model) for operation in merge.branch}
    maker = {id(x): node.operation for node in nodes_of(model) for x in node.outputs}
    found = []
    for node in nodes_of(model):
        norm = maker.get(id(node.input_tensors[0]))
        if not isinstance(norm, keras.layers.BatchNormalization) or norm not in branches:
            continue
        before = maker.get(id(norm.input)) if len(norm._inbound_nodes) == 1 else None
        convolves = "Conv" in type(node.operation).__name__
        convolves |= isinstance(node.operation, keras.layers.Dense)
        if convolves and _is_activation(before):
            found.append(norm.name)
    return found


def _is_activation(operation) -> bool:
    if isinstance(operation, keras.layers.Activation | keras.layers.ReLU):
        return True
    # A convolution with an activation of its own counts too.
    activation = getattr(operation, "activation", None)
    return activation not in (None, keras.activations.linear)


def is_trained(model: keras.Model) -> bool:
    """Return True if most variables that start constant have left their start.

    Biases, gains, scales and moving statistics start at a value that their layer's initializer
    gives, and training moves them all. If a model has none, the tag of pretrained weights decides,
    or else the distance of the kernels' deviations from their initializers'. A fresh body under a
    trained classifier counts as fresh. So does a copy of a pretrained model with fresh weights,
    even if it has a tag.
    """
    moved, kernels = [], []
    for variable, initializer in _variables(model):
        if isinstance(initializer, CONSTANTS):
            start = keras.ops.convert_to_numpy(initializer(variable.shape, dtype="float32"))
            moved.append(bool(np.any(keras.ops.convert_to_numpy(variable) != start)))
        else:
            kernels.append((variable, initializer))
    if moved:
        return sum(moved) > len(moved) / 2
    if getattr(model, "weights_tag", None):
        return True
    judged = [_has_left(*kernel) for kernel in kernels if np.prod(kernel[0].shape) >= FEWEST]
    return sum(judged) > len(judged) / 2


def _variables(model) -> Iterator[tuple]:
    """Yield every variable whose layer knows its initializer, with that initializer."""
    for layer in model._flatten_layers():
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
            initializer = getattr(layer, f"{variable.name}_initializer", None)
            if isinstance(initializer, keras.initializers.Initializer):
                yield variable, initializer


def _has_left(variable, initializer) -> bool:
    """Return True if the deviation differs from that of a draw of the initializer."""
    config = initializer.get_config()
    if "seed" not in config:
        return False
    # A draw of its own: the model's initializer may hold a generator, which would move on.
    drawn = type(initializer).from_config({**config, "seed": 0})(variable.shape, dtype="float32")
    expected, found = (float(np.std(keras.ops.convert_to_numpy(v))) for v in (drawn, variable))
    return not abs(found - expected) <= DEVIATION * expected
