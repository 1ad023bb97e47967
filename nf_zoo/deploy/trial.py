"""Pictures to try an exported file on, and what the model says of them."""

from __future__ import annotations

import keras
import numpy as np


def trial_inputs(model) -> list[np.ndarray]:
    """Pictures of the model's size, and a batch of another size where it takes that.

    Args:
        model: takes one input (N, H, W, C).

    Returns:
        One or two float32 arrays of noise in the range of the model's input.
    """
    preprocessing = getattr(model, "preprocessing", None)
    height, width = preprocessing.input_size if preprocessing else (64, 64)
    _, fixed_height, fixed_width, channels = model.input_shape
    sizes = [(1, fixed_height or height, fixed_width or width)]
    if (fixed_height, fixed_width) == (None, None):
        sizes.append((2, 37, 48))
    rng = np.random.default_rng(0)
    if getattr(model, "include_preprocessing", False):
        return [255 * rng.random((*size, channels), "float32") for size in sizes]
    return [rng.standard_normal((*size, channels), "float32") for size in sizes]


def flat_outputs(model, inputs) -> list[np.ndarray]:
    """What the Keras model says, as a flat list of float32 arrays."""
    answers = keras.tree.flatten(model(inputs, training=False))
    return [np.asarray(keras.ops.convert_to_numpy(x), "float32") for x in answers]


def tolerance_for(model, exact: float, half: float) -> float:
    """``half`` of a model that computes in half precision anywhere, else ``exact``."""
    kinds = {getattr(layer, "compute_dtype", "float32") for layer in model.layers}
    return half if kinds & {"float16", "bfloat16"} else exact
