"""Batches of pictures for the engines."""

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator

import numpy as np

from training.augmentation import augmentation_of
from training.data import Share


class JaxFeed:
    """Batches for one accelerator, made by a thread while it computes.

    ``resident`` batches have rows of pictures that the accelerator holds, instead of images.
    """

    def __init__(self, recipe, data, resident: bool = False):
        self.recipe, self.data = recipe, data
        self._share = Share(replica_batch=recipe.batch_size)
        self._batches = data.train_rows if resident else data.train_batches

    def train(self, first_step: int) -> Iterator[tuple]:
        """Yield (images or their rows, classes, draws), endlessly, from a step on."""
        return _ahead(self._batches(self.recipe, self._share, first_step))

    def test(self) -> Iterable[tuple]:
        """Return batches of (images, classes, weights)."""
        return self.data.test_batches(self.recipe, self._share)

    def pictures(self, step: int) -> np.ndarray:
        """Return the first pictures of a step, uint8 (N, H, W, 3)."""
        return next(self.data.train_batches(self.recipe, self._share, step))[0]


class TensorFlowFeed:
    """Batches for every replica of a strategy."""

    def __init__(self, recipe, data, strategy):
        self.recipe, self.data, self.strategy = recipe, data, strategy

    def train(self, first_step: int):
        """Return endless batches of (images, classes, draws) of every replica, from a step on."""
        width = augmentation_of(self.recipe).width
        return self._distributed(
            lambda share: self.data.train_batches(self.recipe, share, first_step),
            *(self._replica_batch, width),
        )

    def test(self):
        return self._distributed(
            lambda share: self.data.test_batches(self.recipe, share),
            self.recipe.evaluation.batch_size,
        )

    def pictures(self, step: int) -> np.ndarray:
        batches = self.data.train_batches(self.recipe, self._share(0, 1), step)
        return np.asarray(next(iter(batches))[0])

    @property
    def _on_cpu(self) -> bool:
        return all("CPU" in device for device in self.strategy.extended.worker_devices)

    @property
    def _replica_batch(self) -> int:
        return self.recipe.batch_size // self.strategy.num_replicas_in_sync

    def _share(self, host: int, hosts: int) -> Share:
        replicas = self.strategy.num_replicas_in_sync // hosts
        return Share(host, hosts, replicas, self._replica_batch)

    def _distributed(self, batches_of, rows: int, *last: int):
        if self._on_cpu and self.strategy.num_replicas_in_sync == 1:
            # An iterator of the strategy is tuned in any case (see _untuned).
            return self._as_dataset(lambda: batches_of(self._share(0, 1)), rows, last)

        def make(context):
            share = self._share(context.input_pipeline_id, context.num_input_pipelines)
            return self._as_dataset(lambda: batches_of(share), rows, last)

        return self.strategy.distribute_datasets_from_function(make)

    def _as_dataset(self, batches, rows: int, last: tuple):
        """Return the batches as a data set, wrapping a generator of pictures in memory."""
        import tensorflow as tf

        made = batches()
        if not isinstance(made, tf.data.Dataset):
            signature = (
                tf.TensorSpec((rows, *self.data.train[0].shape[1:]), tf.uint8),
                tf.TensorSpec((rows,), tf.int32),
                tf.TensorSpec((rows, *last), tf.float32),
            )
            made = tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(4)
        return _untuned(made) if self._on_cpu else made


def _untuned(dataset):
    """Return the data set with iterators that close at once.

    TensorFlow tunes every iterator in a thread that sleeps for twice as long each time, up to a
    minute, and closing the iterator often waits until it wakes. Without the thread a parallel map
    has as many calls as threads, up to 16, which is right where the CPU also trains.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _ahead(batches: Iterator, most: int = 8) -> Iterator:
    """Yield the same batches, up to ``most`` of them made in advance by a thread."""
    made: queue.Queue = queue.Queue(most)

    is_over = threading.Event()

    def put(value) -> None:
        while not is_over.is_set():
            with contextlib.suppress(queue.Full):
                return made.put(value, timeout=0.2)

    def work():
        try:
            for batch in batches:
                put(batch)
                if is_over.is_set():
                    return
        except Exception as error:  # raised in the thread that waits for the batch
            put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            batch = made.get()
            if isinstance(batch, Exception):
                raise batch
            yield batch
    finally:
        is_over.set()  # or the thread would keep the pictures
