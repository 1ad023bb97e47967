"""A model as an ONNX file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nf_zoo import atomic
from nf_zoo.deploy.metadata import metadata_of
from nf_zoo.deploy.onnx_graph import to_onnx
from nf_zoo.deploy.quantization import (
    calibration_inputs,
    check_options,
    check_quantized,
    layers_to_keep,
)
from nf_zoo.deploy.target import check_answers, check_target, require
from nf_zoo.deploy.trial import tolerance_for, trials

PRECISIONS = ("float32", "int8")
LARGEST_FILE = 2**31 - 1
"""Of the format, in bytes; larger weights would need a second file."""


def export_onnx(
    model,
    path: str | os.PathLike,
    overwrite: bool = False,
    *,
    precision: str = "float32",
    pictures: Any = None,
    keep_float: int | Sequence[str] = (),
) -> Path:
    """Write an ONNX file of the folded network.

    The input is the model's own, float32 (N, H, W, C), of any batch and, where the model leaves
    them free, any sides; so are the outputs: ``logits`` (or the name of the classifier's
    activation) of shape (N, classes), ``features``, or ``features_0``, ``features_1``, ... of a
    model of feature maps, or the keys of a model that gives a dict. ``metadata_props`` holds
    ``labels`` and ``preprocessing`` as JSON. A model of several inputs has theirs, by name.

    The file is checked, run by ONNX Runtime on pictures of two sizes and batches, and compared
    with the model before it appears under ``path``.

    Args:
        model: an ImageClassifier, or any functional Keras model that :func:`nf_zoo.fold` takes.
        path: file to write, ``.onnx``.
        overwrite: replace an existing file.
        precision: ``"float32"``, or ``"int8"``: weights and activations of convolutions and
            matrix products in 8 bits, weights with a scale per channel (QDQ nodes).
        pictures: for ``"int8"``, from which the ranges of the activations are taken: anything
            :func:`nf_zoo.preprocess` takes, some hundreds of the kind that the model will see.
        keep_float: for ``"int8"``, layers that stay float32: names, or how many, the worst of
            :func:`nf_zoo.quantization_report` on the pictures.

    Returns:
        ``path``.

    Raises:
        FileExistsError: if ``path`` exists and ``overwrite`` is false.
        ImportError: without onnx and onnxruntime.
        RuntimeError: if the written file answers differently.
        ValueError: if a layer cannot be folded or written, or the options do not go together.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.NFResNet26(num_classes=2, labels=("cat", "dog"))
        >>> nf_zoo.export_onnx(model, "pets.onnx")  # doctest: +SKIP
    """
    from nf_zoo.deploy.fold import fold

    path = check_target(path, overwrite)
    check_options("ONNX", PRECISIONS, precision, pictures, keep_float)
    onnx, _ = require("onnx", "onnx", "onnxruntime")
    folded = fold(model)
    made = to_onnx(onnx, folded, _properties(model))
    if made.ByteSize() > LARGEST_FILE:
        raise ValueError(
            "An ONNX file holds 2 GB: model.export(folder) writes larger networks as a SavedModel. "
            f"Received: {made.ByteSize() / 2**30:.2f} GB"
        )
    inputs = calibration_inputs(model, pictures) if precision == "int8" else None
    with atomic.replacing(path) as written:
        onnx.checker.check_model(made)
        onnx.save(made, written)
        _verify(model, written)
        if precision == "int8":
            keep = layers_to_keep(folded, inputs, keep_float)
            _quantize(written, inputs, keep)
            check_quantized(folded, inputs, runner(written))
    return path


def _properties(model) -> dict[str, str]:
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in metadata_of(model).items()
    }


def runner(path: Path, **entries: str) -> Callable[..., list[np.ndarray]]:
    """A function that runs the file on an array for each input and gives its outputs in order.

    ``entries`` are configuration entries of ONNX Runtime's session options.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    names = [entry.name for entry in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def _quantize(written: Path, inputs: np.ndarray, keep: list[str]) -> None:
    """Replace the float32 file by its quantized form."""
    import onnx
    from onnxruntime import quantization

    simple, quantized = (written.with_name(f"{word}.onnx") for word in ("simple", "int8"))
    quantization.quant_pre_process(str(written), str(simple), skip_symbolic_shape=True)
    network = onnx.load(simple)
    shields = _shield(onnx, network, keep)
    onnx.save(network, simple)
    quantization.quantize_static(
        str(simple),
        str(quantized),
        _Reader(network.graph.input[0].name, inputs),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        # Signed ones take half as long again on x86.
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=[*keep, *shields],
    )
    properties = {entry.key: entry.value for entry in onnx.load(written).metadata_props}
    made = onnx.load(quantized)
    onnx.helper.set_model_props(made, properties)
    onnx.save(made, written)


def _shield(onnx, network, keep: list[str]) -> list[str]:
    """Halve the inputs of the nodes and double their kernels; the names of the halvings.

    ONNX Runtime quantizes the weights of a convolution that stands between a dequantized input
    and a quantized output, with one scale for all of them and without being asked. Behind a
    multiplication it lets them be. Powers of two round nothing.
    """
    graph = network.graph
    kernels = {tensor.name: tensor for tensor in graph.initializer}
    shields = []
    for index, node in enumerate(list(graph.node)):
        if node.name not in keep:
            continue
        kernel = kernels[node.input[1]]
        doubled = 2 * onnx.numpy_helper.to_array(kernel)
        kernel.CopyFrom(onnx.numpy_helper.from_array(doubled, kernel.name))
        name = f"{node.name}_halved"
        half = onnx.numpy_helper.from_array(np.float32(0.5), f"{name}_factor")
        graph.initializer.append(half)
        halving = onnx.helper.make_node("Mul", [node.input[0], half.name], [name], name=name)
        graph.node.insert(index + len(shields), halving)
        node.input[0] = name
        shields.append(name)
    return shields


class _Reader:
    """Calibration pictures one batch after the other, as ONNX Runtime asks for them."""

    def __init__(self, name: str, inputs: np.ndarray, batch_size: int = 16):
        starts = range(0, len(inputs), batch_size)
        self._batches = iter([{name: inputs[start : start + batch_size]} for start in starts])

    def get_next(self):
        """The next batch, or None after the last."""
        return next(self._batches, None)


def _verify(model, written: Path) -> None:
    run = runner(written)
    tolerance = tolerance_for(model, 1e-4, 5e-2)
    for inputs, expected in trials(model):
        check_answers(expected, run(*inputs), tolerance)
