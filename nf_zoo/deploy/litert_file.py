"""Export to a LiteRT (TensorFlow Lite) file."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from nf_zoo.deploy.exporting import (
    LABELS_FILE,
    Export,
    exporter,
    input_names,
    labels_text,
    metadata_of,
    output_names,
    trials,
)
from nf_zoo.deploy.fold import fold, in_float32
from nf_zoo.deploy.quantization import Calibration, calibration
from nf_zoo.functional import operation_of, structures_of

_METADATA = "metadata.json"
MOST_METADATA = 2**24
"""Most bytes of metadata that are read from a file, unpacked."""


@exporter
def export_litert(
    model,
    path: str | os.PathLike,
    overwrite: bool = False,
    *,
    settings,
) -> Path:
    """Write a LiteRT file of the folded network.

    The input is the model's own, float32 (1, H, W, C) of the model's input size. It can be resized
    to another batch and, if the model leaves them free, to other sides. The input of the signature
    is called ``images`` (several inputs keep their names); the outputs are called as in
    :func:`nf_zoo.export_onnx`. Only built-in operations are used, also for grouped convolutions.
    The file is also a zip archive, as LiteRT's metadata tools make it, with ``labels.txt`` and
    ``metadata.json``, which holds the preprocessing.

    LiteRT runs the file, and its answers are compared with the model's, before the file appears
    under ``path``.

    Args:
        model: an ImageClassifier, or any functional Keras model that :func:`nf_zoo.fold` takes.
        path: file to write, ``.tflite``.
        overwrite: replace an existing file.
        {settings}

    Returns:
        ``path``.

    Raises:
        FileExistsError: if ``path`` exists and ``overwrite`` is false.
        ImportError: without TensorFlow or ai-edge-litert.
        RuntimeError: if Keras runs on another backend, or the written file answers differently.
        ValueError: if a layer cannot be folded or needs fixed sides, or the options do not go
            together.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.NFResNet26(num_classes=2, labels=("cat", "dog"))
        >>> path = nf_zoo.export_litert(model, "pets.tflite")
    """
    import tensorflow as tf

    folded = in_float32(fold(model))
    calibrated = calibration(model, folded, settings)
    tried = calibrated.trials if calibrated else trials(model)
    shapes = [array.shape for array in tried[0][0]]

    def write(written: Path):
        saved = _saved(tf, folded, shapes, written.parent / ".network")
        converter = _converter(tf, saved, settings, calibrated)
        written.write_bytes(_convert(tf, converter, folded, calibrated))
        _add_metadata(model, written)
        run = runner(written, output_names(folded), inputs_of(folded))
        return lambda *arrays: _answers(run, arrays)

    return Export(write, tried)


def _answers(run, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    try:
        return run(*arrays)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            "LiteRT cannot run the file on inputs of these shapes; if a layer computes the "
            "sides of its maps, as UpSampling2D does, build the model on keras.Input((height, "
            f"width, channels)). Received: {', '.join(str(array.shape) for array in arrays)}"
        ) from error


def _converter(tf, saved: Path, settings, calibrated: Calibration | None):
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    if settings.precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if settings.precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if calibrated:
        converter.representative_dataset = _one_by_one(calibrated.inputs)
        own = tf.lite.OpsSet
        converter.target_spec.supported_ops = [own.TFLITE_BUILTINS_INT8]
        if settings.full_integer:
            converter.inference_input_type = converter.inference_output_type = tf.int8
        else:
            converter.target_spec.supported_ops.append(own.TFLITE_BUILTINS)
    return converter


def _saved(tf, folded, shapes, path: Path) -> Path:
    """Save the network as a SavedModel, from which the converter takes the names of the outputs.

    From a concrete function the converter would write the variables as variables, which would be
    empty when the file is read.
    """
    names = output_names(folded)
    # For a fixed batch the converter would write reshapes that fit no other batch.
    signature = [
        tf.TensorSpec((None, *shape[1:]), tf.float32, name=name)
        for name, shape in zip(inputs_of(folded), shapes, strict=True)
    ]
    structure, _ = structures_of(folded)

    def network(*arrays):
        answers = folded(keras.tree.pack_sequence_as(structure, list(arrays)), training=False)
        return dict(zip(names, tf.nest.flatten(answers), strict=True))

    module = tf.Module()
    module.model_variables = [variable.value for variable in folded.variables]
    module.network = tf.function(network, input_signature=signature, autograph=False)
    tf.saved_model.save(module, str(path), module.network.get_concrete_function())
    return path


def _one_by_one(inputs: np.ndarray) -> Callable[[], Iterator[list[np.ndarray]]]:
    return lambda: ([image[None]] for image in inputs)


def _convert(tf, converter, folded, calibrated: Calibration | None) -> bytes:
    try:
        return _converted(tf, converter, folded, calibrated)
    except (MemoryError, ValueError):
        raise
    except Exception as error:  # the converter has an error of its own, of many lines
        raise ValueError(
            "The LiteRT converter cannot translate this network: export it to another format. "
            f"Received: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error


def _converted(tf, converter, folded, calibrated: Calibration | None) -> bytes:
    with warnings.catch_warnings():
        # The converter warns of statistics that it collects anyway, and of TensorFlow's
        # interpreter, with which the debugger runs the file.
        warnings.simplefilter("ignore")
        if not calibrated or not calibrated.keep:
            return converter.convert()
        debugger, options = tf.lite.experimental.QuantizationDebugger, {"converter": converter}
        options["debug_dataset"] = _one_by_one(calibrated.inputs[:1])
        measuring = debugger(**options)
        measuring.run()
        nodes = _nodes_of(measuring, folded, calibrated.keep)
        spared = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=nodes)
        return debugger(**options, debug_options=spared).get_nondebug_quantized_model()


def _nodes_of(measuring, folded, layers: list[str]) -> list[str]:
    """Return the converter's names of the operations that come from these layers."""
    table = io.StringIO()
    measuring.layer_statistics_dump(table)
    table.seek(0)
    names = [row["tensor_name"] for row in csv.DictReader(table)]
    last = {operation_of(output).name for output in folded.outputs}
    found = []
    for layer in layers:
        # An operation that makes an output is named after the output.
        own = r"StatefulPartitionedCall:\d+" if layer in last else rf"{re.escape(layer)}(_1)?"
        nodes = [
            name for name in names if any(re.fullmatch(own, x) for x in re.split("[;/]", name))
        ]
        if not nodes:
            raise ValueError(
                "The LiteRT converter merges this layer with others, so it cannot stay in float32: "
                f"leave it out of keep_float. Received: keep_float with {layer!r}"
            )
        found += nodes
    return found


