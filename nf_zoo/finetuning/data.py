"""Whatever the user calls data -> labeled training, validation and test pictures."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nf_zoo.backend import is_tensorflow_dataset
from nf_zoo.finetuning import folder
from nf_zoo.finetuning.folder import FolderError
from nf_zoo.finetuning.pictures import DatasetPictures, FilePictures, verify

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass
class Data:
    """The pictures of a run.

    Attributes:
        labels: class names.
        train, validation, test: the pictures; ``test`` may be None.
        skipped: why a file could not be read, by name.
        ignored: number of files passed over, by suffix.
    """

    labels: tuple[str, ...]
    train: FilePictures | DatasetPictures
    validation: FilePictures | DatasetPictures
    test: FilePictures | DatasetPictures | None = None
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    ignored: dict[str, int] = dataclasses.field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Number of pictures of each split, and of those skipped."""
        test = {} if self.test is None else {"test": len(self.test)}
        return {
            "train": len(self.train),
            "validation": len(self.validation),
            **test,
            "skipped": len(self.skipped),
        }


def open_data(
    data,
    *,
    labels: Sequence[str] | None = None,
    validation_data=None,
    validation_fraction: float = 0.2,
    seed: int = 0,
    strict: bool = False,
) -> Data:
    """Find, check and split the pictures.

    Args:
        data: a folder, a ``tf.data.Dataset`` of (picture, class), or ``"tfds:name"``.
        labels: class names of a data set that is not a folder.
        validation_data: a folder or a ``tf.data.Dataset``; None takes the data's own validation
            split, or holds out ``validation_fraction`` of each class.
        validation_fraction: between 0 and 1.
        seed: decides which pictures are held out.
        strict: whether a file that cannot be read is an error.

    Returns:
        A :class:`Data`.

    Raises:
        FolderError: if a folder cannot be used as it is.
        TypeError, ValueError: if a data set does not give what is expected of it.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must lie between 0 and 1. Received: {validation_fraction}"
        )
    if is_tensorflow_dataset(data):
        splits, labels = {"train": data}, labels
    elif isinstance(data, str) and data.startswith("tfds:"):
        splits, labels = _tensorflow_dataset(data, labels)
    else:
        splits = folder.find_splits(data)
        if labels is not None:
            raise ValueError(
                "The names of class folders are the labels; leave labels out. "
                f"Received: labels={labels!r} with the folder {str(data)!r}"
            )
    if "train" not in splits:
        raise FolderError(f"There is no train/ folder. Received: {str(data)!r}")
    if validation_data is not None:
        splits["validation"] = validation_data
    opened = _open_splits(splits, labels, strict)
    if opened.validation is None:
        _hold_out(opened, validation_fraction, seed)
    _check_filled(opened)
    return opened


def open_one(data, labels: Sequence[str] | None, strict: bool = False):
    """The pictures of one folder or ``tf.data.Dataset``, for evaluation.

    Of a folder that is split, the test/ folder is taken, or else val/.

    Returns:
        The pictures, their labels, why files were skipped, and what was ignored.
    """
    if not is_tensorflow_dataset(data):
        splits = folder.find_splits(data)
        data = splits.get("test", splits.get("validation", splits.get("train")))
    return _open(data, labels, strict)


def _open_splits(splits: dict, labels, strict: bool) -> Data:
    opened = Data(labels=(), train=None, validation=None)
    for split in ("train", "validation", "test"):
        if split not in splits:
            continue
        pictures, labels, skipped, ignored = _open(splits[split], labels, strict)
        setattr(opened, split, pictures)
        prefix = "" if len(splits) == 1 else f"{split}/"
        opened.skipped |= {prefix + name: reason for name, reason in skipped.items()}
        for suffix, count in ignored.items():
            opened.ignored[suffix] = opened.ignored.get(suffix, 0) + count
    opened.labels = tuple(labels)
    return opened


def _open(data, labels: Sequence[str] | None, strict: bool):
    if is_tensorflow_dataset(data):
        pictures, labels = _open_dataset(data, labels)
        return pictures, labels, {}, {}
    found = folder.scan(data, labels)
    broken, cache = verify(found.root, found.files)
    _report_broken(found.root, broken, strict)
    keep = np.array([name not in broken for name in found.files], dtype=bool)
    names = [name for name in found.files if name not in broken]
    pictures = FilePictures(found.root, names, found.classes[keep], cache)
    return pictures, found.labels, broken, found.ignored


def _report_broken(root: Path, broken: dict[str, str], strict: bool) -> None:
    if not broken:
        return
    some = "; ".join(f"{name} ({reason})" for name, reason in list(broken.items())[:5])
    rest = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
    count = f"{len(broken)} file{'s' * (len(broken) > 1)} of {root} cannot be read as pictures"
    if strict:
        raise FolderError(f"{count}, and strict=True allows none: {some}{rest}")
    warnings.warn(f"{count} and will be skipped: {some}{rest}", stacklevel=5)


def _hold_out(opened: Data, fraction: float, seed: int) -> None:
    pictures = opened.train
    names = pictures.names or [str(i) for i in range(len(pictures))]
    if isinstance(pictures, DatasetPictures):
        _check_order(pictures)
    train, validation = folder.stratified_split(names, pictures.classes, fraction, seed)
    opened.train, opened.validation = pictures.subset(train), pictures.subset(validation)
    counts = np.bincount(pictures.classes, minlength=len(opened.labels))
    if single := [opened.labels[i] for i in np.flatnonzero(counts == 1)]:
        warnings.warn(
            "Classes of a single picture are trained on and cannot be validated: "
            + ", ".join(single[:8]),
            stacklevel=4,
        )


def _check_order(pictures: DatasetPictures) -> None:
    again = np.fromiter((int(c) for _, c in pictures.in_order()), dtype=np.int64)
    if not np.array_equal(again, pictures.classes):
        raise ValueError(
            "The data set gives its pictures in another order each time, so that validation "
            "pictures would leak into training. Pass validation_data=, or make its shuffle use "
            "reshuffle_each_iteration=False."
        )


def _check_filled(opened: Data) -> None:
    counts = np.bincount(opened.train.classes, minlength=len(opened.labels))
    if empty := [opened.labels[i] for i in np.flatnonzero(counts == 0)]:
        raise FolderError(
            f"No readable training picture of {len(empty)} of {len(opened.labels)} classes: "
            + ", ".join(empty[:8])
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
        spec = dataset.element_spec
    pixels, target = spec
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
    """Classes in order, and the size of a picture; refuses pixels that are not 0..255."""
    import tensorflow as tf

    def summary(pixels, target):
        wide = tf.cast(pixels, tf.float32)
        return target, tf.reduce_min(wide), tf.reduce_max(wide), tf.size(pixels)

    rows = list(dataset.map(summary, num_parallel_calls=tf.data.AUTOTUNE).as_numpy_iterator())
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
    splits = {name: loaded[name] for name in ("train", "validation", "test") if name in loaded}
    return splits, labels or info.features["label"].names
