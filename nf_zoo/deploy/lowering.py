"""Lowering of a functional Keras model to the inference graph, with one rule for each layer."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from nf_zoo import functional, layers
from nf_zoo.deploy import inference_graph as graph
from nf_zoo.models.residual_block import ResidualBlock

Inputs = list[graph.Node]


def array(value) -> np.ndarray:
    """Return a number, array or variable as float64."""
    if isinstance(value, int | float | list | tuple):
        return np.asarray(value, "float64")
    return ops.convert_to_numpy(value).astype("float64")


def weights_of(value) -> np.ndarray:
    """Return weights as float32, or as float64 if that is what they are."""
    value = ops.convert_to_numpy(value)
    return value if value.dtype == np.float64 else np.asarray(value, "float32")


def _linear(layer, inputs: Inputs, name: str, kernel, convolution=None) -> graph.Node:
    bias = np.zeros(kernel.shape[-1]) if layer.bias is None else array(layer.bias)
    own = {"kernel": weights_of(kernel), "bias": bias, "convolution": convolution}
    node = graph.Linear(name, inputs, layer.dtype_policy, **own)
    return _activated(layer, [node], f"{name}_activation")


def _dense(layer, inputs: Inputs, name: str) -> graph.Node:
    own = isinstance(layer, layers.ScaledWSDense)
    return _linear(layer, inputs, name, layer.effective_kernel() if own else layer.kernel)


def _convolution(layer, inputs: Inputs, name: str) -> graph.Node:
    keys = ("strides", "padding", "dilation", "groups")
    convolution = {key: getattr(layer, key) for key in keys}
    return _linear(layer, inputs, name, layer.effective_kernel(), convolution)


def _depthwise(layer, inputs: Inputs, name: str) -> graph.Node | None:
    """Return a convolution with a group for each channel."""
    *sides, channels, multiplier = layer.kernel.shape
    kernel = weights_of(layer.kernel).reshape(*sides, 1, channels * multiplier)
    return _keras_convolution(layer, inputs, name, kernel, channels)


def _keras_convolution(
    layer, inputs: Inputs, name: str, kernel=None, groups: int | None = None
) -> graph.Node | None:
    even = all(len(set(x)) == 1 for x in (layer.strides, layer.dilation_rate))
    plain = layer.data_format == "channels_last" and layer.padding in ("same", "valid")
    both = layer.strides[0] > 1 and layer.dilation_rate[0] > 1  # Keras's depthwise layers alone
    if not (even and plain) or both:
        return None
    convolution = {"strides": layer.strides[0], "dilation": layer.dilation_rate[0]}
    convolution |= {"padding": layer.padding, "groups": groups or layer.groups}
    return _linear(layer, inputs, name, layer.kernel if kernel is None else kernel, convolution)


def _activated(layer, inputs: Inputs, name: str) -> graph.Node:
    """Return the input, followed by the layer's activation if it has one."""
    activation = getattr(layer, "activation", None)
    own_name = getattr(activation, "__name__", activation)
    if callable(activation) and getattr(keras.activations, str(own_name), None) is activation:
        activation = own_name  # the name by which Keras finds it
    if activation in ("linear", "identity", None):
        return inputs[0]
    return graph.Activation(name, inputs, layer.dtype_policy, activation=activation)


def _scaled_activation(layer, inputs: Inputs, name: str) -> graph.Node:
    node = _activated(layer, inputs, name)
    return node if layer.gamma == 1.0 else _affine(layer, [node], f"{name}_gamma", layer.gamma)


def _relu(layer, inputs: Inputs, name: str) -> graph.Node | None:
    if layer.max_value is not None or layer.negative_slope or layer.threshold:
        return None
    return graph.Activation(name, inputs, layer.dtype_policy, activation="relu")


def _affine(layer, inputs: Inputs, name: str, scale=None, offset=None) -> graph.Node | None:
    """Return an affine node if every value is per channel or for all channels, else None."""
    terms = []
    for value in (1.0 if scale is None else scale, 0.0 if offset is None else offset):
        value = array(value)
        if value.size != 1 and value.size != value.shape[-1]:
            return None
        terms.append(value.reshape(() if value.size == 1 else -1))
    return graph.Affine(name, inputs, layer.dtype_policy, scale=terms[0], offset=terms[1])


