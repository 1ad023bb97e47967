"""Training steps by micro-batches: the gradient of a whole batch in the memory of a part of it."""

import operator

import keras
from keras import ops


def accumulation_of(accumulate: int, loss) -> int:
    """Return the checked number of micro-batches of a step."""
    if operator.index(accumulate) < 1:
        raise ValueError(f"accumulate must be 1 or more. Received: {accumulate!r}")
    for one in keras.tree.flatten(loss) if accumulate > 1 else ():
        reduction = getattr(one, "reduction", "sum_over_batch_size")
        if reduction != "sum_over_batch_size":
            raise ValueError(
                "With accumulate, the loss must be the mean over the pictures: "
                f'reduction="sum_over_batch_size". Received: {reduction!r}'
            )
    return operator.index(accumulate)


class Accumulation:
    """Mixin for a ``keras.Model``: a step takes its gradient in ``accumulate`` parts.

    The optimizer sees one gradient for each step. So momenta, averages, clipping and schedules are
    those of the whole batch, which accumulation inside an optimizer does not give.
    """

    accumulate = 1

    def train_step(self, *args):
        """Run one step of ``fit``. Keras calls this method."""
        if self.accumulate == 1:
            return super().train_step(*args)
        return getattr(self, f"_{keras.backend.backend()}_step")(*args)

    def _parts(self, data):
        """Return (images, targets, weights), each with a first axis of ``accumulate`` parts.

        A batch that cannot be cut evenly repeats its last picture with weight 0. A part takes
        every k-th picture, so that the share of each device is cut, and not passed around.
        """
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        size, count = ops.shape(keras.tree.flatten(x)[0])[0], self.accumulate
        rows = -(-size // count) * count
        kept = ops.cast(ops.arange(rows) < size, "float32")
        kept = kept / ops.mean(kept)
        rows = ops.minimum(ops.arange(rows), size - 1)

        def cut(values):
            values = ops.reshape(values, (-1, count, *ops.shape(values)[1:]))
            return ops.swapaxes(values, 0, 1)

        def weigh(output, given):
            """Return weights for the losses of an output, which lack its last axis."""
            rank = max(len(output.shape) - 1, 1)
            own = ops.reshape(kept, (-1, *[1] * (rank - 1)))
            if given is None:
                return cut(own)
            given = ops.cast(ops.take(given, rows, axis=0), "float32")
            sides = [*ops.shape(given), *[1] * rank][1:rank]  # Keras takes (N, 1) for (N,) too
            return cut(own * ops.reshape(given, (-1, *sides)))

        parts = keras.tree.map_structure(lambda values: cut(ops.take(values, rows, axis=0)), (x, y))
        given = keras.tree.flatten(weights)
        given *= len(self.outputs) if len(given) == 1 else 1
        weights = list(map(weigh, self.outputs, given))
        return *parts, keras.tree.pack_sequence_as(self.output, weights), size

    @staticmethod
    def _joined(predictions, size):
        """Undo the cut: (parts, rows, ...) -> (size, ...)."""

        def join(values):
            values = ops.swapaxes(values, 0, 1)
            return ops.reshape(values, (-1, *ops.shape(values)[2:]))[:size]

        return keras.tree.map_structure(join, predictions)

    def _tensorflow_step(self, data):
        import tensorflow as tf

        *parts, size = self._parts(data)
        variables = self.trainable_weights
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        reached = [False] * len(variables)  # by a gradient

        def add(index, total, sums, collected):
            x, y, weights = keras.tree.map_structure(lambda values: values[index], parts)
            with tf.GradientTape() as tape:
                outputs = self(x, training=True)
                loss = self.compute_loss(x, y, outputs, weights, training=True)
                scaled = self.optimizer.scale_loss(loss)
            gradients = tape.gradient(scaled, variables)
            reached[:] = [gradient is not None for gradient in gradients]
            sums = [a if g is None else a + g for a, g in zip(sums, gradients, strict=True)]
            outputs = zip(collected, keras.tree.flatten(outputs), strict=True)
            return index + 1, total + loss, sums, [array.write(index, o) for array, o in outputs]

        arrays = [tf.TensorArray(output.dtype, self.accumulate) for output in self.outputs]
        sums = [tf.zeros_like(v) for v in variables]
        state = 0, tf.zeros((), keras.backend.floatx()), sums, arrays
        if replicas > 1:  # replicas cannot merge their statistics inside a loop of the graph
            for _ in range(self.accumulate):
                state = add(*state)
        else:
            more = lambda index, *_: index < self.accumulate  # noqa: E731
            state = tf.while_loop(more, add, state, parallel_iterations=1)
        _, loss, gradients, arrays = state
        gradients = zip(reached, gradients, strict=True)
        gradients = [g / self.accumulate if is_reached else None for is_reached, g in gradients]
        self.optimizer.apply(gradients, variables)
        outputs = keras.tree.pack_sequence_as(self.output, [array.stack() for array in arrays])
        return self._logs(data, outputs, size, loss / self.accumulate * replicas)

    def _logs(self, data, outputs, size, loss):
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        self._loss_tracker.update_state(loss, sample_weight=size)
        return self.compute_metrics(x, y, self._joined(outputs, size), weights)

    def _jax_step(self, state, data):
        import jax

        trainable, others, optimizer, metrics = state
        *parts, size = self._parts(data)
        gradient_of = jax.value_and_grad(self.compute_loss_and_updates, has_aux=True)

        def add(carried, part):
            others, total, sums = carried
            (_, (loss, outputs, others, _)), gradients = gradient_of(
                trainable, others, metrics, *part, training=True, optimizer_variables=optimizer
            )
            return (others, total + loss, jax.tree.map(jax.numpy.add, sums, gradients)), outputs

        zeros = jax.tree.map(jax.numpy.zeros_like, trainable)
        start = others, jax.numpy.zeros((), keras.backend.floatx()), zeros
        (others, loss, sums), outputs = jax.lax.scan(add, start, tuple(parts))
        gradients = [value / self.accumulate for value in sums]
        trainable, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trainable)
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        outputs, loss = self._joined(outputs, size), loss / self.accumulate
        logs, metrics = self._update_metrics_variables(metrics, loss, x, y, outputs, weights)
        return logs, (trainable, others, optimizer, metrics)

    def _torch_step(self, data):
        import torch

        *parts, size = self._parts(data)
        self.zero_grad()
        total, collected = 0.0, []
        for index in range(self.accumulate):
            x, y, weights = keras.tree.map_structure(lambda values, i=index: values[i], parts)
            outputs = self(x, training=True)
            loss = self.compute_loss(x, y, outputs, weights, training=True)
            (self.optimizer.scale_loss(loss) / self.accumulate).backward()
            total += loss.detach()
            collected.append(keras.tree.map_structure(torch.detach, outputs))
        variables = self.trainable_weights
        with torch.no_grad():
            self.optimizer.apply([v.value.grad for v in variables], variables)
        outputs = keras.tree.map_structure(lambda *values: torch.stack(values), *collected)
        return self._logs(data, outputs, size, total / self.accumulate)
