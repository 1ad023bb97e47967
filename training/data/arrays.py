"""Sets of small pictures, decoded once and kept in memory: CIFAR-10, Tiny ImageNet."""

from __future__ import annotations

import io
import itertools
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

import numpy as np

import nf_zoo
from nf_zoo.pictures.images import load_image, resize_and_crop
from training.augmentation import augmentation_of
from training.data.order import Order, Share, evaluation_rows
from training.recipe import RecipeError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
KEYS = ("train_images", "train_classes", "test_images", "test_classes", "labels")


class ArrayPictures:
    """Training and test pictures in memory, each (images (N, H, W, 3) uint8, classes (N,))."""

    def __init__(self, train, test, labels):
        self.labels = tuple(labels)
        self.train, self.test = train, test
        self.train_size, self.test_size = len(train[1]), len(test[1])

    def fewer(self, per_class: int, seed: int) -> ArrayPictures:
        """Return the same test pictures, and ``per_class`` training pictures of each class."""
        images, classes = self.train
        counts = np.bincount(classes, minlength=len(self.labels))
        if counts.min() < per_class:
            raise RecipeError(
                f"The class {self.labels[int(counts.argmin())]!r} has only {counts.min()} training "
                f"pictures. Received: data.train_per_class={per_class}"
            )
        generator = np.random.default_rng(seed)
        chosen = [
            generator.choice(np.flatnonzero(classes == one), per_class, replace=False)
            for one in range(len(self.labels))
        ]
        rows = np.sort(np.concatenate(chosen))
        return ArrayPictures((images[rows], classes[rows]), self.test, self.labels)

    def train_rows(self, recipe, share: Share, first_step: int) -> Iterator[tuple]:
        """Yield (rows of ``train``, classes, draws) of one replica after the other, endlessly."""
        classes = self.train[1].astype("int32")
        order = Order(recipe.seed, self.train_size, recipe.batch_size)
        augment = augmentation_of(recipe)
        for step in itertools.count(first_step):
            for replica in range(share.replicas):
                first, count = share.first(replica), share.replica_batch
                rows = order.indices(step, first, count)
                yield rows, classes[rows], augment.draws(step, first, count)

    def train_batches(self, recipe, share: Share, first_step: int) -> Iterator[tuple]:
        """Yield (images, classes, draws) of one replica after the other, endlessly."""
        for rows, classes, draws in self.train_rows(recipe, share, first_step):
            yield self.train[0][rows], classes, draws

    def test_batches(self, recipe, share: Share) -> Iterator[tuple]:
        """Yield (images, classes, weights) of this host."""
        images, classes = self.test
        rows = recipe.evaluation.batch_size
        for indices, weights in evaluation_rows(self.test_size, share, rows):
            yield images[indices], classes[indices].astype("int32"), weights


def read_arrays(path: str | Path) -> ArrayPictures:
    """Read the pictures of an .npz file made by ``python -m training.prepare``."""
    try:
        with np.load(path, allow_pickle=False) as file:
            values = [file[key] for key in KEYS]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RecipeError(
            f"The source must be an .npz file with {', '.join(KEYS)}; python -m training.prepare "
            f"makes one ({error}). Received: {path}"
        ) from error
    return ArrayPictures(values[:2], values[2:4], [str(label) for label in values[4]])


def read_pictures(source: str, train: str, test: str, size: int) -> ArrayPictures:
    """Decode SPLIT/CLASS/picture of a folder or tar archive, or several (``"sets/*.tar.xz"``).

    Pictures of another size are resized and cropped to ``size`` pixels.
    """
    splits: dict[str, dict[tuple[str, str], np.ndarray]] = {train: {}, test: {}}

    def decoded(row):
        return row[0], _decode(*row, size)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        for (split, *key), pixels in pool.map(decoded, _contents(source, splits)):
            if splits[split].setdefault(tuple(key), pixels) is not pixels:
                raise RecipeError(
                    "Pictures of one class must have different names, also in several folders or "
                    f"archives. Received: {split}/{'/'.join(key)} twice in data.source={source}"
                )
    for split, pictures in splits.items():
        if not pictures:
            raise RecipeError(
                f"No picture {split}/CLASS/NAME was found. Received: data.source={source}"
            )
    labels = sorted({label for pictures in splits.values() for label, _ in pictures})
    arrays = []
    for pictures in (splits[train], splits[test]):
        keys = sorted(pictures)
        classes = np.array([labels.index(label) for label, _ in keys], "int32")
        arrays.append((np.stack([pictures[key] for key in keys]), classes))
    return ArrayPictures(*arrays, labels)


def _contents(source: str, splits) -> Iterator[tuple[tuple[str, str, str], bytes]]:
    """Yield ((split, class, file name), encoded picture)."""
    paths = [Path(path) for path in sorted(glob(source))]
    if not paths:
        raise RecipeError(f"There is no such folder or archive. Received: data.source={source}")
    for path in paths:
        if path.is_dir():
            for file in sorted(path.glob("*/*/*")):
                if _is_picture(key := file.parts[-3:], splits):
                    yield key, file.read_bytes()
            continue
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    key = Path(member.name).parts[-3:]
                    if member.isfile() and len(key) == 3 and _is_picture(key, splits):
                        yield key, archive.extractfile(member).read()
                _check_end(archive)
        except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise RecipeError(
                f"The source must be a folder or a whole tar archive ({error}). "
                f"Received: data.source={path}"
            ) from error


def _check_end(archive: tarfile.TarFile) -> None:
    """Raise ``TarError`` for an archive that was cut short, which ``tarfile`` reads as whole.

    That of a compressed one is found when it is unpacked.
    """
    if isinstance(archive.fileobj, io.BufferedReader):
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.TarError("it is cut short or damaged")


def _is_picture(key: tuple[str, str, str], splits) -> bool:
    """Return True for the file of a picture, and not one that macOS hides beside it."""
    split, _, name = key
    return split in splits and name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _decode(key, encoded: bytes, size: int) -> np.ndarray:
    try:
        pixels = load_image(encoded)
    except ValueError as error:
        raise RecipeError(f"A picture cannot be read: {'/'.join(key)} ({error})") from error
    if pixels.shape[:2] != (size, size):
        geometry = nf_zoo.Preprocessing(input_size=size, crop_fraction=1.0)
        return resize_and_crop(pixels, geometry)
    return pixels
