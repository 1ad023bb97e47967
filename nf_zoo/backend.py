"""Differences between the backends of Keras that no operation of Keras hides."""

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from nf_zoo.atomic import is_full

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def require_tensorflow(what: str) -> ModuleType:
    """Return TensorFlow if Keras runs on it; ``what`` is the subject of the error."""
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"{what} works with TensorFlow only: pip install tensorflow and set "
            "KERAS_BACKEND=tensorflow. A model saved with model.save(...) loads there unchanged. "
            f"Received: backend {backend!r}"
        )
    try:
        return importlib.import_module("tensorflow")
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        remedy = "pip install tensorflow"
        raise ImportError(f"{what} needs TensorFlow, which is not installed: {remedy}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error of Python, TensorFlow, JAX or PyTorch means that memory ran out."""
    names = ("ResourceExhaustedError", "OutOfMemoryError")
    exhausted = type(error).__name__ in names or "RESOURCE_EXHAUSTED" in str(error)
    # TensorFlow calls a full disk an exhausted resource too.
    return isinstance(error, MemoryError) or (exhausted and not is_full(error))


def is_tensorflow_dataset(value: Any) -> bool:
    """Check for a ``tf.data.Dataset`` without importing TensorFlow."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(value, tensorflow.data.Dataset)


def compiled(function: Callable) -> Callable:
    """Return the function as one XLA program; as it is under PyTorch."""
    import keras

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.jit(function)
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True, autograph=False)
    return function


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back what TensorFlow prints on stderr while it is imported in the block.

    Its notices of CUDA and oneDNN come before it reads ``TF_CPP_MIN_LOG_LEVEL``; later ones follow
    that level, which becomes 3 unless it is set. Level 0 shows everything. If the block fails, what
    was held back is shown.
    """
    if os.environ.setdefault(LOG_LEVEL, "3") == "0":
        yield
        return
    with contextlib.suppress(OSError, AttributeError):
        sys.stderr.flush()
    with contextlib.ExitStack() as opened:
        try:
            held = opened.enter_context(tempfile.TemporaryFile())
            terminal = os.dup(2)
        except OSError:  # no terminal, or no place for the file
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(terminal, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            with contextlib.suppress(OSError, AttributeError):
                sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
