"""What only TensorFlow can do asks for it here, in one line and before anything is begun."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_INSTALL = "pip install tensorflow"


def require_tensorflow(what: str) -> ModuleType:
    """TensorFlow, where Keras runs on it.

    Args:
        what: the subject of the message, such as ``"Fine-tuning"``.

    Returns:
        The module.

    Raises:
        RuntimeError: if Keras runs on another backend.
        ImportError: if TensorFlow is not installed.

    Example:
        >>> require_tensorflow("A SavedModel").__name__
        'tensorflow'
    """
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"{what} works with TensorFlow only: {_INSTALL} and set KERAS_BACKEND=tensorflow. A "
            "model that was saved with model.save(...) loads there as it is. "
            f"Received: backend {backend!r}"
        )
    return import_tensorflow(what)


def import_tensorflow(what: str) -> ModuleType:
    """TensorFlow, whatever Keras runs on.

    Args:
        what: the subject of the message.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        return importlib.import_module("tensorflow")
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise ImportError(f"{what} needs TensorFlow, which is not installed: {_INSTALL}") from error


def is_tensorflow_dataset(value: Any) -> bool:
    """Whether it is a ``tf.data.Dataset``; does not import TensorFlow to find out."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(value, tensorflow.data.Dataset)
