"""Whether the weights of a model are trained, or as they were initialized."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np

CONSTANTS = (
    keras.initializers.Zeros,
    keras.initializers.Ones,
    keras.initializers.Constant,
)
FEWEST = 100
"""Values that a kernel needs for its deviation to say anything."""
DEVIATION = 0.25
"""How far the standard deviation of a trained kernel is from its initializer's, at least."""


def is_trained(model: keras.Model) -> bool:
    """Whether most of what starts constant has left its start.

    Biases, gains, scales and moving statistics start at a value that their layer's initializer
    tells, and training moves them all. Where a model has none, the tag of pretrained weights
    decides, or else how far the kernels' deviations are from their initializers'. A fresh body
    under a trained classifier counts as fresh; so does a copy of a pretrained model with fresh
    weights, whatever its tag says.

    Args:
        model: any Keras model, built.

    Example:
        >>> import nf_zoo
        >>> is_trained(nf_zoo.WideResNet16_1(num_classes=10))
        False
    """
    moved, kernels = [], []
    for variable, initializer in _variables(model):
        if isinstance(initializer, CONSTANTS):
            start = keras.ops.convert_to_numpy(initializer(variable.shape, dtype="float32"))
            moved.append(bool(np.any(keras.ops.convert_to_numpy(variable) != start)))
        else:
            kernels.append((variable, initializer))
    if moved:
        return sum(moved) > len(moved) / 2
    if getattr(model, "weights_tag", None):
        return True
    judged = [_has_left(*kernel) for kernel in kernels if np.prod(kernel[0].shape) >= FEWEST]
    return sum(judged) > len(judged) / 2


def _variables(model) -> Iterator[tuple]:
    """Every variable whose initializer its layer remembers, and that initializer."""
    for layer in model._flatten_layers():
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
            initializer = getattr(layer, f"{variable.name}_initializer", None)
            if isinstance(initializer, keras.initializers.Initializer):
                yield variable, initializer


def _has_left(variable, initializer) -> bool:
    """Whether the deviation is no longer that of what the initializer draws."""
    config = initializer.get_config()
    if "seed" not in config:
        return False
    # A draw of its own: the model's initializer may hold a generator, which would move on.
    drawn = type(initializer).from_config({**config, "seed": 0})(variable.shape, dtype="float32")
    expected, found = (float(np.std(keras.ops.convert_to_numpy(v))) for v in (drawn, variable))
    return not abs(found - expected) <= DEVIATION * expected
