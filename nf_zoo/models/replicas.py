"""Optimizers of Keras on several replicas of TensorFlow: the step is that of one device."""

from __future__ import annotations

import keras


def step_as_on_one_device(optimizer) -> None:
    """Make an optimizer sum gradients over replicas if there are several, and clip the sum.

    Keras sums them even on one device, through a custom gradient. TensorFlow keeps its closure
    until the process ends, so every ``fit`` would leak the weights of its model. Of several
    replicas, Keras clips each one's share before the sum, and its loss scaling asks only the first
    whether the step overflowed.
    """
    if keras.backend.backend() != "tensorflow":
        return
    while hasattr(optimizer, "inner_optimizer"):
        leave_out_together(optimizer)
        optimizer = optimizer.inner_optimizer
    add_up = getattr(optimizer, "_all_reduce_sum_gradients", None)
    if add_up is None or hasattr(add_up, "spares_one_replica"):
        return
    clip = optimizer._clip_gradients

    def sum_where_several(grads_and_vars):
        if not _several():
            return list(grads_and_vars)
        gradients, variables = zip(*add_up(grads_and_vars), strict=True)
        return list(zip(clip(list(gradients)), variables, strict=True))

    sum_where_several.spares_one_replica = True
    optimizer._all_reduce_sum_gradients = sum_where_several
    optimizer._clip_gradients = lambda grads: grads if _several() else clip(grads)


def leave_out_together(optimizer) -> None:
    """Make a ``LossScaleOptimizer`` leave out a step that overflows on any replica."""
    check = getattr(optimizer, "check_finite", None)
    if check is None or hasattr(check, "asks_every_replica"):
        return
    import tensorflow as tf

    def finite_everywhere(gradients):
        finite = check(gradients)
        if not _several():
            return finite
        overflows = tf.cast(tf.logical_not(finite), tf.float32)
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, overflows) == 0.0

    finite_everywhere.asks_every_replica = True
    optimizer.check_finite = finite_everywhere


def _several() -> bool:
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync > 1
