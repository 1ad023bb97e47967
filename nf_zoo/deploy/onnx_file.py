"""Export to an ONNX file, in float32 or in eight bits."""

from __future__ import annotations

import json
import os
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from nf_zoo import functional
from nf_zoo.deploy.exporting import (
    Export,
    check_answers,
    exporter,
    metadata_of,
    output_names,
    tolerance_for,
    trials,
)
from nf_zoo.deploy.fold import fold
from nf_zoo.deploy.formats import FORMATS, NEWEST_OPSET
from nf_zoo.deploy.lowering import takes_only_tensors
from nf_zoo.deploy.onnx_graph import GraphWriter, Unsupported, Value
from nf_zoo.deploy.onnx_layers import LAYERS, OPERATIONS
from nf_zoo.deploy.onnx_operations import ARITHMETIC
from nf_zoo.deploy.quantization import calibration

LARGEST_FILE = 2**31 - 1
"""Limit of the format in bytes; larger weights would need a second file."""


@exporter
def export_onnx(
    model,
    path: str | os.PathLike,
    overwrite: bool = False,
    *,
    settings,
) -> Path:
    """Write an ONNX file of the folded network.

    The input is the model's own, float32 (N, H, W, C), of any batch and, if the model leaves them
    free, any sides; several inputs keep their names. The outputs are the model's own too:
    ``logits`` (or the name of the classifier's activation) of shape (N, classes), or ``features``,
    or ``features_0``, ``features_1``, ... for a model of feature maps, or the keys of a model that
    returns a dict. ``metadata_props`` holds ``labels`` and ``preprocessing`` as JSON.

    Before the file appears under ``path``, it is checked, run by ONNX Runtime on pictures of two
    sizes and batches, and compared with the model.

    Args:
        model: an ImageClassifier, or any functional Keras model that :func:`nf_zoo.fold` takes.
        path: file to write, ``.onnx``.
        overwrite: replace an existing file.
        {settings}

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
        >>> path = nf_zoo.export_onnx(model, "pets.onnx")
    """
    import onnx

    folded = fold(model)
    made = to_onnx(folded, metadata_of(model), settings.opset)
    calibrated = calibration(model, folded, settings)

    def write(written: Path):
        onnx.checker.check_model(made)
        onnx.save(made, written)
        if calibrated:
            run = runner(written)
            tolerance = tolerance_for(model, FORMATS["onnx"].checks["float32"])
            for inputs, expected in trials(model):
                check_answers(expected, run(*inputs), tolerance)
            _quantize(written, calibrated.inputs, calibrated.keep, settings.symmetric)
        return runner(written)

    return Export(write, calibrated and calibrated.trials)


def to_onnx(model, metadata: dict[str, Any], opset: int = NEWEST_OPSET):
    """Return the ``onnx.ModelProto`` of a folded Keras model, in float32 under any policy.

    Metadata that are not strings are written as JSON. Inputs and outputs keep Keras's layout
    (NHWC) and order; the batch and free sides are dynamic. Inside, pictures are turned to NCHW
    once, paddings go into the convolutions and poolings, and grouped convolutions stay single
    nodes, which general converters do not achieve.
    """
    import onnx

    writer = GraphWriter(onnx, opset)
    values: dict[int, Value] = {}
    inputs, outputs = [], []
    for name, tensor in zip(output_names(model), model.outputs, strict=True):
        outputs.append(_value_info(onnx, writer.tensors.unique(name), tensor.shape))
    for tensor in model.inputs:
        name = writer.tensors.unique(functional.operation_of(tensor).name)
        inputs.append(_value_info(onnx, name, tensor.shape))
        values[id(tensor)] = writer.from_keras(name, len(tensor.shape), name)
    _write(writer, functional.nodes_of(model), values)
    for entry, tensor in zip(outputs, model.outputs, strict=True):
        value, name = values[id(tensor)], f"{entry.name}_output"
        writer.node("Identity", [writer.to_keras(value, entry.name)], name, entry.name)
    graph = onnx.helper.make_graph(writer.nodes, model.name, inputs, outputs, writer.weights)
    version = [onnx.helper.make_opsetid("", opset)]
    ir_version = onnx.helper.find_min_ir_version_for(version)
    made = onnx.helper.make_model(graph, opset_imports=version, ir_version=ir_version)
    made.producer_name = "nf_zoo"
    properties = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in metadata.items()
    }
    onnx.helper.set_model_props(made, properties)
    if made.ByteSize() > LARGEST_FILE:
        raise ValueError(
            "An ONNX graph must not exceed 2 GB: use model.export(folder) to write a SavedModel. "
            f"Received: {made.ByteSize() / 2**30:.2f} GB"
        )
    return made


