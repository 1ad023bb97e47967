"""The inference graph that folding works on: a few kinds of nodes, linked in both directions."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np

POSITIVELY_HOMOGENEOUS = ("relu", "leaky_relu", "linear", "identity")
"""Activations with f(s x) = s f(x) for every s > 0."""


class Names:
    """Registry of names that gives none of them twice."""

    def __init__(self):
        self._given: set[str] = set()

    def unique(self, wanted: str) -> str:
        """Return the wanted name, with a number appended if it is taken."""
        name, count = wanted, 1
        while name in self._given:
            count += 1
            name = f"{wanted}_{count}"
        self._given.add(name)
        return name


@dataclasses.dataclass(eq=False)
class Node:
    """One operation."""

    name: str  # name of the layer that it comes from
    inputs: list[Node]  # nodes whose results it takes
    policy: Any = None  # dtype policy of that layer
    # nodes that take its result, once for each use
    consumers: list[Node] = dataclasses.field(default_factory=list, init=False, repr=False)

    def __post_init__(self):
        for node in self.inputs:
            node.consumers.append(self)

    @property
    def input(self) -> Node:
        return self.inputs[0]

    @property
    def has_one_consumer(self) -> bool:
        """True if the result is used once, so that the node may be changed for that use."""
        return len(self.consumers) == 1

    def redirect(self, old: Node, new: Node) -> None:
        """Take the result of ``new`` instead of that of ``old``."""
        for index, node in enumerate(self.inputs):
            if node is old:
                self.inputs[index] = new
                old.consumers.remove(self)
                new.consumers.append(self)

    def replace_by(self, new: Node) -> None:
        """Redirect all consumers to ``new``, except ``new`` itself."""
        for consumer in dict.fromkeys(self.consumers):
            if consumer is not new:
                consumer.redirect(self, new)

    def remove(self) -> None:
        """Detach the node from its inputs; it must have no consumers left."""
        for node in self.inputs:
            node.consumers.remove(self)
        self.inputs = []


@dataclasses.dataclass(eq=False)
class Source(Node):
    """An input of the model, with its Keras tensor."""

    tensor: Any = None


@dataclasses.dataclass(eq=False)
class Sink(Node):
    """The outputs of the model, as its inputs."""


@dataclasses.dataclass(eq=False)
class Linear(Node):
    """``output_scale * (kernel conv (input_scale * x)) + bias``, or a matrix product."""

    # (kh, kw, C / groups, filters), or (C, filters) of a matrix product; float32, or the model's
    # float64
    kernel: np.ndarray = None
    bias: np.ndarray = None  # float64 (filters,)
    # ``strides``, ``padding``, ``dilation`` and ``groups``; None for a matrix product
    convolution: dict[str, Any] | None = None

    def __post_init__(self):
        super().__post_init__()
        self.groups = self.convolution["groups"] if self.convolution else 1
        self.filters = self.kernel.shape[-1]
        self.input_scale = np.ones(self.kernel.shape[-2] * self.groups)
        self.output_scale = np.ones(self.filters)

    @property
    def pads_with_zeros(self) -> bool:
        """True if zeros from outside the picture come in, to which no offset was added."""
        if self.convolution is None or self.kernel.shape[:2] == (1, 1):
            return False
        return self.convolution["padding"] in ("same", "symmetric")

    def absorb_before(self, scale: np.ndarray, offset: np.ndarray) -> None:
        """Absorb a ``scale * x + offset`` that stands before this node."""
        if np.any(offset):
            taps = self.kernel.astype("float64").sum(tuple(range(self.kernel.ndim - 2)))
            terms = taps * self._per_group(self.input_scale * offset)
            self.bias = self.bias + self.output_scale * terms.sum(0)
        self.input_scale = self.input_scale * scale

    def absorb_after(self, scale: np.ndarray, offset: np.ndarray) -> None:
        """Absorb a ``scale * y + offset`` that follows this node."""
        self.output_scale = self.output_scale * scale
        self.bias = self.bias * scale + offset

    def folded_kernel(self) -> np.ndarray:
        """Return the kernel with both scales in it, rounded once."""
        scales = self._per_group(self.input_scale) * self.output_scale
        return (self.kernel.astype("float64") * scales).astype(self.kernel.dtype)

    def _per_group(self, channels: np.ndarray) -> np.ndarray:
        """Return (C,) values as (C / groups, filters): for each filter, those of its channels."""
        parts = channels.reshape(self.groups, -1).T
        return np.repeat(parts, self.filters // self.groups, axis=1)


@dataclasses.dataclass(eq=False)
class Affine(Node):
    """``scale * x + offset``, each float64 of shape () or (C,).

    An anchored node stays in place, because its exact result is wanted.
    """

    scale: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(()))
    offset: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(()))
    anchored: bool = False


@dataclasses.dataclass(eq=False)
class Activation(Node):
    """An activation without gamma, given as a name or a callable."""

    activation: Any = "linear"

    @property
    def is_homogeneous(self) -> bool:
        """True if positive factors pass through it."""
        return self.activation in POSITIVELY_HOMOGENEOUS


@dataclasses.dataclass(eq=False)
class Gate(Node):
    """Channel attention: ``output_scale * x * gate(input_scale * mean(x))``."""

    # ``reduce_kernel``, ``reduce_bias``, ``expand_kernel``, ``expand_bias``; of ECA ``kernel``
    weights: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        self.input_scale = self.output_scale = np.ones(())
        self.kind = "eca" if "kernel" in self.weights else "se"


@dataclasses.dataclass(eq=False)
class Pool(Node):
    """Any pooling of a Keras layer: maxima, or averages that leave out the padding.

    The exact result of an anchored node is wanted.
    """

    layer: Any = None
    is_maximum: bool = False
    anchored: bool = False


@dataclasses.dataclass(eq=False)
class Add(Node):
    """The sum of two or more inputs."""


@dataclasses.dataclass(eq=False)
class Kept(Node):
    """A Keras layer or operation that stays as it is."""

    operation: Any = None
    arguments: Any = None  # Keras's record of the arguments of its call
    # the Keras tensors in the arguments that ``inputs`` replace
    tensors: list = dataclasses.field(default_factory=list)
    foreign: bool = False  # whether folding does not know what it does

    def call(self, operation, inputs: list, **changes):
        """Return the result of an operation, called on ``inputs`` as the one that stays is.

        ``changes`` are further keyword arguments, where the operation knows them. If it is of
        another class, keyword arguments that it does not know, such as a mask, are left out.
        """
        known = inspect.signature(operation.call).parameters
        changes = {key: x for key, x in changes.items() if key in known}
        if self.arguments is None:
            return operation(*inputs, **changes)
        values = dict(zip(map(id, self.tensors), inputs, strict=True))
        args, kwargs = self.arguments.fill_in(values)
        if type(operation) is not type(self.operation):
            kwargs = {key: x for key, x in kwargs.items() if key in known}
        return operation(*args, **{**kwargs, **changes})


@dataclasses.dataclass(eq=False)
class Part(Node):
    """One of several results of its input, by its place in the flat list of results."""

    index: int = 0


def upwards(sink: Sink) -> list[Node]:
    """Return all nodes that the outputs need, each after its inputs."""
    order: dict[Node, None] = {}
    stack = [(sink, iter(sink.inputs))]
    while stack:
        node, rest = stack[-1]
        following = next((x for x in rest if x not in order), None)
        if following is None:
            stack.pop()
            order[node] = None
        else:
            stack.append((following, iter(following.inputs)))
    return list(order)
