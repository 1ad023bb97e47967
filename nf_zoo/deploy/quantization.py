"""Eight bits: what they cost each layer, and which layers to spare."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from nf_zoo import functional
from nf_zoo.deploy.trial import flat_outputs

REPORT_PICTURES = 64
"""So many of the pictures are enough to rank layers."""
LARGEST_CHANGE = 0.3
"""Root mean square of what eight bits may change of the outputs, over that of the outputs."""


@dataclasses.dataclass(frozen=True)
class LayerError:
    """What becomes of the outputs when one layer alone is quantized.

    Attributes:
        name: of the layer in the folded network.
        output_error: root mean square of the change of the model's outputs, over that of the
            outputs.
        weight_error: the same of its kernel.
        channel_spread: largest over median of the channels' largest absolute weights.
    """

    name: str
    output_error: float
    weight_error: float
    channel_spread: float


def quantization_report(model, pictures: Any) -> list[LayerError]:
    """What eight bits cost, layer by layer, the worst first.

    Every convolution and matrix product of the folded network is quantized alone, its kernel to
    8 bits with a scale per output channel, its input to 8 bits with one scale and zero point for
    the range that it has on the pictures; everything else stays float32.

    Args:
        model: an ImageClassifier, or any model that :func:`nf_zoo.fold` takes.
        pictures: anything :func:`nf_zoo.preprocess` takes; the first 64 are used.

    Returns:
        A :class:`LayerError` for each layer.

    Raises:
        ValueError: if the model cannot be folded, or the pictures cannot be read.

    Example:
        >>> model = nf_zoo.WideResNet16_2(pretrained="cifar10")
        >>> nf_zoo.quantization_report(model, "pictures/0.png")[0].name  # doctest: +SKIP
        'head'
    """
    from nf_zoo.deploy.fold import fold

    return _report(fold(model), calibration_inputs(model, pictures))


def check_options(file: str, precisions, precision: str, pictures, keep_float) -> None:
    """Refuse options that do not go together.

    Raises:
        ValueError: saying which do.
    """
    if precision not in precisions:
        raise ValueError(
            f"{file} files are written in {', '.join(precisions)}. Received: {precision!r}"
        )
    if precision == "int8" and pictures is None:
        raise ValueError(
            "int8 needs pictures of the kind that the model will see, to measure the ranges of "
            "its activations: pictures=[...], some hundreds. Received: none"
        )
    if precision != "int8" and (pictures is not None or keep_float):
        raise ValueError(
            "pictures and keep_float go with precision='int8'. "
            f"Received: precision={precision!r} with {'pictures' if not keep_float else 'both'}"
        )


def calibration_inputs(model, pictures: Any) -> np.ndarray:
    """The pictures as the model takes them; arrays of a model without preprocessing as they are."""
    from nf_zoo.pictures.images import preprocess

    if getattr(model, "preprocessing", None) is not None:
        return preprocess(pictures, model)
    if len(functional.as_functional(model).inputs) > 1:
        raise ValueError(
            "Eight bits are for models of one input: leave the precision float32. "
            f"Received: {model.name!r}, which has {len(functional.as_functional(model).inputs)}"
        )
    try:
        inputs = np.asarray(pictures, "float32")
        received = f"shape {inputs.shape}"
    except (TypeError, ValueError):
        inputs, received = np.zeros(0), type(pictures).__name__
    if inputs.ndim != 4 or not len(inputs):
        raise ValueError(
            "A model without preprocessing needs pictures as an array (N, H, W, C), prepared as "
            f"it takes them. Received: {received}"
        )
    return inputs


def check_quantized(folded, inputs: np.ndarray, run) -> None:
    """Compare a quantized file with the folded network on some of the calibration pictures.

    Args:
        folded: the FoldedModel.
        inputs: calibration pictures, as it takes them.
        run: inputs -> outputs of the file.

    Raises:
        RuntimeError: if the outputs change by more than :data:`LARGEST_CHANGE`.
    """
    some = inputs[:8]
    for wanted, found in zip(flat_outputs(folded, some), run(some), strict=True):
        change = np.sqrt(np.mean((found - wanted) ** 2) / max(np.mean(wanted**2), 1e-30))
        if not change <= LARGEST_CHANGE:
            raise RuntimeError(
                "In eight bits the model does not answer as it does in float32, so nothing was "
                "written: pass more pictures of the kind it will see, or keep_float=, the number "
                f"of layers to leave in float32. Received: a change of {change:.0%} (rms)"
            )


def layers_to_keep(folded, inputs: np.ndarray, keep_float: int | Sequence[str]) -> list[str]:
    """Names of the layers that stay float32.

    Args:
        folded: the FoldedModel.
        inputs: calibration pictures, as it takes them.
        keep_float: names, or how many of the worst.

    Raises:
        ValueError: for a name that is no layer with weights.
    """
    if isinstance(keep_float, int):
        worst = _report(folded, inputs)[:keep_float] if keep_float else []
        return [error.name for error in worst]
    names = [keep_float] if isinstance(keep_float, str) else list(keep_float)
    known = [layer.name for layer in folded.layers if hasattr(layer, "kernel")]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(
            f"keep_float takes names of layers with a kernel: {', '.join(known)}. "
            f"Received: {', '.join(unknown)}"
        )
    return names


def _report(folded, inputs: np.ndarray) -> list[LayerError]:
    x = ops.convert_to_tensor(inputs[:REPORT_PICTURES])
    expected = _outputs(folded, x, None)
    size = np.sqrt(np.mean(expected**2))
    errors = []
    for node in functional.nodes_of(folded):
        layer = node.operation
        if not hasattr(layer, "kernel"):
            continue
        kernel = ops.convert_to_numpy(layer.kernel)
        rounded = quantized_kernel(kernel, _output_axes(layer))
        change = _outputs(folded, x, node) - expected
        largest = _largest(kernel, _output_axes(layer))
        errors.append(
            LayerError(
                layer.name,
                float(np.sqrt(np.mean(change**2)) / max(size, 1e-30)),
                float(np.sqrt(np.mean((rounded - kernel) ** 2) / max(np.mean(kernel**2), 1e-30))),
                float(largest.max() / max(np.median(largest), 1e-30)),
            )
        )
    return sorted(errors, key=lambda error: -error.output_error)


def _outputs(folded, x, quantized) -> np.ndarray:
    """All outputs of the network, with the layer of one node in eight bits."""

    def call(operation, args, kwargs):
        if quantized is None or operation is not quantized.operation:
            return operation(*args, **kwargs)
        weights = operation.get_weights()
        rounded = quantized_kernel(weights[0], _output_axes(operation))
        operation.set_weights([rounded, *weights[1:]])
        try:
            return operation(quantized_activations(args[0]), *args[1:], **kwargs)
        finally:
            operation.set_weights(weights)

    wanted = [id(tensor) for tensor in folded.outputs]
    values = {key: y for key, y in functional.run(folded, x, call) if key in wanted}
    flat = [ops.convert_to_numpy(values[key]).astype("float64").ravel() for key in wanted]
    return np.concatenate(flat)


def quantized_kernel(kernel: np.ndarray, output_axes: tuple[int, ...] = (-1,)) -> np.ndarray:
    """Rounded to -127..127 steps of the largest absolute value of its output channel."""
    step = np.maximum(_largest(kernel, output_axes) / 127, 1e-30)
    return (np.round(kernel / step) * step).astype("float32")


def _largest(kernel: np.ndarray, output_axes: tuple[int, ...]) -> np.ndarray:
    outputs = {axis % kernel.ndim for axis in output_axes}
    axes = tuple(axis for axis in range(kernel.ndim) if axis not in outputs)
    return np.abs(kernel).max(axes, keepdims=True)


def _output_axes(layer) -> tuple[int, ...]:
    """Where the kernel of the layer has its output channels."""
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return (-2, -1)
    return (-2,) if isinstance(layer, keras.layers.Conv2DTranspose) else (-1,)


def quantized_activations(x):
    """Rounded to 256 steps from the smallest value (at most 0) to the largest (at least 0)."""
    low, high = ops.minimum(ops.min(x), 0.0), ops.maximum(ops.max(x), 0.0)
    step = ops.maximum((high - low) / 255, 1e-30)
    return ops.round(x / step) * step
