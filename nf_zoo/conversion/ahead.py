"""Find the layers whose results a BatchNormalization normalizes."""

from __future__ import annotations

import keras

from nf_zoo import functional
from nf_zoo.conversion.editable_model import (
    EditableModel,
    Graph,
    inner,
    is_frozen,
    is_norm,
    norms_in,
)
from nf_zoo.conversion.standardized_layers import forms_of, is_sigmoid
from nf_zoo.deploy import inference_graph as graph
from nf_zoo.signal_propagation.model_inspection import merges_among

SUMS = ("Add", "Subtract", "Average")
"""Class names of layers and operations whose results add up the variances of their inputs."""


class Ahead:
    """The way ahead of every result of a model, found before the model is edited."""

    def __init__(self, editable: EditableModel):
        # identities of the layers whose results come to a norm with no other weights in between
        self.to_standardize: set[int] = set()
        self.inside: set[graph.Node] = set()  # nodes whose results come to a norm at all
        # residual sum -> places of the branches among its inputs
        self.branches: dict[graph.Node, list[int]] = {}
        self._graphs = editable.graphs
        self._look(next(iter(editable.graphs.values())), reaches=False, leads=False)

    def _look(self, one: Graph, reaches: bool, leads: bool) -> None:
        """Find the layers to standardize, the results that lead to a norm, and the branches.

        The results of the graph itself come to a norm if it ``leads`` there, with no other weights
        in between if it ``reaches`` one.
        """
        direct, inside = set(), set()
        nodes = graph.upwards(one.sink)
        for node in reversed(nodes[:-1]):
            for taker in node.consumers:
                if isinstance(taker, graph.Sink):
                    direct |= {node} if reaches else set()
                    inside |= {node} if leads else set()
                elif self._reaches(node, taker, direct):
                    direct.add(node)
                if taker in inside or norms_in(getattr(taker, "operation", None)):
                    inside.add(node)
            layer = inner(getattr(node, "operation", None))
            nested = self._graphs.get(id(layer))
            if nested is not None:
                self._look(nested, node in direct, node in inside)
            elif node in direct and forms_of(layer) and not is_frozen(layer):
                self.to_standardize.add(id(layer))
        self.inside |= inside
        self._find_branches(one, nodes[:-1])

    def _find_branches(self, one: Graph, nodes: list[graph.Node]) -> None:
        """Find the branches of residual sums: the heavier way of two, or all but the identity."""
        calls = [
            (x.operation, x.inputs, [x]) if isinstance(x, graph.Kept) else (None, x.inputs, [x])
            for x in nodes
            if not isinstance(x, graph.Source)
        ]
        for merge in merges_among(one.sources, calls):
            if type(merge.output.operation).__name__ == "Add":
                ends = [_before_rescaling(x) for x in merge.output.inputs]
                self.branches[merge.output] = [ends.index(merge.residual)]
        order = {node: place for place, node in enumerate(nodes)}
        for node in filter(_sums, nodes):
            start = min(node.inputs, key=order.__getitem__)
            others = [x for x in node.inputs if x is not start]
            if node not in self.branches and all(_learns(start, x, order) for x in others):
                self.branches[node] = [node.inputs.index(x) for x in others]

    def _reaches(self, node: graph.Node, taker: graph.Node, direct: set) -> bool:
        """Return True if a result comes to a norm by this taker, with no weights in between."""
        if isinstance(taker, graph.Part):
            return taker in direct
        layer = inner(taker.operation)
        nested = self._graphs.get(id(layer))
        if nested is not None:
            places = [0]
            if layer is taker.operation:  # not the steps of a TimeDistributed
                places = functional.places_of(taker.arguments, functional.graph_of(nested.model))
            pairs = zip(nested.sources, places, strict=True)
            first = [x for source, i in pairs if taker.inputs[i] is node for x in source.consumers]
            return any(isinstance(x, graph.Kept) and is_norm(x.operation) for x in first)
        if is_norm(layer):
            return True
        has_weights = bool(getattr(layer, "weights", ())) and not isinstance(
            layer, keras.layers.PReLU
        )
        return taker in direct and not has_weights and node is not gate_of(taker)


def _before_rescaling(node: graph.Node) -> graph.Node:
    """Return the node whose result comes here by constant factors alone."""
    while isinstance(node, graph.Kept) and type(node.operation) is keras.layers.Rescaling:
        node = node.input
    return node


def _learns(start: graph.Node, end: graph.Node, order: dict[graph.Node, int]) -> bool:
    """Return True if ``end`` is made from ``start``, with weights on the way."""
    between, waiting, leads = set(), [end], False
    while waiting:
        node = waiting.pop()
        leads |= node is start
        if order[node] > order[start] and node not in between:
            between.add(node)
            waiting += node.inputs
    return leads and any(getattr(getattr(x, "operation", None), "weights", ()) for x in between)


def _sums(node: graph.Node) -> bool:
    """Return True for a sum, difference or mean of different maps of one shape."""
    if type(getattr(node, "operation", None)).__name__ not in SUMS or len(node.inputs) < 2:
        return False
    return len({tuple(x.shape) for x in node.tensors}) == 1 < len(set(node.inputs))


def gate_of(call: graph.Kept) -> graph.Node | None:
    """Return the smaller input of a product: the gate of the other, if there is one."""
    if type(call.operation).__name__ != "Multiply" or len(call.inputs) != 2:
        return None
    is_small = [all(side == 1 for side in x.shape[1:-1]) for x in call.tensors]
    return call.inputs[is_small.index(True)] if sum(is_small) == 1 else None


def ends_in_sigmoid(node: graph.Node) -> bool:
    """Return True if a result is that of a sigmoid, up to its shape."""
    while isinstance(node, graph.Kept) and len(node.inputs) == 1:
        if is_sigmoid(node.operation):
            return True
        if getattr(node.operation, "weights", ()):
            return False
        node = node.input
    return False