def inputs_of(model) -> list[str]:
    """Return the names of the inputs; ``["images"]`` if there is one."""
    return input_names(model) if len(model.inputs) > 1 else ["images"]


def runner(
    path: Path, outputs: Sequence[str], inputs: Sequence[str] = ("images",)
) -> Callable[..., list[np.ndarray]]:
    """Return a function that runs the file on one array per input and returns ``outputs``.

    Arrays are float32, also for a file whose inputs and outputs are int8.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    network = interpreter.get_signature_runner()
    given, made = network.get_input_details(), network.get_output_details()

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        pairs = zip(inputs, arrays, strict=True)
        answers = network(**{name: _to_steps(array, given[name]) for name, array in pairs})
        return [_from_steps(answers[name], made[name]) for name in outputs]

    return run


def read_litert(path: Path) -> tuple[Callable, dict[str, Any], list]:
    """Open a file of :func:`export_litert`; see :meth:`nf_zoo.deploy.formats.Format.read`."""
    from ai_edge_litert.interpreter import Interpreter

    with zipfile.ZipFile(path) as archive:
        if archive.getinfo(_METADATA).file_size > MOST_METADATA:
            raise ValueError(f"{_METADATA} is larger than {MOST_METADATA} bytes")
        record = json.loads(archive.read(_METADATA))
    (images,) = Interpreter(model_path=str(path)).get_input_details()
    return runner(path, [record["output"]]), record, images["shape_signature"].tolist()


def _to_steps(array: np.ndarray, details: dict) -> np.ndarray:
    """Return the array as the tensor with these details holds it."""
    scale, zero = details["quantization"]
    if details["dtype"] != np.int8:
        return array
    return np.clip(np.round(array / scale) + zero, -128, 127).astype("int8")


def _from_steps(array: np.ndarray, details: dict) -> np.ndarray:
    scale, zero = details["quantization"]
    return np.float32(scale) * (array - np.float32(zero)) if array.dtype == np.int8 else array


def _add_metadata(model, path: Path) -> None:
    """Append a zip archive to the file: the format allows both in one."""
    record = metadata_of(model)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        if record.get("labels"):
            archive.writestr(LABELS_FILE, labels_text(record["labels"]))
        archive.writestr(_METADATA, json.dumps(record, ensure_ascii=False, indent=2))
