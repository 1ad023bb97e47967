"""The signal in a network that is converted: what it is for some pictures, and what is expected."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from nf_zoo.functional import nodes_of, structures_of
from nf_zoo.signal_propagation.inputs import batches_of
from nf_zoo.signal_propagation.measure import PREPARATION, ChannelMoments

PICTURES = 16
"""Pictures that layers of unknown effect are measured on."""


def pictures_for(network, images, preprocess=None) -> tuple[list, str]:
    """Return a batch for each input, and ``"noise"`` or ``"images"``, after a check."""
    shapes = [x.shape for x in network.inputs]
    # A layer that keeps a state from batch to batch keeps it for a batch of that size.
    keeps_states = any(getattr(layer, "stateful", False) for layer in network._flatten_layers())
    count = shapes[0][0] if keeps_states else PICTURES
    if isinstance(images, dict) and not isinstance(structures_of(network)[0], dict):
        images = [images[x.name] for x in network.inputs if x.name in images]  # as Keras does
    sources = [images] if len(shapes) == 1 else keras.tree.flatten(images)
    if images is None:
        sources = [None] * len(shapes)
    if len(sources) != len(shapes):
        raise ValueError(
            f"images must have an array for each of the {len(shapes)} inputs. "
            f"Received: {len(sources)}"
        )
    values = []
    for index, (tensor, source) in enumerate(zip(network.inputs, sources, strict=True)):
        batches, kind = batches_of(source, tensor.shape, count, index, preprocess)
        value, name = ops.convert_to_tensor(next(batches)), tensor._keras_history.operation.name
        if kind == "images":
            value = ops.cast(value, tensor.dtype)
            _check(ops.convert_to_numpy(value), name)
        elif "float" not in tensor.dtype and not _is_prepared(network, tensor):
            raise ValueError(
                "Noise cannot stand for whole numbers: give images= for the input "
                f"{name!r}. Received: {tensor.dtype} without Rescaling or Normalization after it"
            )
        values.append(value)
    return values, kind


def _check(values: np.ndarray, name: str) -> None:
    finite = np.all(np.isfinite(values))
    if not finite or values.min() == values.max():
        received = f"only {values.flat[0]}" if finite else "values that are not finite"
        raise ValueError(
            "images must be finite and differ, for the variance of a signal to be measured. "
            f"Received: {received} for the input {name!r}"
        )


def _is_prepared(network, tensor) -> bool:
    """Return True if every layer that takes an input prepares it, and passes noise on."""
    takers = [x.operation for x in nodes_of(network) if any(y is tensor for y in x.input_tensors)]
    return bool(takers) and all(type(taker) in PREPARATION for taker in takers)


@dataclasses.dataclass(eq=False)
class Signal:
    """The result of a call in the new network."""

    value: Any  # for the pictures that are measured; None once nobody needs it
    variance: float  # expected variance per channel
    # whether it comes from a place that BatchNormalization normalizes, by known layers alone
    is_normalized: bool = False
    is_noise: bool = False  # whether it is the noise at the model's input, not prepared


def moments_of(value) -> ChannelMoments:
    moments = ChannelMoments()
    moments.add(value)
    return moments


def entering(signal: Signal, dtype: str) -> Signal:
    """Return the signal as a nested model of that input dtype takes it: Keras casts it there."""
    if "float" not in dtype or "float" in keras.backend.standardize_dtype(signal.value.dtype):
        return signal
    return measured(ops.cast(signal.value, dtype), signal.is_normalized)


def measured(value, is_normalized: bool = False) -> Signal:
    is_float = "float" in keras.backend.standardize_dtype(value.dtype)
    variance = moments_of(value).variance if is_float and len(value.shape) > 1 else 1.0
    return Signal(value, variance, is_normalized)


def followed(signal: Signal, value) -> Signal:
    """Return the signal after a call that changes the expected variance as it does the measured."""
    effect = moments_of(value).variance / max(moments_of(signal.value).variance, 1e-30)
    return dataclasses.replace(signal, value=value, variance=signal.variance * effect)


def inverse_root(variance: float) -> float:
    """Return 1 / sqrt(variance), or 1 of a signal that does not vary."""
    return 1.0 / math.sqrt(variance) if variance > 1e-12 and math.isfinite(variance) else 1.0