def _scale_and_offset(layer, inputs: Inputs, name: str) -> graph.Node | None:
    if getattr(layer, "axis", -1) != -1:
        return None
    return _affine(layer, inputs, name, layer.scale, layer.offset)


def batch_norm_terms(layer) -> tuple[np.ndarray, np.ndarray]:
    """Return the scale and offset of BatchNormalization at inference, float64 (C,)."""
    scale = 1 / np.sqrt(array(layer.moving_variance) + layer.epsilon)
    if layer.gamma is not None:
        scale = scale * array(layer.gamma)
    offset = -array(layer.moving_mean) * scale
    return scale, offset if layer.beta is None else offset + array(layer.beta)


def _batch_norm(layer, inputs: Inputs, name: str) -> graph.Node | None:
    if layer.axis not in (-1, layer.input_spec.ndim - 1):
        return None
    return _affine(layer, inputs, name, *batch_norm_terms(layer))


def _normalization(layer, inputs: Inputs, name: str) -> graph.Node | None:
    mean, spread = array(layer.mean), np.sqrt(array(layer.variance))
    spread = np.maximum(spread, keras.config.epsilon())
    terms = (spread, mean) if layer.invert else (1 / spread, -mean / spread)
    return _affine(layer, inputs, name, *terms)


def _nothing(layer, inputs: Inputs, name: str) -> graph.Node:
    return inputs[0]


def _average(layer, inputs: Inputs, name: str, is_maximum: bool = False) -> graph.Node | None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return None
    return graph.Pool(name, inputs, layer.dtype_policy, layer=layer, is_maximum=is_maximum)


_maximum = functools.partial(_average, is_maximum=True)


def _gate(layer, inputs: Inputs, name: str) -> graph.Node:
    if isinstance(layer, layers.SqueezeExcite):
        parts = {"reduce": layer.reduce, "expand": layer.expand}
        weights = {
            f"{part}_{kind}": weights_of(getattr(dense, kind))
            for part, dense in parts.items()
            for kind in ("kernel", "bias")
        }
    else:
        weights = {"kernel": weights_of(layer.kernel)}
    node = graph.Gate(name, inputs, layer.dtype_policy, weights=weights)
    node.output_scale = array(layer.gate_gain)
    return node


RULES: dict[type, Callable] = {
    layers.Conv2D: _convolution,
    layers.ScaledWSConv2D: _convolution,
    layers.ScaledWSDepthwiseConv2D: _convolution,
    layers.ScaledWSDense: _dense,
    layers.ScaledActivation: _scaled_activation,
    layers.SkipInit: lambda layer, inputs, name: _affine(layer, inputs, name, layer.gain),
    layers.StochasticDepth: _nothing,
    layers.Dropout: _nothing,
    layers.SqueezeExcite: _gate,
    layers.EfficientChannelAttention: _gate,
    layers.MaxPool2D: _maximum,
    layers.DilatedAveragePool2D: _average,
    layers.ChannelAffine: _scale_and_offset,
    layers.ScalarBias: lambda layer, inputs, name: _affine(layer, inputs, name, offset=layer.bias),
    keras.layers.Conv2D: _keras_convolution,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.Dense: _dense,
    keras.layers.Activation: _activated,
    layers.Rectifier: _activated,
    keras.layers.ReLU: _relu,
    keras.layers.BatchNormalization: _batch_norm,
    keras.layers.Rescaling: _scale_and_offset,
    keras.layers.Normalization: _normalization,
    keras.layers.AveragePooling2D: _average,
    keras.layers.GlobalAveragePooling2D: _average,
    keras.layers.MaxPooling2D: _maximum,
    keras.layers.GlobalMaxPooling2D: _maximum,
    keras.layers.Add: lambda layer, inputs, name: graph.Add(name, inputs, layer.dtype_policy),
    **dict.fromkeys(functional.TRAINING, _nothing),
}
"""Exact class -> function of (layer, inputs, name), which returns the node, or None if it cannot.

A subclass may do anything, so it is not treated like its parent.
"""


