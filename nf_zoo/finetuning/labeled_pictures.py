"""Find, check and split the labeled pictures of a run, in a folder or a data set."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nf_zoo.backend import is_tensorflow_dataset
from nf_zoo.finetuning import class_folders, picture_sets
from nf_zoo.finetuning.class_folders import FolderError, find_splits, name_some
from nf_zoo.finetuning.picture_sets import DatasetPictures, FilePictures, in_threads
from nf_zoo.finetuning.settings import Settings
from nf_zoo.pictures.images import load_image

if TYPE_CHECKING:
    import tensorflow as tf

_SPLITS = ("train", "validation", "test")
_LARGE = 4 * 2**20


@dataclasses.dataclass
class Data:
    """The pictures of a run.

    Attributes:
        skipped: reason why a file could not be read, by name.
        ignored: number of files passed over, by suffix.
    """

    labels: tuple[str, ...] = ()
    train: FilePictures | DatasetPictures | None = None
    validation: FilePictures | DatasetPictures | None = None
    test: FilePictures | DatasetPictures | None = None
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    ignored: dict[str, int] = dataclasses.field(default_factory=dict)

    def splits(self) -> dict[str, FilePictures | DatasetPictures]:
        """Return the pictures of each split that exists."""
        return {name: vars(self)[name] for name in _SPLITS if vars(self)[name] is not None}

    def counts(self) -> dict[str, int]:
        """Return the number of pictures in each split, and of skipped files."""
        sizes = {name: len(pictures) for name, pictures in self.splits().items()}
        return {**sizes, "skipped": len(self.skipped)}


def open_data(data, settings: Settings) -> Data:
    """Find, check and split the pictures.

    Uses labels, validation_data, validation_fraction, seed and strict of ``settings``.

    Raises:
        FolderError: if a folder cannot be used as it is.
        TypeError, ValueError: if a data set does not yield pictures and classes as expected.
    """
    labels = settings.labels
    if is_tensorflow_dataset(data):
        splits = {"train": data}
    elif isinstance(data, str) and data.startswith("tfds:"):
        splits, labels = _tensorflow_dataset(data, labels)
    else:
        splits = find_splits(data)
        if labels is not None:
            raise ValueError(
                "The names of class folders are the labels; leave labels out. "
                f"Received: labels={labels!r} with the folder {str(data)!r}"
            )
    if "train" not in splits:
        raise FolderError(f"There is no train/ folder. Received: {str(data)!r}")
    if settings.validation_data is not None:
        splits["validation"] = settings.validation_data
    opened = Data()
    # The training pictures come first: their labels hold for the other splits.
    for split in [name for name in _SPLITS if name in splits]:
        pictures, labels, skipped, ignored = _open(splits[split], labels, settings.strict)
        setattr(opened, split, pictures)
        prefix = "" if len(splits) == 1 else f"{split}/"
        opened.skipped |= {prefix + name: reason for name, reason in skipped.items()}
        for suffix, count in ignored.items():
            opened.ignored[suffix] = opened.ignored.get(suffix, 0) + count
    opened.labels = tuple(labels)
    if opened.validation is None:
        _hold_out(opened, settings)
    _check_filled(opened)
    return opened


def open_one(data, labels: Sequence[str] | None, strict: bool = False):
    """Return pictures and labels of one folder or data set, and the skipped and ignored files.

    If a folder is split, test/ is used, or else val/.
    """
    if not is_tensorflow_dataset(data):
        splits = find_splits(data)
        data = splits.get("test", splits.get("validation", splits.get("train")))
    return _open(data, labels, strict)


def _open(data, labels: Sequence[str] | None, strict: bool):
    if is_tensorflow_dataset(data):
        return *_open_dataset(data, labels), {}, {}
    found = class_folders.scan(data, labels)
    broken, cache = _verify(found.root, found.files)
    if broken:
        some = "; ".join(f"{name} ({reason})" for name, reason in list(broken.items())[:5])
        some += f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
        count = f"{len(broken)} file{'s' * (len(broken) > 1)} of {found.root} cannot be read"
        if strict:
            raise FolderError(f"{count} as pictures, and strict=True allows none: {some}")
        warnings.warn(f"{count} as pictures and will be skipped: {some}", stacklevel=3)
    keep = [index for index, name in enumerate(found.files) if name not in broken]
    pictures = FilePictures(found.root, found.files, found.classes, cache).subset(keep)
    return pictures, found.labels, broken, found.ignored


def _hold_out(opened: Data, settings: Settings) -> None:
    pictures = opened.train
    if pictures.names is None:
        again = np.fromiter((int(c) for _, c in pictures.in_order()), dtype=np.int64)
        if not np.array_equal(again, pictures.classes):
            raise ValueError(
                "The data set yields its pictures in a different order each time, so validation "
                "pictures would leak into training. Pass validation_data=, or make its shuffle "
                "use reshuffle_each_iteration=False."
            )
    names = pictures.names or [str(i) for i in range(len(pictures))]
    fraction, seed = settings.validation_fraction, settings.seed
    train, validation = class_folders.stratified_split(names, pictures.classes, fraction, seed)
    opened.train, opened.validation = pictures.subset(train), pictures.subset(validation)
    if single := _of_so_many(opened.labels, pictures, 1):
        warnings.warn(
            "Classes with a single picture are trained on and cannot be validated: "
            f"{name_some(single)}",
            stacklevel=3,
        )


def _of_so_many(labels: Sequence[str], pictures, count: int) -> list[str]:
    counts = np.bincount(pictures.classes, minlength=len(labels))
    return [labels[i] for i in np.flatnonzero(counts == count)]


def _check_filled(opened: Data) -> None:
    if empty := _of_so_many(opened.labels, opened.train, 0):
        raise FolderError(
            f"{len(empty)} of {len(opened.labels)} classes have no readable training picture: "
            f"{name_some(empty)}"
        )
    if not len(opened.validation):
        raise FolderError(
            "No picture is left for validation. Give at least one class two pictures or more, or "
            f"pass validation_data=. Received: {len(opened.train)} training pictures"
        )


def _open_dataset(dataset: tf.data.Dataset, labels: Sequence[str] | None):
    import tensorflow as tf

    dataset = _as_pictures(dataset)
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("The data set never ends. Take a number of pictures: dataset.take(n).")
    classes, typical_bytes = _count(dataset)
    if labels is None:
        labels = tuple(str(i) for i in range(int(classes.max()) + 1))
    if classes.min() < 0 or classes.max() >= len(labels):
        raise ValueError(
            f"Classes must be 0..{len(labels) - 1}, one for each label. Received: classes from "
            f"{classes.min()} to {classes.max()} with {len(labels)} labels"
        )
    if len(labels) < 2:
        raise ValueError(f"A classifier needs two classes or more. Received: {list(labels)}")
    pictures = DatasetPictures(dataset.map(_to_uint8), classes, None, typical_bytes)
    return pictures, tuple(map(str, labels))


def _as_pictures(dataset: tf.data.Dataset) -> tf.data.Dataset:
    import tensorflow as tf

    spec = dataset.element_spec
    if not (isinstance(spec, tuple) and len(spec) == 2 and hasattr(spec[0], "shape")):
        raise TypeError(f"The data set must yield (picture, class). Received: {spec}")
    if spec[0].shape.rank == 4:
        dataset = dataset.unbatch()
    pixels, target = dataset.element_spec
    numeric = pixels.dtype == tf.uint8 or pixels.dtype.is_floating
    if pixels.shape.rank != 3 or pixels.shape[-1] not in (1, 3, None) or not numeric:
        raise TypeError(
            "Pictures must be (height, width, 3) or (height, width, 1), uint8 or float 0..255, one "
            f"by one or in batches. Received: {pixels}"
        )
    if target.shape.rank not in (0, 1) or not (target.dtype.is_integer or target.shape.rank == 1):
        raise TypeError(f"Classes must be integers or one-hot vectors. Received: {target}")
    if target.shape.rank == 1:
        dataset = dataset.map(lambda pixels, target: (pixels, tf.argmax(target)))
    return dataset


def _count(dataset: tf.data.Dataset) -> tuple[np.ndarray, int]:
    """Return the classes in order and the mean size of a picture; check that pixels are 0..255."""
    import tensorflow as tf

    def summary(pixels, target):
        wide = tf.cast(pixels, tf.float32)
        return target, tf.reduce_min(wide), tf.reduce_max(wide), tf.size(pixels)

    rows = list(dataset.map(summary, tf.data.AUTOTUNE).as_numpy_iterator())
    if not rows:
        raise ValueError("The data set is empty.")
    classes, low, high, sizes = map(np.array, zip(*rows, strict=True))
    fractions = dataset.element_spec[0].dtype.is_floating and high.max() <= 1
    if low.min() < 0 or high.max() > 255.5 or fractions:
        raise ValueError(
            "Pixels must run from 0 to 255; finetune scales and normalizes them itself. Received: "
            f"pixels from {low.min():.4g} to {high.max():.4g}"
        )
    return classes.astype(np.int64), int(sizes.mean())


def _to_uint8(pixels, target):
    import tensorflow as tf

    if pixels.dtype != tf.uint8:
        pixels = tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)
    if pixels.shape[-1] != 3:
        pixels = tf.repeat(pixels, 3 // tf.shape(pixels)[-1], axis=-1)
    return tf.ensure_shape(pixels, (None, None, 3)), tf.cast(target, tf.int64)


def _tensorflow_dataset(data: str, labels: Sequence[str] | None):
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            "Data sets by name need tensorflow-datasets: pip install 'nf-zoo[training]'. "
            f"Received: {data!r}"
        ) from error
    loaded, info = tfds.load(data.removeprefix("tfds:"), as_supervised=True, with_info=True)
    if "train" not in loaded:
        raise ValueError(f"{data} has no train split. Received: splits {sorted(loaded)}")
    splits = {name: loaded[name] for name in _SPLITS if name in loaded}
    return splits, labels or info.features["label"].names


def _verify(root: Path, names: Sequence[str]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Decode every picture once, so that a broken one is found at the start, not hours later.

    Returns:
        The reason for each broken file, by name; and pixels, by name. No pixels are kept if they
        take more than ``CACHE_BYTES`` in all, nor those of a picture above 4 MB.
    """

    def look(name: str) -> np.ndarray | str | None:
        try:
            pixels = load_image(root / name)
        except Exception as error:
            return f"{type(error).__name__}: {error}".replace(str(root / name), name)
        return pixels if pixels.nbytes <= _LARGE else None

    broken, kept, total = {}, {}, 0
    for name, found in zip(names, in_threads(look, names), strict=True):
        if isinstance(found, str):
            broken[name] = found
        elif found is not None:
            total += found.nbytes
            kept[name] = found
            if total > picture_sets.CACHE_BYTES:
                kept.clear()
    return broken, kept
