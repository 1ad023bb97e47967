"""Folding: a trained network becomes plain convolutions, biases and activations.

The model is lowered to an inference graph, the graph is rewritten, and Keras layers are built
from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import nf_zoo
from nf_zoo import functional, layers
from nf_zoo.deploy import inference_graph as graph
from nf_zoo.deploy.folded import OF_CLASSIFIER, FoldedModel
from nf_zoo.deploy.lowering import input_shapes, lower
from nf_zoo.deploy.rewriting import rewrite
from nf_zoo.models.classifier import ImageClassifier


def fold(
    model: keras.Model, *, dtype: str | None = None, allow_unfolded: bool = False
) -> FoldedModel:
    """Return a new model of plain layers that computes the same at inference.

    Weight standardization, gains, gamma, beta, alpha, skip gains, stochastic depth and dropout
    disappear into the kernels and biases of ``keras.layers.Conv2D`` (``nf_zoo.layers.Conv2D`` if
    it is grouped). So does BatchNorm next to a convolution. Anything that cannot be folded stays
    as a layer of its own and is listed in ``remaining``:

    - the first norm of every block of a pre-activation BatchNorm network, because its input is a
      sum (if its scale is positive, only an addition stays);
    - a gamma after the last activation before the pooled features;
    - the biases of a Fixup block before a convolution that pads with zeros;
    - a scale at or near 0 after a squeeze-excite or ECA gate.

    Args:
        model: an ImageClassifier, or any functional or Sequential Keras model; models that
            contain parts of an ImageClassifier (fine-tuned heads, feature maps, nested models)
            fold too.
        dtype: policy of the maps, such as ``"mixed_bfloat16"``; pixels before the first
            convolution and everything after a matrix product keep their own. None keeps the
            model's policy. docs/deploy.md says where bfloat16 is faster.
        allow_unfolded: keep layers that folding does not know, instead of refusing them.

    Returns:
        A :class:`~nf_zoo.deploy.folded.FoldedModel` with the same inputs, outputs and name, or the
        model itself if it is already folded. ``model`` is not changed.

    Raises:
        ValueError: if the model is not functional, has layers that folding does not know or that
            ``quantize`` has quantized, or is already folded and ``dtype`` is given.

    Source: Brock, De & Smith, ICLR 2021, section 4, on the parts that are constant at inference.

    Example:
        >>> import nf_zoo
        >>> folded = nf_zoo.fold(nf_zoo.NFResNet26(num_classes=3))
        >>> folded.remaining
        {}
    """
    _refuse_quantized(model)
    if isinstance(model, FoldedModel):
        if dtype is not None:
            raise ValueError(
                "dtype must be chosen when a model is first folded: fold the original model again. "
                f"Received: dtype={dtype!r} with {model.name!r}, which is folded"
            )
        return model
    known = isinstance(model, ImageClassifier)
    sink, sources = lower(model, anchors=frozenset({"pool"} if known else ()))
    if not allow_unfolded:
        _refuse_unknown(sink)
    rewrite(sink)
    if dtype is not None:
        _set_policy(sink, keras.DTypePolicy(dtype))
    return _emitted(model, sink, sources, **_record_of(model))


def in_float32(folded: FoldedModel) -> FoldedModel:
    """Return a folded model that computes in float32, but for layers that folding does not know."""
    if {layer.compute_dtype for layer in folded.layers} <= {"float32"}:
        return folded
    sink, sources = lower(folded, anchors=frozenset())
    for node in graph.upwards(sink):
        node.policy = keras.DTypePolicy("float32")
    record = {key: getattr(folded, key) for key in ("folded_from", *OF_CLASSIFIER)}
    return _emitted(folded, sink, sources, **record)


def _emitted(model, sink: graph.Sink, sources: list[graph.Source], **record) -> FoldedModel:
    """Return the Keras model of a graph, with inputs and outputs as ``model`` has them."""
    shapes = zip(sources, input_shapes(model), strict=True)
    inputs = {
        source: keras.Input(batch_shape=shape, dtype=source.tensor.dtype, name=source.name)
        for source, shape in shapes
    }
    emitter = _Emitter()
    tensors = emitter.emit(graph.upwards(sink), dict(inputs))
    outputs = [tensors[node] for node in sink.inputs]
    # Inputs and outputs keep the structure of the model's own call: alone, or in a list, dict, ...
    structures = functional.structures_of(functional.graph_of(model))
    packed = map(keras.tree.pack_sequence_as, structures, (list(inputs.values()), outputs))
    return FoldedModel(*packed, name=model.name, remaining=emitter.remaining, **record)


def _refuse_quantized(model) -> None:
    quantized = [
        repr(layer.name)
        for layer in getattr(model, "_flatten_layers", list)()
        if getattr(layer, "quantization_mode", None) is not None
    ]
    if quantized:
        raise ValueError(
            "The model to fold or export must have float weights: use the model from before "
            "model.quantize(...), and export with precision='int8' for eight bits. "
            f"Received: quantized layers {', '.join(quantized)}"
        )


def _set_policy(sink: graph.Sink, policy) -> None:
    """Set the policy of all nodes that come after a convolution but not after a matrix product."""
    are_maps: dict[graph.Node, bool] = {}
    for node in graph.upwards(sink):
        if isinstance(node, graph.Linear):
            are_maps[node] = node.convolution is not None
        else:
            are_maps[node] = bool(node.inputs) and all(are_maps[x] for x in node.inputs)
        if are_maps[node]:
            node.policy = policy


def _refuse_unknown(sink: graph.Sink) -> None:
    unknown = {
        f"{node.name!r} ({type(node.operation).__name__})": None
        for node in graph.upwards(sink)
        if isinstance(node, graph.Kept) and node.foreign
    }
    if unknown:
        raise ValueError(
            "Folding does not know these layers: allow_unfolded=True keeps them as they are. "
            f"Received: {', '.join(unknown)}"
        )


def _record_of(model) -> dict[str, Any]:
    origin = {"name": model.name, "class": type(model).__name__}
    origin["nf_zoo_version"] = nf_zoo.__version__
    if not isinstance(model, ImageClassifier):
        return {"folded_from": origin}
    origin |= {key: getattr(model, key) for key in ("architecture", "weights_tag")}
    origin["options"] = model.options()
    return {"folded_from": origin, **{key: getattr(model, key) for key in OF_CLASSIFIER}}


class _Emitter:
    """Builder of the Keras layers of a graph, one node after the other."""

    def __init__(self):
        # name of a layer -> the part in it that no convolution could take
        self.remaining: dict[str, str] = {}
        self._names = graph.Names()

    def emit(self, nodes: list[graph.Node], tensors: dict) -> dict:
        """Return the Keras tensors of nodes, each after its inputs; ``tensors`` has the sources."""
        for node in nodes:
            if not isinstance(node, graph.Source | graph.Sink):
                inputs = [tensors[x] for x in node.inputs]
                tensors[node] = getattr(self, f"_{type(node).__name__.lower()}")(node, inputs)
        return tensors

    def _layer(self, layer_class: Callable, name: str, node: graph.Node, *args, **kwargs):
        if "data_format" in inspect.signature(layer_class).parameters:
            kwargs["data_format"] = "channels_last"  # regardless of Keras's global setting
        return layer_class(*args, name=self._names.unique(name), dtype=node.policy, **kwargs)

    def _linear(self, node: graph.Linear, inputs: list):
        x = inputs[0]
        if node.convolution is None:
            layer = self._layer(keras.layers.Dense, node.name, node, node.filters)
        else:
            layer, x = self._convolution(node, x)
        x = layer(x)
        kernel = node.folded_kernel().reshape(layer.kernel.shape)
        layer.set_weights([kernel, node.bias])
        return x

    def _convolution(self, node: graph.Linear, x) -> tuple:
        """Return the layer and its input, which is padded here if Keras lacks the padding."""
        keys = ("strides", "padding", "dilation", "groups")
        strides, padding, dilation, groups = (node.convolution[key] for key in keys)
        *sizes, fan, filters = node.kernel.shape
        kind, own = keras.layers.Conv2D, {"filters": filters, "dilation_rate": dilation}
        is_depthwise = groups > 1 and fan == 1
        if padding in ("reflect", "circular") or (groups > 1 and not is_depthwise):
            kind, own = layers.Conv2D, {"filters": filters, "groups": groups, "dilation": dilation}
        elif padding == "symmetric":
            sides = [dilation * (size - 1) // 2 for size in sizes]
            padding = "same" if strides == 1 and all(size % 2 for size in sizes) else "valid"
            if padding == "valid" and any(sides):
                both = tuple((side, side) for side in sides)
                x = self._layer(keras.layers.ZeroPadding2D, f"{node.name}_pad", node, both)(x)
        if is_depthwise and kind is keras.layers.Conv2D:
            kind = keras.layers.DepthwiseConv2D
            own = {"depth_multiplier": filters // groups, "dilation_rate": dilation}
        own |= {"strides": strides, "padding": padding, "kernel_size": sizes[0]}
        if sizes[0] != sizes[1]:
            own["kernel_size"] = tuple(sizes)
        return self._layer(kind, node.name, node, **own), x

    def _affine(self, node: graph.Affine, inputs: list):
        values = {"scale": node.scale} if np.any(node.scale != 1) else {}
        values |= {"offset": node.offset} if np.any(node.offset) else {}
        if not values:
            return inputs[0]
        extents = {key: "channels" if value.ndim else "scalar" for key, value in values.items()}
        layer = self._layer(layers.ChannelAffine, node.name, node, **{"scale": None, **extents})
        x = layer(inputs[0])
        layer.set_weights(list(values.values()))
        self.remaining[layer.name] = " and ".join(
            f"{'one' if value.ndim == 0 else 'per channel'} {key}" for key, value in values.items()
        )
        return x

    def _activation(self, node: graph.Activation, inputs: list):
        activation = node.activation
        if activation == "relu" and not node.input.has_one_consumer:
            return self._layer(layers.Rectifier, node.name, node)(inputs[0])
        plain = isinstance(activation, str) and hasattr(keras.activations, activation)
        # TensorFlow's SiLU leaks the graph that it is traced in; this package's does not.
        if plain and activation not in ("silu", "swish"):
            return self._layer(keras.layers.Activation, node.name, node, activation)(inputs[0])
        scaled = self._layer(layers.ScaledActivation, node.name, node, activation, gamma=1.0)
        return scaled(inputs[0])

    def _pool(self, node: graph.Pool, inputs: list):
        layer, x = node.layer, inputs[0]
        after_relu = isinstance(node.input, graph.Activation) and node.input.activation == "relu"
        if not isinstance(layer, layers.MaxPool2D):
            return self._copy(layer, node.name, dtype=node.policy)(x)
        padding = layer.padding
        if padding in ("symmetric", "mirrored") and not after_relu:
            return self._copy(layer, node.name, padding="mirrored", dtype=node.policy)(x)
        if padding in ("symmetric", "mirrored"):
            # No value is below 0, so padding with zeros equals padding with minus infinity.
            padding = "valid"
            side = (layer.pool_size - 1) // 2
            x = self._layer(keras.layers.ZeroPadding2D, f"{node.name}_pad", node, side)(x)
        size, strides = layer.pool_size, layer.strides
        pool = keras.layers.MaxPooling2D
        return self._layer(pool, node.name, node, size, strides, padding)(x)

    def _add(self, node: graph.Add, inputs: list):
        return self._layer(keras.layers.Add, node.name, node)(inputs)

    def _gate(self, node: graph.Gate, inputs: list):
        build = self._squeeze_excite if node.kind == "se" else self._efficient_attention
        gate = build(node, inputs[0])
        if np.any(node.output_scale != 1):
            scaled = graph.Affine(f"{node.name}_scale", [], node.policy, scale=node.output_scale)
            gate = self._affine(scaled, [gate])
        return self._layer(keras.layers.Multiply, node.name, node)([inputs[0], gate])

    def _mean(self, node: graph.Gate, x):
        pool = keras.layers.GlobalAveragePooling2D
        return self._layer(pool, f"{node.name}_mean", node, keepdims=True)(x)

    def _squeeze_excite(self, node: graph.Gate, x):
        x = self._mean(node, x)
        scale = np.broadcast_to(node.input_scale, (x.shape[-1],))[:, None]
        for part, activation, factor in (("reduce", "relu", scale), ("expand", "sigmoid", 1)):
            kernel = node.weights[f"{part}_kernel"] * factor
            name, own = f"{node.name}_{part}", {"activation": activation}
            layer = self._layer(keras.layers.Conv2D, name, node, kernel.shape[-1], 1, **own)
            x = layer(x)
            layer.set_weights([kernel[None, None], node.weights[f"{part}_bias"]])
        return x

    def _efficient_attention(self, node: graph.Gate, x):
        """Convolve over the channels, moved to the width so that no shape is fixed."""
        x = self._mean(node, x)
        x = self._layer(keras.layers.Permute, f"{node.name}_row", node, (1, 3, 2))(x)
        kernel = node.weights["kernel"] * node.input_scale
        own = {"padding": "same", "use_bias": False, "activation": "sigmoid"}
        size = (1, kernel.shape[0])
        layer = self._layer(keras.layers.Conv2D, f"{node.name}_conv", node, 1, size, **own)
        x = layer(x)
        layer.set_weights([kernel[None]])
        return self._layer(keras.layers.Permute, f"{node.name}_gate", node, (1, 3, 2))(x)

    def _kept(self, node: graph.Kept, inputs: list):
        plain = isinstance(node.operation, keras.layers.Layer) and not node.foreign
        policy = {"dtype": node.policy} if plain else {}
        operation = self._copy(node.operation, node.name, **policy)
        inside = getattr(node.operation, "_flatten_layers", list)()
        if node.foreign or any(type(x).__module__.startswith("nf_zoo.") for x in inside[1:]):
            kind = type(node.operation).__name__
            self.remaining[operation.name] = f"{kind}, which folding does not know"
        x = node.call(operation, inputs, training=False)
        functional.copy_weights(node.operation, operation)
        return x

    def _part(self, node: graph.Part, inputs: list):
        return keras.tree.flatten(inputs[0])[node.index]

    def _copy(self, operation, name: str, **changes):
        changes["name"] = self._names.unique(name)
        try:
            return functional.copy_of(operation, **changes)
        except ValueError as error:
            raise ValueError(
                "A layer that folding keeps must support get_config and from_config, by which it "
                "is copied: give the layer a get_config, or do not fold the model "
                "(export_saved_model takes fold=False). "
                f"Received: {name!r} ({type(operation).__name__})"
            ) from error
