"""The update of SGD with momentum in one operation."""

from collections.abc import Callable

import keras


def fused_update(optimizer) -> Callable:
    """Return the optimizer's ``update_step``, in one operation for SGD under TensorFlow.

    Keras takes eight operations for each variable, and keeps what they pass on. One operation
    computes the same, up to rounding, in less time and memory: docs/speed.md.
    Other optimizers, other backends, half precision and gradients of some rows stay with Keras, as
    does an ``update_step`` that somebody replaced.
    """
    update = optimizer.update_step
    if (
        type(optimizer) is not keras.optimizers.SGD
        or "update_step" in vars(optimizer)
        or not optimizer.momentum
        or keras.backend.backend() != "tensorflow"
    ):
        return update

    import tensorflow as tf

    def fused(gradient, variable, learning_rate):
        rows = isinstance(gradient, tf.IndexedSlices)
        if rows or variable.dtype not in ("float32", "float64"):
            return update(gradient, variable, learning_rate)
        velocity = optimizer.momentums[optimizer._get_variable_index(variable)]
        weights = variable.value if isinstance(variable, keras.Variable) else variable
        return tf.raw_ops.ResourceApplyKerasMomentum(
            var=weights.handle,
            accum=velocity.value.handle,
            lr=tf.cast(learning_rate, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
            momentum=tf.cast(optimizer.momentum, variable.dtype),
            use_nesterov=optimizer.nesterov,
        )

    return fused
