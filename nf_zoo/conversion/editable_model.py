"""A Keras model as a graph of calls that can be edited, then built again as a new model.

The nodes are those of :mod:`nf_zoo.deploy.inference_graph`: every call of a layer or operation is a
``Kept`` node, linked with the nodes whose results it takes and with those that take its own.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras

from nf_zoo import functional
from nf_zoo.deploy import inference_graph as graph
from nf_zoo.deploy.lowering import input_shapes, keep, walk
from nf_zoo.models.residual_block import ResidualBlock


@dataclasses.dataclass(eq=False)
class Graph:
    """The calls of one model."""

    model: Any  # the original
    sources: list[graph.Source]  # nodes of the inputs
    sink: graph.Sink  # node of the outputs

    def calls(self) -> list[graph.Kept]:
        """Return the calls that the outputs need, each after those whose results it takes."""
        return [node for node in graph.upwards(self.sink) if isinstance(node, graph.Kept)]


class EditableModel:
    """The calls of a model and of all models nested in it, to be edited and built again.

    Nested models stay nested, whether they are called directly or through TimeDistributed, and
    what is shared stays shared. Residual blocks of this package that ``opens`` accepts become
    calls of their parts. The original model is only read.
    """

    def __init__(self, model, opens: Callable[[Any], bool] = lambda block: False):
        if functional.graph_of(model) is None:
            raise ValueError(
                "Only a functional or Sequential Keras model that has been built can be "
                "converted: give a Sequential an Input first, and write a subclassed model as "
                "keras.Model(inputs, outputs). "
                f"Received: {type(model).__name__} {getattr(model, 'name', '')!r}"
            )
        self.graphs: dict[int, Graph] = {}  # by the identity of a model; the first is of ``model``
        self.names = graph.Names()  # gives the name of a new layer only once
        self._opens, self._opened = opens, {}
        self._names: dict[int, str] = {}
        self._copies: dict[int, Any] = {}
        self._flags: dict[int, bool] = {}
        self._originals: list[tuple] = []
        self._replaced: list[tuple] = []
        self._weights: list[tuple] = []
        self._read(model)
        self._model = model

    # Reading.

    def _read(self, model) -> None:
        if id(model) in self.graphs:
            return
        network = functional.graph_of(model)
        sources = [
            graph.Source(x._keras_history.operation.name, [], model.dtype_policy, tensor=x)
            for x in network.inputs
        ]
        nodes = dict(zip(map(id, network.inputs), sources, strict=True))
        one = self.graphs[id(model)] = Graph(model, sources, graph.Sink("outputs", []))
        one.sink = graph.Sink("outputs", walk(network, nodes, self._call))

    def _call(self, node, inputs: list[graph.Node], prefix: str = "") -> list[graph.Node]:
        operation, name = node.operation, f"{prefix}{node.operation.name}"
        if isinstance(operation, ResidualBlock) and self._opens(operation):
            parts = self._parts_of(operation, node.input_tensors[0])
            values = {id(parts.inputs[0]): inputs[0]}
            return walk(parts, values, functools.partial(self._call, prefix=f"{name}_"))
        for part in (operation, inner(operation)):
            if functional.graph_of(part) is not None:
                self._read(part)
        if id(operation) not in self._names:
            self._names[id(operation)] = self.names.unique(name) if prefix else name
        return keep(node, inputs, self._names[id(operation)])

    def _parts_of(self, block, x):
        """Return a copy of a block, as a functional model of its parts."""
        if id(block) not in self._opened:
            copy = functional.copy_of(block)
            copy.build(x.shape)
            functional.copy_weights(block, copy)
            inputs = keras.Input(batch_shape=x.shape, dtype=x.dtype)
            self._opened[id(block)] = keras.Model(inputs, copy.call(inputs, training=None))
        return self._opened[id(block)]

    # Editing.

    def calls(self) -> Iterator[graph.Kept]:
        """Yield the calls of all graphs."""
        for one in self.graphs.values():
            yield from one.calls()

    def calls_of(self) -> dict[Any, list[graph.Kept]]:
        """Return layer or operation -> its calls, in all graphs, also through TimeDistributed."""
        found: dict[Any, list[graph.Kept]] = {}
        for call in self.calls():
            found.setdefault(inner(call.operation), []).append(call)
        return found

    def name_of(self, operation) -> str:
        """Return the name of a layer or operation in the new model."""
        return self._names.get(id(operation), operation.name)

    def copy_of(self, operation, **changes):
        """Return a copy without weights, under the name in the new model."""
        return functional.copy_of(operation, **{"name": self.name_of(operation), **changes})

    def replace(self, layer, new, weights: list | None = None) -> None:
        """Let a new layer take the place of a layer of the original, in all its calls.

        ``layer`` is the inner one of a TimeDistributed. ``new`` has not been called; it gets
        ``weights`` by ``set_weights`` unless they are None.
        """
        self._copies[id(layer)], self._flags[id(new)] = new, new.trainable
        self._replaced.append((layer, new))
        if weights is not None:
            self._weights.append((new, weights))

    def add(self, layer, *inputs: graph.Node, weights: list | None = None) -> graph.Kept:
        """Return a call of a new layer, which takes the results of ``inputs``."""
        self.replace(layer, layer, weights)
        return graph.Kept(layer.name, list(inputs), layer.dtype_policy, operation=layer)

    def insert_after(self, node: graph.Node, layer) -> graph.Kept:
        """Give the result of a node to a new layer, and the layer's to all who took the node's."""
        call = self.add(layer, node)
        node.replace_by(call)
        return call

    @staticmethod
    def bypass(call: graph.Kept) -> None:
        """Leave a call out: whoever took its result takes its first input."""
        call.replace_by(call.input)
        call.remove()

    # Building.

    def build(self):
        """Return the new model, with the original's weights and flags. It can be built once.

        A Sequential stays one if it is still a chain of layers. A subclass of ``keras.Model`` that
        has no constructor of its own keeps its class, any other model becomes a ``keras.Model``.
        """
        with functional.deep_graphs():
            result = self._copy(self._model)
        for layer, weights in self._weights:
            layer.set_weights(weights)
        for original, copy in self._originals:
            functional.copy_weights(original, copy)
        self._set_flags(result)
        return result

    def _set_flags(self, result) -> None:
        flags = dict(self._flags)
        for original, copy in self._originals:
            pairs = zip(_layers(original), _layers(copy), strict=True)
            flags |= {id(new): old.trainable for old, new in pairs}
        for layer in _layers(result):  # a model before its layers, whose flags it sets
            if flags.get(id(layer), layer.trainable) != layer.trainable:
                layer.trainable = flags[id(layer)]
        for original, copy in [*self._originals, *self._replaced]:
            _set_flags_of_variables(original, copy)

    def _copy(self, operation):
        if id(operation) not in self._copies:
            copy = self._copies[id(operation)] = self._new(operation)
            if isinstance(operation, keras.layers.Layer):
                self._flags[id(copy)] = operation.trainable
        return self._copies[id(operation)]

    def _new(self, operation):
        if id(operation) in self.graphs:
            return self._new_model(self.graphs[id(operation)])
        if type(operation) is keras.layers.TimeDistributed:
            own = {"name": self.name_of(operation), "dtype": operation.dtype_policy}
            return keras.layers.TimeDistributed(self._copy(operation.layer), **own)
        copy = self.copy_of(operation)
        self._originals.append((operation, copy))
        return copy

    def _new_model(self, one: Graph):
        model, chain = one.model, _chain(one)
        if isinstance(model, keras.Sequential) and chain is not None:
            (source,), (shape,) = one.sources, input_shapes(model)
            start = keras.Input(batch_shape=shape, dtype=source.tensor.dtype, name=source.name)
            layers = [start, *(self._copy(call.operation) for call in chain)]
            return keras.Sequential(layers, name=model.name)
        tensors = {
            x: functional.copy_of(functional.operation_of(x.tensor)).output for x in one.sources
        }
        inputs = list(tensors.values())
        for node in graph.upwards(one.sink):
            if isinstance(node, graph.Kept):
                given = [tensors[x] for x in node.inputs]
                tensors[node] = node.call(self._copy(node.operation), given)
            elif isinstance(node, graph.Part):
                tensors[node] = keras.tree.flatten(tensors[node.input])[node.index]
        outputs = [tensors[node] for node in one.sink.inputs]
        structures = functional.structures_of(functional.graph_of(model))
        packed = map(keras.tree.pack_sequence_as, structures, (inputs, outputs))
        new = _class_of(model)(*packed, name=model.name)
        if new.dtype_policy != model.dtype_policy:
            new.dtype_policy = model.dtype_policy
        return new


def inner(layer):
    """Return the layer that a TimeDistributed applies to every step; any other layer itself."""
    return inner(layer.layer) if type(layer) is keras.layers.TimeDistributed else layer


def _layers(operation) -> list:
    return list(getattr(operation, "_flatten_layers", list)())


def _set_flags_of_variables(original, copy) -> None:
    """Freeze the variables that are frozen one by one in the original, also in a layer like it."""
    alike = type(copy) is type(original)
    before, after = ([(x.name, x) for x in getattr(y, "variables", ())] for y in (original, copy))
    pairs = zip(before, after, strict=False) if alike else itertools.product(before, after)
    for (name, old), (own_name, new) in pairs:
        if name == own_name and new.trainable and not old.trainable:
            new.trainable = False


def _class_of(model) -> type:
    """Return the class for the copy of a model, which takes inputs and outputs."""
    if isinstance(model, keras.Sequential):
        return keras.Model
    author = next(kind for kind in type(model).__mro__ if "__init__" in vars(kind))
    return type(model) if author.__module__.startswith("keras.") else keras.Model


def _chain(one: Graph) -> list[graph.Kept] | None:
    """Return the calls from input to output if every layer is one of them, else None."""
    chain, node = [], one.sink.input
    while isinstance(node, graph.Kept):
        chain.insert(0, node)
        node = node.input
    layers = {call for call in one.calls() if isinstance(call.operation, keras.layers.Layer)}
    return chain if layers == set(chain) and isinstance(node, graph.Source) else None


def is_frozen(layer) -> bool:
    """Return True if the layer, or a weight of it, is kept from training."""
    weights = [weight for part in layer._flatten_layers() for weight in part._trainable_variables]
    return not layer.trainable or not all(weight.trainable for weight in weights)


def norms_in(layer) -> list:
    """Return every BatchNormalization of a layer or model; itself, if it is one."""
    flatten = getattr(layer, "_flatten_layers", list)  # operations are no layers
    return [x for x in flatten() if isinstance(x, keras.layers.BatchNormalization)]


def is_norm(operation) -> bool:
    """Return True if a call is one of BatchNormalization, also for every step of time."""
    return type(inner(operation)) is keras.layers.BatchNormalization


def refuse_hidden_norms(editable: EditableModel) -> None:
    """Raise a ValueError if a BatchNormalization is inside a layer that cannot be taken apart."""
    hidden = {}
    for call in editable.calls():
        layer = inner(call.operation)
        if not is_norm(layer) and id(layer) not in editable.graphs and norms_in(layer):
            hidden[f"{call.name!r} ({type(layer).__name__})"] = None
    if hidden:
        raise ValueError(
            "BatchNormalization must be a layer of a functional or Sequential model, nested or "
            "not. Inside a layer with code of its own it cannot be replaced: write that layer as "
            f"keras.Model(inputs, outputs). Received: {', '.join(hidden)}"
        )
