"""Pictures to try an exported file on, and what the model says of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from nf_zoo import functional
from nf_zoo.deploy.lowering import input_shapes

Trial = tuple[list[np.ndarray], list[np.ndarray]]


def trials(model) -> list[Trial]:
    """Inputs for a file, and the model's answers to them.

    Args:
        model: any functional or Sequential model.

    Returns:
        One or two of (an array for each input, an array for each output), float32. The inputs
        are noise in the range of the model's pictures: one of its size, and two, of another size
        where it takes that.
    """
    preprocessing = getattr(model, "preprocessing", None)
    size = preprocessing.input_size if preprocessing else (64, 64)
    # Where maps of several strides are joined, only sides that all of them divide will do.
    plans = [[(1, *size), (1, 256, 256)], [(2, 37, 48), (2, 128, 64)]]
    found = []
    for plan in plans:
        error = None
        for count, *sides in plan:
            inputs = _noise(model, count, sides)
            try:
                found.append((inputs, flat_outputs(model, inputs)))
                break
            except Exception as caught:
                error = caught
        else:
            if not found:
                raise error
    return found


def _noise(model, count: int, sides: list[int]) -> list[np.ndarray]:
    rng, raw = np.random.default_rng(0), getattr(model, "include_preprocessing", False)
    arrays = []
    kinds = [str(tensor.dtype) for tensor in functional.as_functional(model).inputs]
    for wanted, kind in zip(input_shapes(model), kinds, strict=True):
        free = [count, *sides] if len(wanted) == 4 else [count]
        free += [8] * (len(wanted) - len(free))
        shape = [side or other for side, other in zip(wanted, free, strict=True)]
        if "int" in kind:
            arrays.append(rng.integers(0, 100, shape).astype("float32"))
        elif raw:
            arrays.append(255 * rng.random(shape, "float32"))
        else:
            arrays.append(rng.standard_normal(shape, "float32"))
    return arrays


def flat_outputs(model, inputs: Any) -> list[np.ndarray]:
    """The answers of a Keras model, as a flat list of float32 arrays.

    Args:
        model: any functional or Sequential model.
        inputs: an array, or a list with one for each input.
    """
    structure, _ = functional.structures_of(functional.as_functional(model))
    packed = keras.tree.pack_sequence_as(structure, keras.tree.flatten(inputs))
    answers = keras.tree.flatten(model(packed, training=False))
    return [np.asarray(keras.ops.convert_to_numpy(x), "float32") for x in answers]


def tolerance_for(model, exact: float, half: float) -> float:
    """``half`` of a model that computes in half precision anywhere, else ``exact``."""
    kinds = {getattr(layer, "compute_dtype", "float32") for layer in _all_layers(model)}
    return half if kinds & {"float16", "bfloat16"} else exact


def _all_layers(model) -> Iterator:
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _all_layers(layer)
