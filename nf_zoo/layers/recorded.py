"""Layers whose config Keras records by itself."""

from __future__ import annotations

import keras
import numpy as np


class RecordedLayer(keras.layers.Layer):
    """Base of layers of plain constructor arguments, which need no ``get_config`` of their own.

    Keras records the arguments of a layer when all of them are numbers, texts and the like, and
    the dtype policy apart from them. A policy given as an object would spoil the record, and so
    would a number of NumPy's or an initializer, which is recorded as Keras writes it.
    """

    def __new__(cls, *args, **kwargs):
        kwargs.pop("dtype", None)  # from the record alone: __init__ gets what the caller gave
        args = map(_plain, args)
        return super().__new__(cls, *args, **{key: _plain(x) for key, x in kwargs.items()})


def _plain(value):
    if isinstance(value, keras.initializers.Initializer):
        return keras.initializers.serialize(value)
    return value.item() if isinstance(value, np.generic) else value