def _write(writer: GraphWriter, nodes: list, values: dict[int, Value]) -> None:
    """Write the nodes and complete ``values``; one error names all nodes that cannot be written."""
    refused = {}
    for node in nodes:
        operation = node.operation
        try:
            result = _written(writer, node, values)
        except Unsupported as reason:
            kind = " ".join(filter(None, (type(operation).__name__, str(reason))))
            refused[f"{operation.name!r} ({kind})"] = None
            result = Value("", len(node.outputs[0].shape))
        values.update((id(output), result) for output in node.outputs)
    if refused:
        raise ValueError(
            "ONNX export does not know these layers; model.export(folder) writes a SavedModel of "
            f"every layer that TensorFlow runs. Received: {', '.join(refused)}"
        )


def _written(writer: GraphWriter, node, values: dict[int, Value]) -> Value:
    operation, kind = node.operation, type(node.operation)
    if len(node.outputs) != 1:
        raise Unsupported("with several outputs")
    # Keras's layers and operations share names, so each kind has a table of its own.
    module, name = kind.__module__, kind.__name__
    key = f"{module.rpartition('.')[2]}.{name}" if module.startswith("keras.src.ops.") else ""
    if key in ARITHMETIC:
        given = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
        inputs = [values[id(x)] if isinstance(x, keras.KerasTensor) else x for x in given]
        return ARITHMETIC[key](writer, operation, inputs)
    rule = LAYERS.get(kind) or OPERATIONS.get(key)
    if rule is None:
        raise Unsupported
    if not takes_only_tensors(node):
        raise Unsupported("called with more than its inputs")
    if getattr(operation, "data_format", None) == "channels_first":
        raise Unsupported("with data_format='channels_first'")
    return rule(writer, operation, [values[id(x)] for x in node.input_tensors])


def _value_info(onnx, name: str, shape):
    # Free sides of the same name would have to be equal, so each has a name of its own.
    words = ["batch", "height", "width", "channels"] if len(shape) == 4 else ["batch"]
    words += [f"axis{axis}" for axis in range(len(words), len(shape))]
    sides = [
        (f"{name}_{words[axis]}" if axis else "batch") if side is None else side
        for axis, side in enumerate(shape)
    ]
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sides)


def runner(path: Path, **entries: str) -> Callable[..., list[np.ndarray]]:
    """Return a function that runs the file on one array per input and returns the outputs.

    ``entries`` are configuration entries of ONNX Runtime's session options.
    """
    session = _session(path, entries)
    names = [entry.name for entry in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def read_onnx(path: Path) -> tuple[Callable, dict[str, Any], list]:
    """Open a file of :func:`export_onnx`; see :meth:`nf_zoo.deploy.formats.Format.read`."""
    # Sums of eight-bit products may saturate on processors without VNNI, but for this.
    session = _session(path, {"session.x64quantprecision": "1"})
    record = session.get_modelmeta().custom_metadata_map
    record |= {key: json.loads(record[key]) for key in ("labels", "preprocessing")}
    (images,) = session.get_inputs()
    return lambda inputs: session.run(None, {images.name: inputs}), record, images.shape


def _session(path: Path, entries: Mapping[str, str]):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(str(path), options, providers=providers)


def _quantize(written: Path, inputs: np.ndarray, keep: list[str], symmetric: bool) -> None:
    """Replace the float32 file with its quantized form."""
    import onnx
    from onnxruntime import quantization

    simple, quantized = (written.with_name(f"{word}.onnx") for word in ("simple", "int8"))
    quantization.quant_pre_process(str(written), str(simple), skip_symbolic_shape=True)
    network = onnx.load(simple)
    shields = _shield(onnx, network, keep)
    onnx.save(network, simple)
    name = network.graph.input[0].name
    batches = iter([{name: inputs[start : start + 16]} for start in range(0, len(inputs), 16)])
    quantization.quantize_static(
        str(simple),
        str(quantized),
        types.SimpleNamespace(get_next=lambda: next(batches, None)),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        # Signed activations take half as long again on x86.
        activation_type=quantization.QuantType["QInt8" if symmetric else "QUInt8"],
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=[*keep, *shields],
        extra_options={"ActivationSymmetric": symmetric, "QuantizeBias": not symmetric},
    )
    properties = {entry.key: entry.value for entry in onnx.load(written).metadata_props}
    made = onnx.load(quantized)
    onnx.helper.set_model_props(made, properties)
    onnx.save(made, written)


def _shield(onnx, network, keep: list[str]) -> list[str]:
    """Halve the inputs of the nodes and double their kernels; return the names of the halvings.

    ONNX Runtime quantizes the weights of a convolution between a dequantized input and a quantized
    output without being asked, with one scale for all of them. Behind a multiplication it leaves
    them alone. Powers of two cause no rounding.
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
