"""The graph of a functional Keras model, node by node."""

import collections
import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras

TRAINING = (
    *(keras.layers.Dropout, keras.layers.SpatialDropout2D, keras.layers.AlphaDropout),
    *(keras.layers.GaussianNoise, keras.layers.GaussianDropout),
    *(keras.layers.ActivityRegularization, keras.layers.Identity),
    *(keras.layers.RandAugment, keras.layers.AugMix),
    # RandomCrop always crops; layers such as MixUp take labels too.
    *(
        getattr(keras.layers, name)
        for name in sorted(dir(keras.layers))
        if name.startswith("Random") and name != "RandomCrop"
    ),
)
"""Layers of Keras that return their input unchanged at inference."""


def nodes_of(model) -> list:
    """Return the nodes of a functional model that compute something, in execution order."""
    return [
        node
        for depth in sorted(model._nodes_by_depth, reverse=True)
        for node in model._nodes_by_depth[depth]
        if node.operation is not None and not node.is_input
    ]


def as_functional(model):
    """Return the graph of a Functional or built Sequential model; None for any other layer."""
    if isinstance(model, keras.Sequential):
        return getattr(model, "_functional", None)
    return model if hasattr(model, "_nodes_by_depth") else None


def graph_of(model):
    """Return the graph of a built functional or Sequential model; None for any other layer.

    A subclass with a ``call`` of its own counts as another layer, because its graph may not
    describe what it computes.
    """
    network = as_functional(model)
    if network is None:
        return None
    author = next(kind for kind in type(model).__mro__ if "call" in vars(kind))
    return network if author.__module__.startswith(("keras.", "nf_zoo.")) else None


def graphs_of(model) -> Iterator[Any]:
    """Yield a functional model, and the graphs of the models that are nested in it."""
    yield model
    for node in nodes_of(model):
        inner = as_functional(node.operation)
        if inner is not None:
            yield from graphs_of(inner)


def operation_of(tensor):
    """Return the operation that a Keras tensor comes from."""
    return tensor._keras_history.operation


def structures_of(model) -> tuple[Any, Any]:
    """Return a functional model's input and output Keras tensors, nested as in its call."""
    return model._inputs_struct, model._outputs_struct


def places_of(arguments, nested) -> list[int]:
    """Return for each input of a nested model its place among the tensors that it is called on.

    Keras finds those of a dict by name, and those of a list by their places.
    """
    given = next(iter((*arguments.args, *arguments.kwargs.values())))
    if not isinstance(given, dict) or isinstance(nested._inputs_struct, dict):
        return list(range(len(nested.inputs)))
    names = sorted(given)  # as the tensors are
    return [names.index(x.name) for x in nested.inputs]


def at_inference(operation, args, kwargs):
    """Return the result of an operation as in ``predict``.

    Called by themselves, Keras's layers of random augmentation train unless they are told.
    """
    if "training" in inspect.signature(operation.call).parameters:
        kwargs = {**kwargs, "training": False}
    return operation(*args, **kwargs)


def copy_of(operation, **changes):
    """Return a new operation or layer of the same config but for ``changes``, without weights."""
    if type(operation) is keras.layers.Lambda:
        # Keras reads no function back from a config, but the function is at hand here.
        own = {"name": operation.name, "dtype": operation.dtype_policy, "mask": operation.mask}
        own |= {"output_shape": operation._output_shape, "arguments": operation.arguments}
        return keras.layers.Lambda(operation.function, **{**own, **changes})
    try:
        return type(operation).from_config({**operation.get_config(), **changes})
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            "A layer must support get_config and from_config, by which it is copied: give the "
            f"layer a get_config. Received: {operation.name!r} ({type(operation).__name__})"
        ) from error


def copy_weights(operation, copy) -> None:
    """Give a built copy of a layer the layer's weights; other operations have none."""
    if isinstance(operation, keras.layers.Layer):
        copy.set_weights(operation.get_weights())
    if hasattr(copy, "finalize_state"):
        # A preprocessing layer computes with values derived from its weights.
        copy.finalize_state()


@contextlib.contextmanager
def deep_graphs() -> Iterator[None]:
    """Let Keras build models thousands of layers deep, whose graphs it walks recursively."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 100_000))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def run(model, inputs, call: Callable[[Any, tuple, dict], Any]) -> Iterator[tuple[int, Any]]:
    """Execute a functional model of one input, holding each tensor only while something needs it.

    ``call`` is (operation, positional arguments, keyword arguments) -> outputs. Yield the key and
    the value of each tensor as it is computed.
    """
    nodes = nodes_of(model)
    needed = collections.Counter(id(x) for node in nodes for x in node.input_tensors)
    needed.update(id(x) for x in model.outputs)
    values = {id(model.inputs[0]): inputs}
    for node in nodes:
        args, kwargs = node.arguments.fill_in(values)
        outputs = keras.tree.flatten(call(node.operation, args, kwargs))
        for x, value in zip(node.outputs, outputs, strict=True):
            yield id(x), value
            if needed[id(x)]:
                values[id(x)] = value
        del outputs, args, kwargs
        for x in node.input_tensors:
            needed[id(x)] -= 1
            if not needed[id(x)]:
                values.pop(id(x), None)
