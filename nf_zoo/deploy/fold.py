"""A trained network -> the same function in plain convolutions, biases and activations."""

from __future__ import annotations

from typing import Any

import keras

import nf_zoo
from nf_zoo import functional
from nf_zoo.deploy import graph
from nf_zoo.deploy.emission import Emitter
from nf_zoo.deploy.folded import FoldedModel
from nf_zoo.deploy.lowering import graph_of, input_shapes, lower
from nf_zoo.deploy.rewriting import rewrite
from nf_zoo.models.classifier import ImageClassifier


def fold(
    model: keras.Model, *, dtype: str | None = None, allow_unfolded: bool = False
) -> FoldedModel:
    """A new model that computes the same at inference, of plain layers.

    Weight standardization, gains, gamma, beta, alpha, skip gains, stochastic depth and dropout
    disappear into the kernels and biases of ``keras.layers.Conv2D`` (``nf_zoo.layers.Conv2D``
    where it is grouped), and so does BatchNorm where it stands next to a convolution. What cannot
    go there stays as a layer of its own and is listed in ``remaining``:

    - of a pre-activation BatchNorm network the first norm of every block, whose input is a sum
      (of a positive scale nothing but an addition stays);
    - a gamma after the last activation before the pooled features;
    - the biases of a Fixup block before a convolution that pads with zeros;
    - a scale of 0 or near it behind a squeeze-excite or ECA gate.

    Args:
        model: an ImageClassifier, or any functional or Sequential Keras model; those with parts
            of an ImageClassifier in them (fine-tuned heads, feature maps, nested models) fold
            too.
        dtype: policy of the maps, such as ``"mixed_bfloat16"``; pixels before the first
            convolution and everything after a matrix product keep their own. None keeps the
            model's. docs/deploy.md says where bfloat16 is faster.
        allow_unfolded: keep layers that folding does not know, instead of refusing them.

    Returns:
        A :class:`~nf_zoo.deploy.folded.FoldedModel` with the same inputs, outputs and name; the
        model itself if it is folded already. ``model`` is untouched.

    Raises:
        ValueError: if the model is not functional, or has layers that folding does not know, or
            that ``quantize`` has quantized; or if it is folded already and a dtype is asked for.

    Source: Brock, De & Smith, ICLR 2021, section 4, for what is a constant at inference.

    Example:
        >>> import nf_zoo
        >>> folded = nf_zoo.fold(nf_zoo.NFResNet26(num_classes=3))
        >>> folded.remaining
        {}
    """
    if isinstance(model, FoldedModel):
        if dtype is not None:
            raise ValueError(
                "dtype is chosen when a model is folded: fold the one that this was folded from. "
                f"Received: dtype={dtype!r} with {model.name!r}, folded"
            )
        return model
    _refuse_quantized(model)
    known = isinstance(model, ImageClassifier)
    sink, sources = lower(model, anchors=frozenset({"pool"} if known else ()))
    if not allow_unfolded:
        _refuse_unknown(sink)
    rewrite(sink)
    if dtype is not None:
        _set_policy(sink, keras.DTypePolicy(dtype))
    shapes = zip(sources, input_shapes(model), strict=True)
    inputs = {source: _input_like(source, shape) for source, shape in shapes}
    emitter = Emitter()
    tensors = emitter.emit(graph.upwards(sink), dict(inputs))
    outputs = [tensors[node] for node in sink.inputs]
    # As the model's own call takes and gives them: alone, or in a list, dict, ...
    structures = functional.structures_of(graph_of(model))
    packed = map(keras.tree.pack_sequence_as, structures, (list(inputs.values()), outputs))
    return FoldedModel(*packed, name=model.name, remaining=emitter.remaining, **_record_of(model))


def _refuse_quantized(model) -> None:
    quantized = [
        repr(layer.name)
        for layer in getattr(model, "_flatten_layers", list)()
        if getattr(layer, "quantization_mode", None) is not None
    ]
    if quantized:
        raise ValueError(
            "Folding and export make networks of float weights: take the model as it was before "
            "model.quantize(...), and export with precision='int8' for eight bits. "
            f"Received: quantized layers {', '.join(quantized)}"
        )


def _set_policy(sink: graph.Sink, policy) -> None:
    """Give it to what comes after a convolution and not after a matrix product."""
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


def _input_like(source: graph.Source, shape):
    return keras.Input(batch_shape=shape, dtype=source.tensor.dtype, name=source.name)


def _record_of(model) -> dict[str, Any]:
    origin = {
        "name": model.name,
        "class": type(model).__name__,
        "nf_zoo_version": nf_zoo.__version__,
    }
    if not isinstance(model, ImageClassifier):
        return {"folded_from": origin}
    names = (
        *("architecture", "num_classes", "classifier_activation", "include_preprocessing"),
        *("preprocessing", "labels", "weights_tag"),
    )
    origin |= {
        "architecture": model.architecture,
        "weights_tag": model.weights_tag,
        "options": model.options(),
    }
    return {"folded_from": origin, **{name: getattr(model, name) for name in names}}
