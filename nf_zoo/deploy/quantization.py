"""Quantization to eight bits: the error of each layer, and the layers to keep in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from nf_zoo import functional
from nf_zoo.deploy.exporting import flat_outputs, relative_change
from nf_zoo.deploy.fold import fold
from nf_zoo.deploy.formats import EightBitOptions

REPORT_PICTURES = 64
"""Number of pictures that is enough to rank layers."""
CHECKED = 8
"""Number of pictures that a file in eight bits is checked on."""


@dataclasses.dataclass(frozen=True)
class LayerError:
    """The change of the outputs when only one layer is quantized.

    Attributes:
        name: name of the layer in the folded network.
        output_error: root mean square of the change of the model's outputs, over that of the
            outputs.
        weight_error: the same measure for its kernel.
        channel_spread: largest over median of the channels' largest absolute weights.
    """

    name: str
    output_error: float
    weight_error: float
    channel_spread: float


def quantization_report(model, pictures: Any) -> list[LayerError]:
    """Return the error that eight bits cause in each layer, the worst first.

    Every convolution and matrix product of the folded network is quantized alone: its kernel to
    8 bits with a scale per output channel, its input to 8 bits with one scale and zero point for
    its range on the pictures. Everything else stays float32.

    Args:
        model: an ImageClassifier, or any model that :func:`nf_zoo.fold` takes.
        pictures: anything :func:`nf_zoo.preprocess` takes; the first 64 are used.

    Returns:
        A :class:`LayerError` for each layer.

    Raises:
        ValueError: if the model cannot be folded, or the pictures cannot be read.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.WideResNet16_2(pretrained="cifar10")
        >>> rows = nf_zoo.quantization_report(model, "cat.jpg")
        >>> isinstance(rows[0].name, str)  # the layer that loses most
        True
    """
    return _report(fold(model), calibration_inputs(model, pictures))


def calibration_inputs(model, pictures: Any) -> np.ndarray:
    """Return the pictures as inputs of the model; without preprocessing, arrays stay unchanged."""
    from nf_zoo.pictures.images import preprocess

    if getattr(model, "preprocessing", None) is not None:
        return preprocess(pictures, model)
    if (count := len(functional.as_functional(model).inputs)) > 1:
        raise ValueError(
            "A model in eight bits must have one input: leave the precision at float32. "
            f"Received: {model.name!r}, which has {count}"
        )
    try:
        inputs = np.asarray(pictures, "float32")
        received = f"shape {inputs.shape}"
    except (TypeError, ValueError):
        inputs, received = np.zeros(0), type(pictures).__name__
    if inputs.ndim != 4 or not len(inputs):
        raise ValueError(
            "A model without preprocessing needs pictures as an array (N, H, W, C), already "
            f"prepared as its input. Received: {received}"
        )
    return inputs


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Pictures, layers and trials that a file in eight bits is made with."""

    inputs: np.ndarray  # the pictures as inputs of the model
    keep: list[str]  # names of the layers to leave in float32
    # (inputs, expected outputs) to run the file on
    trials: list[tuple[list[np.ndarray], list[np.ndarray]]]


def calibration(model, folded, settings: EightBitOptions) -> Calibration | None:
    """Return what the options of an export ask for; None unless it is in eight bits."""
    if settings.precision != "int8":
        return None
    inputs = calibration_inputs(model, settings.pictures)
    some = inputs[:CHECKED]
    keep = _layers_to_keep(folded, inputs, settings.keep_float)
    return Calibration(inputs, keep, [([some], flat_outputs(folded, some))])


def _layers_to_keep(folded, inputs: np.ndarray, keep_float: int | Sequence[str]) -> list[str]:
    if isinstance(keep_float, int):
        worst = _report(folded, inputs)[:keep_float] if keep_float else []
        return [error.name for error in worst]
    names = list(keep_float)
    known = [layer.name for layer in folded.layers if hasattr(layer, "kernel")]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(
            f"keep_float must name layers with a kernel: {', '.join(known)}. "
            f"Received: {', '.join(unknown)}"
        )
    return names


def _report(folded, inputs: np.ndarray) -> list[LayerError]:
    x = ops.convert_to_tensor(inputs[:REPORT_PICTURES])
    expected, errors = _outputs(folded, x, None), []
    for layer in dict.fromkeys(node.operation for node in functional.nodes_of(folded)):
        if hasattr(layer, "kernel"):
            kernel, axes = ops.convert_to_numpy(layer.kernel), _output_axes(layer)
            output_error = relative_change(_outputs(folded, x, layer), expected)
            weight_error = relative_change(quantized_kernel(kernel, axes), kernel)
            largest = _largest(kernel, axes)
            spread = float(largest.max() / max(np.median(largest), 1e-30))
            errors.append(LayerError(layer.name, output_error, weight_error, spread))
    return sorted(errors, key=lambda error: -error.output_error)


def _outputs(folded, x, quantized) -> np.ndarray:
    """Return all outputs of the network, with one layer in eight bits."""

    def call(operation, args, kwargs):
        if operation is not quantized:
            return functional.at_inference(operation, args, kwargs)
        weights = operation.get_weights()
        rounded = quantized_kernel(weights[0], _output_axes(operation))
        operation.set_weights([rounded, *weights[1:]])
        try:
            rows = (quantized_activations(args[0]), *args[1:])
            return functional.at_inference(operation, rows, kwargs)
        finally:
            operation.set_weights(weights)

    wanted = [id(tensor) for tensor in folded.outputs]
    values = {key: y for key, y in functional.run(folded, x, call) if key in wanted}
    flat = [ops.convert_to_numpy(values[key]).astype("float64").ravel() for key in wanted]
    return np.concatenate(flat)


def quantized_kernel(kernel: np.ndarray, output_axes: tuple[int, ...] = (-1,)) -> np.ndarray:
    """Round a kernel to -127..127 steps of the largest absolute value of each output channel."""
    step = np.maximum(_largest(kernel, output_axes) / 127, 1e-30)
    return (np.round(kernel / step) * step).astype("float32")


def _largest(kernel: np.ndarray, output_axes: tuple[int, ...]) -> np.ndarray:
    outputs = {axis % kernel.ndim for axis in output_axes}
    axes = tuple(axis for axis in range(kernel.ndim) if axis not in outputs)
    return np.abs(kernel).max(axes, keepdims=True)


def _output_axes(layer) -> tuple[int, ...]:
    """Return the axes of the layer's kernel that hold its output channels."""
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return (-2, -1)
    return (-2,) if isinstance(layer, keras.layers.Conv2DTranspose) else (-1,)


def quantized_activations(x):
    """Round to 256 levels from the smallest value (at most 0) to the largest (at least 0)."""
    low, high = ops.minimum(ops.min(x), 0.0), ops.maximum(ops.max(x), 0.0)
    step = ops.maximum((high - low) / 255, 1e-30)
    return ops.round(x / step) * step
