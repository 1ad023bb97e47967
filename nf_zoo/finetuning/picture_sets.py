"""Sets of labeled pictures, in files or in a ``tf.data.Dataset``, that can be read again and again.

Pictures can be read in order, or shuffled anew for each epoch, as a ``tf.data.Dataset``. Its order
and random numbers depend only on the seed, the epoch and the position, so that a run resumed at
epoch 7 sees the pictures that it would have seen without a break.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nf_zoo.pictures.images import load_image

if TYPE_CHECKING:
    import tensorflow as tf

CACHE_BYTES = 512 * 2**20
"""Largest total size of the decoded pictures that are kept in memory."""

_SHUFFLE_BYTES = 256 * 2**20
_PORTION = 64
_THREADS = min(os.cpu_count() or 1, 16)


class FilePictures:
    """Pictures in files, decoded by Pillow as ``nf_zoo.preprocess`` does.

    Args:
        root: folder that the names are relative to.
        names: path of each picture, with forward slashes.
        classes: (len(names),) class index of each.
        cache: decoded pixels by name, for pictures that need not be read again.
    """

    def __init__(self, root: Path, names: Sequence[str], classes: np.ndarray, cache: dict):
        self.root, self.names, self.classes = root, tuple(names), classes
        self._cache = cache

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """Digest of the names and their classes, in order."""
        pairs = zip(self.names, self.classes, strict=True)
        return _digest(f"{name}\0{index}" for name, index in pairs)

    def subset(self, indices: np.ndarray) -> FilePictures:
        """Return some of the pictures, in the order of the indices."""
        names = [self.names[i] for i in indices]
        return FilePictures(self.root, names, self.classes[indices], self._cache)

    def in_order(self) -> tf.data.Dataset:
        """Return a data set of (pixels, class) of every picture: uint8 (H, W, 3) and int64."""
        import tensorflow as tf

        return tf.data.Dataset.range(len(self)).map(self._read, tf.data.AUTOTUNE)

    def shuffled(self, epochs: range, per_epoch: int, seed: int) -> tf.data.Dataset:
        """Return a data set of (pixels, class, serial number), ``per_epoch`` for each epoch."""
        import tensorflow as tf

        def order(epoch):
            key = tf.stack([tf.constant(seed, tf.int64), epoch])
            indices = tf.range(len(self), dtype=tf.int64)
            indices = tf.random.experimental.stateless_shuffle(indices, key)[:per_epoch]
            serials = epoch * per_epoch + tf.range(per_epoch, dtype=tf.int64)
            return tf.data.Dataset.from_tensor_slices((indices, serials))

        pairs = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(order)
        return pairs.map(self._read, tf.data.AUTOTUNE)

    def as_arrays(self) -> Iterator[tuple[np.ndarray, int]]:
        """Yield the elements of ``in_order`` as NumPy arrays, without TensorFlow."""
        yield from zip(in_portions(self._pixels, range(len(self))), self.classes, strict=True)

    def _read(self, index, *serial):
        import tensorflow as tf

        pixels = tf.numpy_function(self._pixels, [index], tf.uint8)
        picture_class = tf.gather(tf.constant(self.classes, tf.int64), index)
        return tf.ensure_shape(pixels, (None, None, 3)), picture_class, *serial

    def _pixels(self, index) -> np.ndarray:
        name = self.names[int(index)]
        if name in self._cache:
            return self._cache[name]
        try:
            return load_image(self.root / name)
        except Exception as error:
            raise RuntimeError(f"{self.root / name} can no longer be read: {error}") from error


class DatasetPictures:
    """Pictures that a ``tf.data.Dataset`` of (uint8 pixels, class) yields one by one.

    Args:
        classes: (N,) class index of each, in the order of the data set.
        members: (N,) bool, True for the pictures of this part; None for all.
        typical_bytes: size of one picture's pixels.
    """

    names = None

    def __init__(self, dataset: tf.data.Dataset, classes, members=None, typical_bytes=3 * 224**2):
        self._all_classes, self._dataset = classes, dataset
        self._members, self._typical_bytes = members, typical_bytes
        self.classes = classes if members is None else classes[members]

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def fingerprint(self) -> str:
        """Digest of the classes, in order."""
        return _digest(map(str, self.classes))

    def subset(self, indices: np.ndarray) -> DatasetPictures:
        """Return some of the pictures, in the order of the data set."""
        members = np.zeros(len(self._all_classes), dtype=bool)
        members[indices] = True
        return DatasetPictures(self._dataset, self._all_classes, members, self._typical_bytes)

    def in_order(self) -> tf.data.Dataset:
        """Return a data set of (pixels, class) of every picture: uint8 (H, W, 3) and int64."""
        import tensorflow as tf

        chosen = self._dataset
        if self._members is not None:
            members = tf.constant(self._members)
            chosen = chosen.enumerate().filter(lambda index, _: tf.gather(members, index))
            chosen = chosen.map(lambda _, picture: picture)
        return chosen.apply(tf.data.experimental.assert_cardinality(len(self)))

    def as_arrays(self) -> Iterator[tuple[np.ndarray, int]]:
        """Yield the elements of ``in_order`` as NumPy arrays."""
        yield from self.in_order().as_numpy_iterator()

    def shuffled(self, epochs: range, per_epoch: int, seed: int) -> tf.data.Dataset:
        """Return the same as :class:`FilePictures`, shuffled within a buffer of about 256 MB."""
        import tensorflow as tf

        buffer = min(max(_SHUFFLE_BYTES // self._typical_bytes, 256), len(self))

        def one_epoch(epoch):
            # The global seed would change the order too, and TensorFlow fails if it is 0.
            tf.compat.v1.get_default_graph().seed = None
            key = tf.stack([tf.constant(seed, tf.int64), epoch])
            key = tf.random.stateless_uniform((), key, 0, tf.int64.max, tf.int64)
            pictures = self.in_order().shuffle(buffer, key, reshuffle_each_iteration=False)
            return pictures.take(per_epoch).enumerate(epoch * per_epoch)

        pictures = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(one_epoch)
        return pictures.map(lambda serial, picture: (*picture, serial))


def in_portions(look: Callable, items: Sequence) -> Iterator:
    """Yield ``look(item)`` of each item, in order; threads work on one portion at a time."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(items), _PORTION):
            yield from pool.map(look, items[start : start + _PORTION])


def _digest(lines) -> str:
    return hashlib.blake2b(
        "\n".join(lines).encode("utf-8", "surrogateescape"), digest_size=12
    ).hexdigest()
