"""Gradients of our own under TensorFlow, without a leak."""

from __future__ import annotations

from collections.abc import Callable


def with_own_gradient(function: Callable) -> Callable:
    """``tf.custom_gradient`` of a function of tensors alone, in a graph of its own.

    TensorFlow keeps the closure of a custom gradient until the process ends, once for every trace,
    and with it the graph that it was traced in: the weights of every model that ever was. A graph
    that is traced once for each shape, and takes all it needs as arguments, holds none.

    Args:
        function: tensors -> (result, function of the upstream gradient -> gradients). Make it
            once in a process, not once in a call.

    Returns:
        A function of the same tensors.
    """
    import tensorflow as tf

    return tf.function(tf.custom_gradient(function), autograph=False)
