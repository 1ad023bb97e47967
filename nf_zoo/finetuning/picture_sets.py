"""Sets of labeled pictures, in files or in a ``tf.data.Dataset``, that can be read again and again.

Pictures can be read in order, or shuffled anew for each epoch. The order depends only on the seed
and the epoch, so that a run resumed at epoch 7 sees the pictures that it would have seen without a
break. A picture is given as a function that reads it, which a thread can call.
"""

from __future__ import annotations

import collections
import copy
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
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
_THREADS = min(os.cpu_count() or 1, 16)

Readers = Iterator[tuple[Callable[[], np.ndarray], int]]
"""Pairs of a function that returns pixels, uint8 (H, W, 3), and a class index."""


class FilePictures:
    """Pictures in files, decoded by Pillow as ``nf_zoo.preprocess`` does.

    ``names`` are relative to ``root``, with forward slashes. ``cache`` holds the decoded pixels, by
    name, of pictures that need not be read again.
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

    def files(self) -> Iterator[tuple[str, int, int]]:
        """Yield the name, the class index and the size in bytes of each file."""
        for name, index in zip(self.names, self.classes, strict=True):
            yield name, int(index), (self.root / name).stat().st_size

    def subset(self, indices: np.ndarray) -> FilePictures:
        """Return some of the pictures, in the order of the indices."""
        part = copy.copy(self)
        part.names, part.classes = tuple(self.names[i] for i in indices), self.classes[indices]
        return part

    def in_order(self) -> Readers:
        """Yield every picture, as it is read, and its class."""
        return self._readers(range(len(self)))

    def shuffled(self, epoch: int, seed: int) -> Readers:
        """Yield the same in the order of an epoch."""
        return self._readers(_generator(seed, epoch).permutation(len(self)))

    def _readers(self, indices: Iterable[int]) -> Readers:
        for index in indices:
            yield functools.partial(self._pixels, self.names[index]), int(self.classes[index])

    def _pixels(self, name: str) -> np.ndarray:
        if name in self._cache:
            return self._cache[name]
        try:
            return load_image(self.root / name)
        except Exception as error:
            raise RuntimeError(f"{self.root / name} can no longer be read: {error}") from error


class ArrayPictures(FilePictures):
    """Pictures given as arrays, uint8 (H, W, 3), named by their numbers; with a digest of each."""

    def __init__(self, pixels: Sequence[np.ndarray], classes, contents: Sequence[bytes]):
        names = [str(i) for i in range(len(pixels))]
        super().__init__(Path(), names, classes, dict(zip(names, pixels, strict=True)))
        self._contents = dict(zip(names, contents, strict=True))

    @property
    def fingerprint(self) -> str:
        """Digest of the pixels and the classes, in order."""
        pairs = zip(self.names, self.classes, strict=True)
        return _digest(f"{self._contents[name].hex()}\0{index}" for name, index in pairs)

    def files(self) -> Iterator[tuple[str, int, int]]:
        """Yield nothing."""
        return iter(())


class DatasetPictures:
    """Pictures that a ``tf.data.Dataset`` of (uint8 pixels, class, content) yields one by one.

    ``classes`` and ``contents``, a hash of each, are in the order of the data set. ``members`` is
    true for the pictures of this part; None stands for all. Members are places in the data set, so
    each pass over a part checks that the same pictures are there. ``typical_bytes`` is the size of
    one picture's pixels.
    """

    names = None

    def __init__(
        self, dataset: tf.data.Dataset, classes, contents, members=None, typical_bytes=3 * 224**2
    ):
        self._all_classes, self._contents, self._dataset = classes, contents, dataset
        self._members, self._typical_bytes = members, typical_bytes
        self.classes = classes if members is None else classes[members]

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def fingerprint(self) -> str:
        contents = self._contents if self._members is None else self._contents[self._members]
        pairs = zip(contents, self.classes, strict=True)
        return _digest(f"{content}\0{index}" for content, index in pairs)

    files = ArrayPictures.files

    def subset(self, indices: np.ndarray) -> DatasetPictures:
        """Return some of the pictures, in the order of the data set."""
        members = np.zeros(len(self._all_classes), dtype=bool)
        members[indices] = True
        return DatasetPictures(
            self._dataset, self._all_classes, self._contents, members, self._typical_bytes
        )

    def in_order(self) -> Readers:
        rows = self._dataset.as_numpy_iterator()
        for index, (pixels, picture_class, content) in enumerate(rows):
            if self._members is not None and content != self._contents[index]:
                raise ValueError(
                    "The data set yields its pictures in a different order each time, or changes "
                    "them, so validation pictures would leak into training. Pass "
                    "validation_data=, or make its shuffle use reshuffle_each_iteration=False. "
                    f"Received: another picture in place {index}"
                )
            if self._members is None or self._members[index]:
                yield functools.partial(np.asarray, pixels), int(picture_class)

    def shuffled(self, epoch: int, seed: int) -> Readers:
        """Yield the same in the order of an epoch, mixed within a buffer of about 256 MB."""
        size = max(_SHUFFLE_BYTES // self._typical_bytes, 256)
        generator, buffer = _generator(seed, epoch), []
        for picture in self.in_order():
            if len(buffer) < size:
                buffer.append(picture)
                continue
            place = generator.integers(size)
            buffer[place], picture = picture, buffer[place]
            yield picture
        for place in generator.permutation(len(buffer)):
            yield buffer[place]


def in_threads(function: Callable, items: Iterable, ahead: int = 64) -> Iterator:
    """Yield ``function(item)`` of each item, in order; threads work up to ``ahead`` items ahead.

    An error of the function is raised where its result would be.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting: collections.deque = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed % 2**64, epoch])


def _digest(lines) -> str:
    return hashlib.blake2b(
        "\n".join(lines).encode("utf-8", "surrogateescape"), digest_size=12
    ).hexdigest()