def lower(model, anchors: frozenset[str] = frozenset()) -> tuple[graph.Sink, list[graph.Source]]:
    """Return the inference graph of a built model: the sink of the outputs, and the inputs.

    Nested models become part of the graph. ``anchors`` names layers at the end of a pooling whose
    result the graph must keep.
    """
    network = require_graph(model)
    sources = [
        graph.Source(functional.operation_of(x).name, [], model.dtype_policy, tensor=x)
        for x in network.inputs
    ]
    outputs = walk(network, dict(zip(map(id, network.inputs), sources, strict=True)), _call)
    sink = graph.Sink("outputs", outputs)
    for node in graph.upwards(sink):
        if isinstance(node, graph.Pool | graph.Affine) and node.name in anchors:
            node.anchored = True
    return sink, sources


def require_graph(model):
    """Return the graph of a model, or raise a ValueError if it has none."""
    network = functional.graph_of(model)
    if network is None:
        raise ValueError(
            "Only a functional or Sequential Keras model that has been built can be folded or "
            "exported: give a Sequential an Input first; for any other model that has been called, "
            "Keras's own model.export(folder) writes a SavedModel. "
            f"Received: {type(model).__name__} {getattr(model, 'name', '')!r}"
        )
    return network


def input_shapes(model) -> list[tuple[int | None, ...]]:
    """Return the shapes of the inputs; the batch axis of a Sequential is always free."""
    shapes = [tuple(tensor.shape) for tensor in functional.as_functional(model).inputs]
    return [(None, *x[1:]) for x in shapes] if isinstance(model, keras.Sequential) else shapes


def takes_only_tensors(node) -> bool:
    """Return True if a layer is called with only its input, or a list of inputs.

    Masks and constants change its result. ``training`` does not: at inference the model passes
    its own value to every layer.
    """
    options = {key: x for key, x in node.arguments.kwargs.items() if key != "training"}
    given = [value for value in (*node.arguments.args, *options.values()) if value is not None]
    return len(given) == 1 and all(
        isinstance(value, keras.KerasTensor) for value in keras.tree.flatten(given)
    )


def walk(
    network, values: dict[int, graph.Node], call: Callable[[Any, list], list]
) -> list[graph.Node]:
    """Translate a functional model, call by call, and return the nodes of its outputs.

    ``values``, key of a Keras tensor -> its node, has those of the inputs and gets all others.
    ``call`` is (Keras's node, nodes of its inputs) -> a node for each of its outputs.
    """
    for node in functional.nodes_of(network):
        results = call(node, [values[id(x)] for x in node.input_tensors])
        values.update(zip(map(id, node.outputs), results, strict=True))
    return [values[id(x)] for x in network.outputs]


def keep(node, inputs: Inputs, name: str) -> list[graph.Node]:
    """Return the nodes of a call that stays as it is, one for each of its outputs."""
    operation = node.operation
    kept = graph.Kept(
        name,
        inputs,
        getattr(operation, "dtype_policy", None),
        operation=operation,
        arguments=node.arguments,
        tensors=list(node.input_tensors),
        foreign=not type(operation).__module__.startswith(("keras.", "nf_zoo.layers.")),
    )
    if len(node.outputs) == 1:
        return [kept]
    return [
        graph.Part(f"{name}_{index}", [kept], index=index) for index in range(len(node.outputs))
    ]


def _call(node, inputs: Inputs, prefix: str = "") -> list[graph.Node]:
    operation = node.operation
    name = f"{prefix}{operation.name}"
    if takes_only_tensors(node):
        nested = functional.graph_of(operation)
        if nested is not None and _cuts_off(node, nested):
            return keep(node, inputs, name)
        if nested is not None:
            entering = _entering(node, nested, inputs)
            tensors = dict(zip(map(id, nested.inputs), entering, strict=True))
            return walk(nested, tensors, functools.partial(_call, prefix=f"{name}_"))
        floats = [_floating(x, operation) for x in inputs] if type(operation) in RULES else inputs
        result = lower_layer(operation, floats, prefix)
        if result is not None:
            return [result]
    return keep(node, inputs, name)


