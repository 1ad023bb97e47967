"""Custom gradients under TensorFlow that do not leak memory."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

_NONE = contextvars.ContextVar("no_gradients", default=False)


@contextlib.contextmanager
def no_gradients() -> Iterator[None]:
    """Compute functions with a gradient of their own op by op, where no gradient is taken.

    Layer after layer in eager mode, each would otherwise be traced for every shape.
    """
    token = _NONE.set(True)
    try:
        yield
    finally:
        _NONE.reset(token)


def with_own_gradient(function: Callable) -> Callable:
    """Wrap a function of tensors in ``tf.custom_gradient``, in a graph of its own.

    TensorFlow keeps the closure of a custom gradient until the process ends, once for every trace,
    and with it the traced graph: the weights of every model ever made. A graph that is traced once
    for each shape, and takes all it needs as arguments, holds no weights. The graphs are looked up
    here, because TensorFlow warns of a function that it has to trace for many shapes. So create the
    function, tensors -> (result, upstream gradient -> gradients), once per process.
    """
    import tensorflow as tf

    traced = tf.function(tf.custom_gradient(function), autograph=False)

    @functools.cache
    def of(*specs) -> Callable:
        return traced.get_concrete_function(*specs)

    def call(*tensors):
        if _NONE.get():
            return function(*tensors)[0]
        return of(*(tf.TensorSpec(x.shape, x.dtype) for x in tensors))(*tensors)

    return call
