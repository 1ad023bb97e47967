"""All devices of the machine, as one: the same result as on one of them, sooner."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras


class Devices:
    """The devices that share each batch of a run.

    They are GPUs, or TPUs under JAX; without them it is the one CPU. As many take part as divide
    the pictures of a micro-batch evenly. ``jit_compile`` is for ``compile`` of their models.
    """

    def __init__(self, pictures: int):
        names = _names()
        self.count = max(n for n in range(1, len(names) + 1) if pictures % n == 0)
        self._names = names[: self.count]
        self._strategy = None
        replicated = self.count > 1 and keras.backend.backend() == "tensorflow"
        self.jit_compile = False if replicated else "auto"

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Make the variables of models built inside present on every device."""
        backend = keras.backend.backend()
        if self.count == 1:
            yield
        elif backend == "jax":
            before = keras.distribution.distribution()
            shared = keras.distribution.DataParallel(devices=self._names)
            keras.distribution.set_distribution(shared)
            try:
                yield
            finally:
                keras.distribution.set_distribution(before)
        else:
            import tensorflow as tf

            # Collectives on CPUs outlive their strategy and break the next one.
            reduction = tf.distribute.ReductionToOneDevice() if "CPU" in self._names[0] else None
            self._strategy = self._strategy or tf.distribute.MirroredStrategy(
                self._names, cross_device_ops=reduction
            )
            with self._strategy.scope():
                yield

    def train(self, model: keras.Model, batch: tuple) -> dict[str, float]:
        """Train on (images, targets, weights) and return the figures of the batch."""
        if self._strategy is None:
            with self.scope():  # in which JAX gives each device its share of the batch
                return model.train_on_batch(*batch, return_dict=True)
        # Model.train_on_batch would give every replica the whole batch.
        if model.train_function is None:
            model.test_on_batch(*(x if x is None else x[:1] for x in batch))  # makes the metrics
            model.make_train_function()
        model.reset_metrics()
        logs = model.train_function(iter([self._shares(batch)]))
        return {name: float(value) for name, value in logs.items()}

    def _shares(self, batch: tuple) -> Any:
        size = len(batch[0]) // self.count

        def of(context):
            first = context.replica_id_in_sync_group * size
            return tuple(x if x is None else x[first : first + size] for x in batch)

        return self._strategy.experimental_distribute_values_from_function(of)


def _names() -> list[str]:
    """Return the accelerators of the machine, or what stands for a CPU."""
    backend = keras.backend.backend()
    if backend == "jax":
        names = keras.distribution.list_devices()
    elif backend == "tensorflow":
        import tensorflow as tf

        names = [device.name for device in tf.config.list_logical_devices("GPU")]
    else:
        names = []
    return [name for name in names if not name.startswith("cpu")] or ["one"]
