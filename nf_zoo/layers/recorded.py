"""Layers whose config Keras records by itself."""

import types

import keras
import numpy as np


class RecordedLayer(keras.layers.Layer):
    """Base class of layers with plain constructor arguments, which need no ``get_config``.

    Keras records the arguments of a layer if all of them are numbers, strings and the like; it
    records the dtype policy separately. A policy object would spoil the record, so it is left out.
    NumPy numbers become Python numbers, tuples lists, and initializers and regularizers their
    serialized form, also if they are classes or functions.
    """

    def __new__(cls, *args, **kwargs):
        kwargs.pop("dtype", None)  # only from the record: __init__ gets the caller's value
        made = {key: _plain(_instance(key, value)) for key, value in kwargs.items()}
        return super().__new__(cls, *map(_plain, args), **made)

    def compute_output_shape(self, input_shape):
        """Return the same shape, which most of these layers keep."""
        return input_shape


def _instance(name: str, value):
    """Return the initializer or regularizer of a class, and a named function in serialized form."""
    if not name.endswith(("_initializer", "_regularizer")):
        return value
    if isinstance(value, types.FunctionType) and value.__name__ != "<lambda>":
        return keras.saving.serialize_keras_object(value)
    return value() if isinstance(value, type) else value


def _plain(value):
    if isinstance(value, keras.initializers.Initializer | keras.regularizers.Regularizer):
        return keras.saving.serialize_keras_object(value)
    if isinstance(value, tuple):
        return list(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value
