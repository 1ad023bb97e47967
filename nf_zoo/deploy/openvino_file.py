"""Export to OpenVINO's format: an .xml file of the graph and a .bin file of the weights."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nf_zoo.deploy.exporting import Export, exporter, metadata_of, output_names
from nf_zoo.deploy.fold import fold
from nf_zoo.deploy.onnx_file import to_onnx
from nf_zoo.deploy.quantization import calibration
from nf_zoo.functional import operation_of

_KERNEL_FIRST = "/WithoutBiases"
"""Suffix that OpenVINO's reader of ONNX gives an operation to which it adds a bias."""


@exporter
def export_openvino(
    model,
    path: str | os.PathLike,
    overwrite: bool = False,
    *,
    settings,
) -> Path:
    """Write the folded network for OpenVINO, as ``m.xml`` and, beside it, ``m.bin``.

    OpenVINO reads the graph of :func:`nf_zoo.export_onnx`, so inputs, outputs and their names are
    the same, and so are the layers that can be written. The section ``framework`` of the file's
    ``rt_info`` holds ``labels`` and ``preprocessing`` as JSON.

    Before the files appear under ``path``, OpenVINO runs them in float32, and its answers are
    compared with the model's. On processors with bfloat16 instructions OpenVINO computes in
    bfloat16 unless it is told ``INFERENCE_PRECISION_HINT: "f32"``.

    Args:
        model: an ImageClassifier, or any functional Keras model that :func:`nf_zoo.fold` takes.
        path: file to write, ``.xml``.
        overwrite: replace existing files.
        {settings}

    Returns:
        ``path``.

    Raises:
        FileExistsError: if a file exists and ``overwrite`` is false.
        ImportError: without onnx, openvino and nncf.
        RuntimeError: if the written file answers differently.
        ValueError: if ``path`` does not end in ``.xml``, a layer cannot be folded or written, or
            the options do not go together.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.NFResNet26(num_classes=2, labels=("cat", "dog"))
        >>> path = nf_zoo.export_openvino(model, "pets.xml")
    """
    import openvino

    folded = fold(model)
    graph = to_onnx(folded, metadata_of(model)).SerializeToString()
    # Unlike Core.read_model, this simplifies the graph, so that NNCF finds what it knows.
    network = openvino.convert_model(io.BytesIO(graph))
    if calibrated := calibration(model, folded, settings):
        nodes = _nodes_of(network, folded, calibrated.keep)
        network = _quantized(network, calibrated.inputs, nodes)

    def write(written: Path):
        try:
            half = settings.precision == "float16"
            openvino.save_model(network, written, compress_to_fp16=half)
        except RuntimeError as error:
            raise OSError(
                "OpenVINO must be able to write the files: check the space on the disk. "
                f"Received: {error}"
            ) from error
        return runner(written)

    return Export(write, calibrated and calibrated.trials)


def _nodes_of(network, folded, layers: list[str]) -> list[str]:
    """Return OpenVINO's names of the operations with these layers' kernels."""
    # The last operation is named after the output.
    last = zip(folded.outputs, output_names(folded), strict=True)
    outputs = {operation_of(tensor).name: name for tensor, name in last}
    names = {operation.get_friendly_name() for operation in network.get_ops()}
    found = []
    for layer in layers:
        known = [f"{layer}{_KERNEL_FIRST}", layer, outputs.get(layer)]
        found += [name for name in known if name in names][:1]
    if len(found) < len(layers):
        raise ValueError(
            "OpenVINO merges some of these layers with others, so they cannot stay in float32: "
            f"leave them out of keep_float. Received: keep_float with {', '.join(layers)}"
        )
    return found


def _quantized(network, inputs: np.ndarray, keep: list[str]):
    """Return the network in eight bits, quantized by NNCF without its notices."""
    import nncf

    logger = logging.getLogger("nncf")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return nncf.quantize(
                network,
                nncf.Dataset(list(inputs[:, None])),
                # Zero points for activations such as SiLU, which have few negative values.
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(inputs),
                ignored_scope=nncf.IgnoredScope(names=keep),
            )
    finally:
        logger.setLevel(before)


def runner(path: Path) -> Callable[..., list[np.ndarray]]:
    """Return a function that runs the file on one array per input and returns the outputs."""
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.Core().compile_model(str(path), "CPU", options)
    return lambda *inputs: [np.array(x) for x in network(list(inputs)).values()]


def read_openvino(path: Path) -> tuple[Callable, dict[str, Any], list]:
    """Open a file of :func:`export_openvino`; see :meth:`nf_zoo.deploy.formats.Format.read`."""
    import openvino

    network = openvino.Core().read_model(str(path))
    keys = ("labels", "preprocessing", "input", "output")
    record = {key: network.get_rt_info(["framework", key]).astype(str) for key in keys}
    record |= {key: json.loads(record[key]) for key in ("labels", "preprocessing")}
    shape = [side.get_length() if side.is_static else -1 for side in network.input().partial_shape]
    return runner(path), record, shape
