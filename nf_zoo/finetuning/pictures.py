"""Labeled pictures that can be read in order, or shuffled anew for each epoch.

Both kinds give a ``tf.data.Dataset`` whose order and random numbers depend on the seed, the epoch
and the position alone, so that a run that goes on at epoch 7 sees what it would have seen.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nf_zoo.images import load_image

if TYPE_CHECKING:
    import tensorflow as tf

CACHE_BYTES = 512 * 2**20
"""Pictures whose pixels fit in this are decoded once and kept in memory."""

_SHUFFLE_BYTES = 256 * 2**20
_LARGE, _PORTION = 4 * 2**20, 64
_THREADS = min(os.cpu_count() or 1, 16)


class FilePictures:
    """Pictures in files, decoded by Pillow as ``nf_zoo.preprocess`` does.

    Args:
        root: folder that the names are relative to.
        names: relative paths, with forward slashes.
        classes: (len(names),) class index of each.
        cache: decoded pixels by name, for pictures that need not be read again.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        classes: np.ndarray,
        cache: dict[str, np.ndarray] | None = None,
    ):
        self.root, self.names, self.classes = root, tuple(names), classes
        self._cache = cache or {}

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """A digest of the names and their classes, in order."""
        pairs = zip(self.names, self.classes, strict=True)
        return _digest(f"{name}\0{index}" for name, index in pairs)

    def subset(self, indices: np.ndarray) -> FilePictures:
        """Some of the pictures, in the order of the indices."""
        names = [self.names[i] for i in indices]
        return FilePictures(self.root, names, self.classes[indices], self._cache)

    def in_order(self) -> tf.data.Dataset:
        """(pixels, class) of every picture: uint8 (H, W, 3) and int64."""
        import tensorflow as tf

        indices = tf.data.Dataset.range(len(self))
        return indices.map(self._read, num_parallel_calls=tf.data.AUTOTUNE)

    def shuffled(self, epochs: range, per_epoch: int, seed: int) -> tf.data.Dataset:
        """(pixels, class, serial number), ``per_epoch`` of them for each epoch."""
        import tensorflow as tf

        def order(epoch):
            indices = tf.range(len(self), dtype=tf.int64)
            key = tf.stack([tf.constant(seed, tf.int64), epoch])
            indices = tf.random.experimental.stateless_shuffle(indices, key)[:per_epoch]
            serials = epoch * per_epoch + tf.range(per_epoch, dtype=tf.int64)
            return tf.data.Dataset.from_tensor_slices((indices, serials))

        pairs = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(order)
        return pairs.map(self._read, num_parallel_calls=tf.data.AUTOTUNE)

    def as_arrays(self) -> Iterator[tuple[np.ndarray, int]]:
        """What ``in_order`` gives, as NumPy arrays; needs no TensorFlow."""
        with ThreadPoolExecutor(_THREADS) as pool:
            # In portions, so that no more pixels are held than are soon used.
            for start in range(0, len(self), _PORTION):
                portion = range(start, min(start + _PORTION, len(self)))
                yield from zip(pool.map(self._pixels, portion), self.classes[portion], strict=True)

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
    """Pictures that a ``tf.data.Dataset`` of (uint8 pixels, class) yields.

    Args:
        dataset: the pictures one by one.
        classes: (N,) class index of each, in the order of the data set.
        members: (N,) which of them belong to this part; None for all.
        typical_bytes: size of one picture's pixels.
    """

    def __init__(
        self,
        dataset: tf.data.Dataset,
        classes: np.ndarray,
        members: np.ndarray | None = None,
        typical_bytes: int = 3 * 224 * 224,
    ):
        self._all_classes, self._dataset = classes, dataset
        self._members, self._typical_bytes = members, typical_bytes
        self.classes = classes if members is None else classes[members]
        self.names = None

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def fingerprint(self) -> str:
        """A digest of the classes, in order."""
        return _digest(map(str, self.classes))

    def subset(self, indices: np.ndarray) -> DatasetPictures:
        """Some of the pictures, in the order of the data set."""
        members = np.zeros(len(self._all_classes), dtype=bool)
        members[indices] = True
        return DatasetPictures(self._dataset, self._all_classes, members, self._typical_bytes)

    def in_order(self) -> tf.data.Dataset:
        """(pixels, class) of every picture: uint8 (H, W, 3) and int64."""
        import tensorflow as tf

        chosen = self._dataset
        if self._members is not None:
            members = tf.constant(self._members)
            chosen = chosen.enumerate().filter(lambda index, _: tf.gather(members, index))
            chosen = chosen.map(lambda _, picture: picture)
        return chosen.apply(tf.data.experimental.assert_cardinality(len(self)))

    def as_arrays(self) -> Iterator[tuple[np.ndarray, int]]:
        """What ``in_order`` gives, as NumPy arrays."""
        yield from self.in_order().as_numpy_iterator()

    def shuffled(self, epochs: range, per_epoch: int, seed: int) -> tf.data.Dataset:
        """(pixels, class, serial number), ``per_epoch`` of them for each epoch.

        Shuffled within a buffer of a few hundred megabytes, not over the whole data set.
        """
        import tensorflow as tf

        buffer = min(max(_SHUFFLE_BYTES // self._typical_bytes, 256), len(self))

        def one_epoch(epoch):
            # The global seed would change the order too, and TensorFlow fails where it is 0.
            tf.compat.v1.get_default_graph().seed = None
            key = tf.stack([tf.constant(seed, tf.int64), epoch])
            key = tf.random.stateless_uniform((), key, 0, tf.int64.max, tf.int64)
            pictures = self.in_order().shuffle(buffer, key, reshuffle_each_iteration=False)
            return pictures.take(per_epoch).enumerate(epoch * per_epoch)

        pictures = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(one_epoch)
        return pictures.map(lambda serial, picture: (*picture, serial))


def verify(root: Path, names: Sequence[str]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Decode every picture once.

    It costs about what the input of one epoch costs, and is what lets a run say at the start which
    files are broken instead of failing hours later.

    Args:
        root: folder that the names are relative to.
        names: relative paths.

    Returns:
        Why a picture cannot be read, by name; and the pixels of the others by name, but none if
        they take more than ``CACHE_BYTES``, and never those of a picture above 4 MB.
    """

    def look(name: str) -> np.ndarray | str | None:
        try:
            pixels = load_image(root / name)
        except Exception as error:
            return f"{type(error).__name__}: {error}".replace(str(root / name), name)
        return pixels if pixels.nbytes <= _LARGE else None

    broken: dict[str, str] = {}
    kept: dict[str, np.ndarray] = {}
    total = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        # In portions, so that no more pixels are held than may be kept.
        for start in range(0, len(names), _PORTION):
            some = names[start : start + _PORTION]
            for name, found in zip(some, pool.map(look, some), strict=True):
                if isinstance(found, str):
                    broken[name] = found
                elif found is not None:
                    total += found.nbytes
                    kept[name] = found
            if total > CACHE_BYTES:
                kept.clear()
    return broken, kept


def _digest(lines) -> str:
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=12).hexdigest()