def _entering(node, nested, inputs: Inputs) -> Inputs:
    """Return the inputs of a nested model in its order, and as floats where it takes floats."""
    places, outer = functional.places_of(node.arguments, nested), node.input_tensors
    return [
        _cast(inputs[i], own.dtype)
        if "float" in own.dtype and "float" not in outer[i].dtype
        else inputs[i]
        for i, own in zip(places, nested.inputs, strict=True)
    ]


def _cuts_off(node, nested) -> bool:
    """Return True if a nested model makes whole numbers of floats, which only Keras does alike."""
    outer = [node.input_tensors[i] for i in functional.places_of(node.arguments, nested)]
    return any(
        "float" in given.dtype and "float" not in own.dtype
        for given, own in zip(outer, nested.inputs, strict=True)
    )


def _floating(node: graph.Node, layer) -> graph.Node:
    """Cast integer inputs to floats, as the layers themselves do but not their replacements."""
    if not isinstance(node, graph.Source) or "float" in str(node.tensor.dtype):
        return node
    return _cast(node, layer.dtype_policy)


def _cast(node: graph.Node, dtype) -> graph.Node:
    cast = keras.layers.Rescaling(1.0, dtype=dtype)
    return graph.Kept(f"{node.name}_float", [node], cast.dtype_policy, operation=cast)


def lower_layer(layer, inputs: list[graph.Node], prefix: str = "") -> graph.Node | None:
    """Return the node of a layer applied to the inputs; None if the layer is unknown."""
    rule = RULES.get(type(layer))
    if rule is not None:
        return rule(layer, inputs, f"{prefix}{layer.name}")
    if isinstance(layer, ResidualBlock):
        inside = _Inside(layer, f"{prefix}{layer.name}_")
        return type(layer).call(inside, _Traced(inputs[0], inside), training=False).node
    return None


class _Traced:
    """A result of the graph that the code of a block can scale and add like a tensor."""

    dtype = "float64"  # that folding computes in

    def __init__(self, node: graph.Node, inside: _Inside):
        self.node, self._inside = node, inside

    def __mul__(self, factor):
        return self._then(graph.Affine, "scaled", scale=array(factor))

    def __add__(self, other):
        if not isinstance(other, _Traced):
            return self._then(graph.Affine, "shifted", offset=array(other))
        return self._then(graph.Add, "add", other.node)

    __rmul__, __radd__ = __mul__, __add__

    def _then(self, kind: type, word: str, *others: graph.Node, **values) -> _Traced:
        name, policy = f"{self._inside._prefix}{word}", self._inside._layer.dtype_policy
        return _Traced(kind(name, [self.node, *others], policy, **values), self._inside)


class _Inside:
    """Stand-in for ``self`` in the methods of a block; its layers return nodes, not tensors.

    Folding thus runs the block's own code: there is no second description of it to keep in step,
    and the block itself does not change.
    """

    def __init__(self, layer, prefix: str):
        self._layer, self._prefix = layer, prefix

    @property
    def __class__(self):
        # super() in the methods reads it.
        return type(self._layer)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._layer, name)
        if inspect.ismethod(value) and value.__self__ is self._layer:
            return types.MethodType(value.__func__, self)
        return self._stand_in(value)

    def _stand_in(self, value: Any) -> Any:
        if isinstance(value, keras.layers.Layer):
            return functools.partial(self._lowered, value)
        if isinstance(value, list | tuple):
            return [self._stand_in(entry) for entry in value]
        return value

    def _lowered(self, layer, x: _Traced, training: bool = False) -> _Traced:
        node = lower_layer(layer, [x.node], self._prefix)
        if node is None:
            own = {"operation": layer, "foreign": True}
            name = f"{self._prefix}{layer.name}"
            node = graph.Kept(name, [x.node], layer.dtype_policy, **own)
        return _Traced(node, self)
