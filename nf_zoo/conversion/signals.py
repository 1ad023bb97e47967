"""The signal in a network that is converted: what it is for some pictures, and what is expected."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from nf_zoo.signal_propagation.inputs import batches_of, own_shape
from nf_zoo.signal_propagation.measure import ChannelMoments

PICTURES = 16
"""Pictures that layers of unknown effect are measured on."""


def pictures_for(network, images) -> tuple[list, str]:
    """Return a batch for each input, and ``"noise"`` or ``"images"``."""
    shapes = [x.shape for x in network.inputs]
    # A layer that keeps a state from batch to batch keeps it for a batch of that size.
    keeps_states = any(getattr(layer, "stateful", False) for layer in network._flatten_layers())
    count = shapes[0][0] if keeps_states else PICTURES
    if len(shapes) == 1 and "float" in str(network.inputs[0].dtype):
        batches, kind = batches_of(images, shapes[0], count, seed=0)
        return [ops.convert_to_tensor(next(batches))], kind
    if images is not None:
        arrays = keras.tree.flatten(images)
        if len(arrays) != len(shapes):
            raise ValueError(
                f"images must have an array for each of the {len(shapes)} inputs. "
                f"Received: {len(arrays)}"
            )
        return [ops.convert_to_tensor(x[:count]) for x in arrays], "images"
    generator = np.random.default_rng(0)
    noise = [generator.standard_normal((count, *own_shape(shape))) for shape in shapes]
    pairs = zip(noise, network.inputs, strict=True)
    return [ops.cast(ops.convert_to_tensor(x), tensor.dtype) for x, tensor in pairs], "noise"


@dataclasses.dataclass(eq=False)
class Signal:
    """The result of a call in the new network.

    Attributes:
        value: result for the pictures that are measured; None once nobody needs it.
        variance: expected variance per channel.
        is_normalized: whether it comes from a place that BatchNormalization normalizes, with
            nothing but known layers in between.
        is_noise: whether it is the noise at the model's input, which is not prepared.
    """

    value: Any
    variance: float
    is_normalized: bool = False
    is_noise: bool = False


def moments_of(value) -> ChannelMoments:
    moments = ChannelMoments()
    moments.add(value)
    return moments


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


def positions(value) -> int:
    """Return the number of places of a result, over which its variance is taken per picture."""
    return math.prod(value.shape[1:-1])
