"""From the inference graph to Keras layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from nf_zoo import layers
from nf_zoo.deploy import graph

Values = dict[graph.Node, Any]


class Emitter:
    """Makes the layers of a graph, one node after the other.

    Attributes:
        remaining: name of a layer -> what it does that no convolution could take.
    """

    def __init__(self):
        self.remaining: dict[str, str] = {}
        self._names = graph.Names()

    def emit(self, nodes: list[graph.Node], tensors: Values) -> Values:
        """Keras tensors of all the nodes.

        Args:
            nodes: each after its inputs.
            tensors: those of the sources; completed in place.
        """
        for node in nodes:
            if isinstance(node, graph.Source | graph.Sink):
                continue
            inputs = [tensors[x] for x in node.inputs]
            tensors[node] = getattr(self, f"_{type(node).__name__.lower()}")(node, inputs)
        return tensors

    def _layer(self, layer_class: Callable, name: str, node: graph.Node, *args, **kwargs):
        if "data_format" in inspect.signature(layer_class).parameters:
            kwargs["data_format"] = "channels_last"  # whatever Keras's global setting
        return layer_class(*args, name=self._names.unique(name), dtype=node.policy, **kwargs)

    def _linear(self, node: graph.Linear, inputs: list):
        kernel, bias = node.folded_kernel(), node.bias.astype("float32")
        if node.convolution is None:
            layer = self._layer(keras.layers.Dense, node.name, node, node.filters)
            x = inputs[0]
        else:
            layer, x = self._convolution(node, inputs[0])
        x = layer(x)
        layer.set_weights([kernel, bias])
        return x

    def _convolution(self, node: graph.Linear, x) -> tuple:
        """The layer and its input, padded where Keras has no such padding."""
        strides, padding, dilation, groups = (
            node.convolution[key] for key in ("strides", "padding", "dilation", "groups")
        )
        size = node.kernel.shape[0]
        if groups > 1 or padding in ("reflect", "circular"):
            own = {"groups": groups, "dilation": dilation}
            return self._layer(
                layers.Conv2D, node.name, node, node.filters, size, strides, padding, **own
            ), x
        side = dilation * (size - 1) // 2
        if padding == "symmetric":
            padding = "same" if strides == 1 and size % 2 else "valid"
            if padding == "valid" and side:
                pad = self._layer(keras.layers.ZeroPadding2D, f"{node.name}_pad", node, side)
                x = pad(x)
        layer = self._layer(
            keras.layers.Conv2D,
            node.name,
            node,
            node.filters,
            size,
            strides,
            padding,
            dilation_rate=dilation,
        )
        return layer, x

    def _affine(self, node: graph.Affine, inputs: list):
        values = {}
        if np.any(node.scale != 1):
            values["scale"] = node.scale
        if np.any(node.offset):
            values["offset"] = node.offset
        if not values:
            return inputs[0]
        extents = {key: "channels" if value.ndim else "scalar" for key, value in values.items()}
        own = {"scale": None, **extents}
        layer = self._layer(layers.ChannelAffine, node.name, node, **own)
        x = layer(inputs[0])
        layer.set_weights([value.astype("float32") for value in values.values()])
        self.remaining[layer.name] = " and ".join(
            f"{'one' if value.ndim == 0 else 'per channel'} {key}" for key, value in values.items()
        )
        return x

    def _activation(self, node: graph.Activation, inputs: list):
        activation = node.activation
        if activation == "relu" and not node.input.has_one_consumer:
            return self._layer(layers.Rectifier, node.name, node)(inputs[0])
        plain = isinstance(activation, str) and hasattr(keras.activations, activation)
        # TensorFlow's SiLU leaks the graph that it is traced in; that of this package does not.
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
            # Nothing is below 0, so zeros pad as well as minus infinity.
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

    def _squeeze_excite(self, node: graph.Gate, x):
        pool = keras.layers.GlobalAveragePooling2D
        x = self._layer(pool, f"{node.name}_mean", node, keepdims=True)(x)
        scale = np.broadcast_to(node.input_scale, (x.shape[-1],))
        for part, activation, factor in (
            ("reduce", "relu", scale[:, None]),
            ("expand", "sigmoid", 1),
        ):
            kernel = (node.weights[f"{part}_kernel"] * factor).astype("float32")
            name = f"{node.name}_{part}"
            layer = self._layer(
                keras.layers.Conv2D, name, node, kernel.shape[-1], 1, activation=activation
            )
            x = layer(x)
            layer.set_weights([kernel[None, None], node.weights[f"{part}_bias"]])
        return x

    def _efficient_attention(self, node: graph.Gate, x):
        """The channels lie along the width for the convolution over them: no shape is fixed."""
        pool = keras.layers.GlobalAveragePooling2D
        x = self._layer(pool, f"{node.name}_mean", node, keepdims=True)(x)
        x = self._layer(keras.layers.Permute, f"{node.name}_row", node, (1, 3, 2))(x)
        kernel = (node.weights["kernel"] * node.input_scale).astype("float32")
        layer = self._layer(
            keras.layers.Conv2D,
            f"{node.name}_conv",
            node,
            1,
            (1, kernel.shape[0]),
            padding="same",
            use_bias=False,
            activation="sigmoid",
        )
        x = layer(x)
        layer.set_weights([kernel[None]])
        return self._layer(keras.layers.Permute, f"{node.name}_gate", node, (1, 3, 2))(x)

    def _kept(self, node: graph.Kept, inputs: list):
        plain = isinstance(node.operation, keras.layers.Layer) and not node.foreign
        policy = {"dtype": node.policy} if plain else {}
        operation = self._copy(node.operation, node.name, **policy)
        if node.foreign:
            kind = type(node.operation).__name__
            self.remaining[operation.name] = f"{kind}, which folding does not know"
        if node.arguments is None:
            x = operation(*inputs)
        else:
            values = dict(zip(map(id, node.tensors), inputs, strict=True))
            args, kwargs = node.arguments.fill_in(values)
            if "training" in kwargs:
                kwargs["training"] = False
            x = operation(*args, **kwargs)
        if isinstance(operation, keras.layers.Layer):
            operation.set_weights(node.operation.get_weights())
        if hasattr(operation, "finalize_state"):
            # Of a preprocessing layer, which computes with what it makes of its weights.
            operation.finalize_state()
        return x

    def _part(self, node: graph.Part, inputs: list):
        return keras.tree.flatten(inputs[0])[node.index]

    def _copy(self, operation, name: str, **changes):
        changes["name"] = self._names.unique(name)
        if type(operation) is keras.layers.Lambda:
            # Keras reads no function back from a config, and here it is at hand.
            own = {"output_shape": operation._output_shape, "arguments": operation.arguments}
            return keras.layers.Lambda(operation.function, mask=operation.mask, **own, **changes)
        try:
            return type(operation).from_config({**operation.get_config(), **changes})
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ValueError(
                "Folding copies the layers that it keeps by get_config and from_config, which this "
                "one does not support: give it a get_config, or leave the model as it is "
                "(export_saved_model takes fold=False). "
                f"Received: {name!r} ({type(operation).__name__})"
            ) from error
