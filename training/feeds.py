"""The pictures of a run as the engines take them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator

import numpy as np

from training.augmentation import augmentation_of
from training.data import Share


class JaxFeed:
    """Batches for one accelerator, made by a thread while it computes.

    Args:
        recipe: a checked recipe.
        data: an :class:`~training.data.ArrayPictures`.
        resident: whether the accelerator has the pictures, and takes their rows.
    """

    def __init__(self, recipe, data, resident: bool = False):
        self.recipe, self.data = recipe, data
        self._share = Share(replica_batch=recipe.batch_size)
        self._batches = data.train_rows if resident else data.train_batches

    def train(self, first_step: int) -> Iterator[tuple]:
        """(images or their rows, classes, draws), endlessly, from that step on."""
        return _ahead(self._batches(self.recipe, self._share, first_step))

    def test(self) -> Iterable[tuple]:
        """(images, classes, weights)."""
        return self.data.test_batches(self.recipe, self._share)

    def pictures(self, step: int) -> np.ndarray:
        """(N, H, W, 3) uint8: the first pictures of a step."""
        return next(self.data.train_batches(self.recipe, self._share, step))[0]


class TensorFlowFeed:
    """Batches for every replica of a strategy.

    Args:
        recipe: a checked recipe.
        data: what :func:`training.data.open_data` gave.
        strategy: a tf.distribute.Strategy.
    """

    def __init__(self, recipe, data, strategy):
        self.recipe, self.data, self.strategy = recipe, data, strategy

    def train(self, first_step: int):
        """(images, classes, draws) of every replica, endlessly, from that step on."""
        width = augmentation_of(self.recipe).width
        return self._distributed(
            lambda share: self.data.train_batches(self.recipe, share, first_step),
            *(self._replica_batch, width),
        )

    def test(self):
        """(images, classes, weights) of every replica."""
        return self._distributed(
            lambda share: self.data.test_batches(self.recipe, share),
            self.recipe.evaluation.batch_size,
        )

    def pictures(self, step: int) -> np.ndarray:
        """(N, H, W, 3) uint8: the first pictures of a step."""
        batches = self.data.train_batches(self.recipe, self._share(0, 1), step)
        return np.asarray(next(iter(batches))[0])

    @property
    def _replica_batch(self) -> int:
        return self.recipe.batch_size // self.strategy.num_replicas_in_sync

    def _share(self, host: int, hosts: int) -> Share:
        replicas = self.strategy.num_replicas_in_sync // hosts
        return Share(host, hosts, replicas, self._replica_batch)

    def _distributed(self, batches_of, rows: int, *last: int):
        def make(context):
            share = self._share(context.input_pipeline_id, context.num_input_pipelines)
            return self._as_dataset(lambda: batches_of(share), rows, last)

        return self.strategy.distribute_datasets_from_function(make)

    def _as_dataset(self, batches, rows: int, last: tuple):
        """A data set as it is, or one of what a generator gives of pictures in memory."""
        import tensorflow as tf

        made = batches()
        if isinstance(made, tf.data.Dataset):
            return made
        signature = (
            tf.TensorSpec((rows, *self.data.train[0].shape[1:]), tf.uint8),
            tf.TensorSpec((rows,), tf.int32),
            tf.TensorSpec((rows, *last), tf.float32),
        )
        return tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(4)


def _ahead(batches: Iterator, most: int = 8) -> Iterator:
    """The same, up to ``most`` of them made in advance by a thread."""
    made: queue.Queue = queue.Queue(most)

    def work():
        try:
            for batch in batches:
                made.put(batch)
        except Exception as error:  # raised where it is waited for
            made.put(error)

    threading.Thread(target=work, daemon=True).start()
    while True:
        batch = made.get()
        if isinstance(batch, Exception):
            raise batch
        yield batch
