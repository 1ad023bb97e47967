"""Find, check and split the labeled pictures of a run, in a folder or a data set."""

from __future__ import annotations

import collections
import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nf_zoo.backend import is_tensorflow_dataset
from nf_zoo.extras import require
from nf_zoo.finetuning.picture_checks import Picture, check_files, compare, digest
from nf_zoo.finetuning.picture_sets import ArrayPictures, DatasetPictures, FilePictures
from nf_zoo.finetuning.settings import Settings
from nf_zoo.pictures import class_folders
from nf_zoo.pictures.class_folders import FolderError, find_splits, name_counts, name_some
from nf_zoo.pictures.images import load_images

if TYPE_CHECKING:
    import tensorflow as tf

_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass
class Data:
    """The pictures of a run."""

    labels: tuple[str, ...] = ()
    train: FilePictures | DatasetPictures | None = None
    validation: FilePictures | DatasetPictures | None = None
    test: FilePictures | DatasetPictures | None = None
    # reason why a file could not be read, by name
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    # number of files passed over, by suffix or reason
    ignored: dict[str, int] = dataclasses.field(default_factory=dict)
    # names of pictures that look wrong, or lists of copies, by kind: see
    # ``nf_zoo.finetuning.picture_checks``
    findings: dict[str, list] = dataclasses.field(default_factory=dict)
    held_out: bool = False  # the validation pictures were taken from the training pictures

    def splits(self) -> dict[str, FilePictures | DatasetPictures]:
        """Return the pictures of each split that exists."""
        return {name: vars(self)[name] for name in _SPLITS if vars(self)[name] is not None}

    def counts(self) -> dict[str, int]:
        """Return the number of pictures in each split, and of skipped files."""
        sizes = {name: len(pictures) for name, pictures in self.splits().items()}
        return {**sizes, "skipped": len(self.skipped)}

    def in_words(self) -> str:
        """Return the classes with their numbers of pictures, and the counts, in two lines."""
        sizes = sum(
            np.bincount(pictures.classes, minlength=len(self.labels))
            for pictures in self.splits().values()
        )
        classes = [f"{label} {size:,}" for label, size in zip(self.labels, sizes, strict=True)]
        counts = ", ".join(f"{count:,} {split}" for split, count in self.counts().items() if count)
        if self.ignored:
            counts += f"; files ignored: {name_counts(self.ignored)}"
        return f"{len(classes)} classes: {name_some(classes, 40)}\npictures: {counts}"


class _Opened(NamedTuple):
    """One split: ``contents`` tells copies apart from others, in the order of the pictures."""

    pictures: FilePictures | DatasetPictures
    labels: tuple[str, ...]
    skipped: dict[str, str] = {}
    ignored: dict[str, int] = {}
    findings: dict[str, list] = {}
    contents: Sequence = ()


def open_data(data, settings: Settings) -> Data:
    """Find, check and split the pictures.

    Uses labels, validation_data, validation_fraction, seed and strict of ``settings``.
    """
    labels = settings.labels
    if is_tensorflow_dataset(data) or _is_pair(data):
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
        raise FolderError(
            "There is no train/ folder: add one, or pass a folder that holds one folder of "
            f"pictures for each class. Received: {str(data)!r}"
        )
    if settings.validation_data is not None:
        splits["validation"] = settings.validation_data
    opened, ignored, compared = Data(), collections.Counter(), []
    # The training pictures come first: their labels hold for the other splits.
    for split in [name for name in _SPLITS if name in splits]:
        source = splits[split]
        if split == "test" and isinstance(source, Path):
            unlabeled = class_folders.count_unlabeled(source, labels)
            if unlabeled is not None:
                ignored[f"in {source.name}/, without a class"] = unlabeled
                continue
        try:
            part = _open(source, labels, settings.strict)
        except _Unlabeled as error:
            if split != "test":
                raise
            warnings.warn(f"The test split is ignored. {error}", stacklevel=2)
            ignored["in test, without a class"] = error.count
            continue
        labels = part.labels
        setattr(opened, split, part.pictures)
        prefix = "" if len(splits) == 1 else f"{split}/"
        opened.skipped |= {prefix + name: reason for name, reason in part.skipped.items()}
        ignored.update(part.ignored)
        for kind, names in part.findings.items():
            opened.findings.setdefault(kind, []).extend(prefix + name for name in names)
        names = part.pictures.names or map(str, range(len(part.pictures)))
        rows = zip(names, part.pictures.classes, part.contents, strict=True)
        compared += [Picture(split, prefix + name, labels[c], content) for name, c, content in rows]
    opened.labels, opened.ignored = tuple(labels), dict(ignored)
    opened.findings |= compare(compared)
    if opened.validation is None:
        _hold_out(opened, settings, [row.content for row in compared if row.split == "train"])
    _check_filled(opened)
    return opened


def open_one(data, labels: Sequence[str] | None, strict: bool = False):
    """Return pictures and labels of one folder or data set, and the skipped and ignored files.

    If a folder is split, test/ is used, or else val/.
    """
    if not (is_tensorflow_dataset(data) or _is_pair(data)):
        splits = find_splits(data)
        if labels is not None and {"validation", "test"} <= set(splits):
            unlabeled = class_folders.count_unlabeled(splits["test"], labels)
            if unlabeled is not None:
                del splits["test"]
        data = splits.get("test", splits.get("validation", splits.get("train")))
    return _open(data, labels, strict)[:4]


def _open(data, labels: Sequence[str] | None, strict: bool) -> _Opened:
    if is_tensorflow_dataset(data):
        return _open_dataset(data, labels)
    if _is_pair(data):
        return _open_pair(*data, labels, strict)
    found = class_folders.scan(data, labels)
    return _open_files(found.root, found.files, found.classes, found.labels, strict, found.ignored)


def _open_files(root: Path, names, classes, labels, strict: bool, ignored=None) -> _Opened:
    checked = check_files(root, names, strict)
    keep = [index for index, name in enumerate(names) if name in checked.contents]
    pictures = FilePictures(root, names, classes, checked.cache).subset(keep)
    contents = [checked.contents[name] for name in pictures.names]
    return _Opened(pictures, labels, checked.skipped, ignored or {}, checked.findings, contents)


def _is_pair(data) -> bool:
    """Check for (pictures, classes): two lists or arrays."""
    pair = isinstance(data, tuple | list) and len(data) == 2
    return pair and not any(isinstance(part, str | os.PathLike) for part in data)


def _open_pair(sources, targets, labels: Sequence[str] | None, strict: bool) -> _Opened:
    classes, labels = _classes_of(targets, labels)
    if getattr(sources, "ndim", None) == 1:  # an array, or a column of a table
        sources = sources.tolist()
    if isinstance(sources, tuple | list) and all(
        isinstance(source, str | os.PathLike) for source in sources
    ):
        names = [Path(source).expanduser().as_posix() for source in sources]
        _check_length(names, classes)
        return _open_files(Path.cwd(), names, classes, labels, strict)
    pixels = list(load_images(list(sources) if isinstance(sources, tuple) else sources))
    _check_length(pixels, classes)
    contents = [digest(picture) for picture in pixels]
    return _Opened(ArrayPictures(pixels, classes, contents), labels, contents=contents)


def _check_length(pictures: Sequence, classes: np.ndarray) -> None:
    if len(pictures) != len(classes) or not len(classes):
        raise ValueError(
            "There must be one class for each picture, and at least one. "
            f"Received: {len(pictures)} pictures and {len(classes)} classes"
        )


def _classes_of(targets, labels: Sequence[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the index of each class, given as a name, an index or a one-hot row; and labels."""
    targets = np.asarray(targets)
    if targets.dtype == object:  # as a column of a table may be
        targets = _of_one_kind(targets.tolist())
    if targets.ndim == 2 and targets.shape[1] > 1:
        _check_each(np.count_nonzero(targets, axis=1) == 1)
        targets = targets.argmax(axis=1)
    targets = targets.reshape(-1)
    if targets.dtype.kind == "f" and np.all(targets == np.round(targets)):
        targets = targets.astype(np.int64)
    if targets.dtype.kind == "S":
        targets = np.char.decode(targets, "utf-8")
    if targets.dtype.kind == "U":
        names = targets.tolist()
        labels = tuple(sorted(set(names)) if labels is None else labels)
        if unknown := sorted(set(names) - set(labels)):
            raise ValueError(
                f"Classes must be among the {len(labels)} labels, {name_some(labels)}. "
                f"Received: {name_some(unknown)}"
            )
        targets = np.array([labels.index(name) for name in names], np.int64)
    elif targets.dtype.kind not in "iub":
        raise TypeError(
            "Classes must be names, integers or one-hot rows, one for each picture. "
            f"Received: an array of {targets.dtype}"
        )
    return targets.astype(np.int64), _labels_for(targets, labels)


def _of_one_kind(values: list) -> np.ndarray:
    """Return an array, without the text that NumPy makes of a NaN among names."""
    array = np.array(values)
    if array.dtype.kind in "US":
        _check_each(np.array([isinstance(value, str | bytes) for value in values]))
    return array


class _Unlabeled(ValueError):
    """No picture of a split has a class; ``count`` is their number."""

    count = 0


def _check_each(has_class: np.ndarray) -> None:
    """Check that every picture has a class, given whether each one has."""
    if not has_class.all():
        without = [str(i) for i in np.flatnonzero(~has_class)]
        error = (ValueError if has_class.any() else _Unlabeled)(
            "Every picture must have one class: a name, a number from 0, or a one-hot row, of "
            "which one entry is not 0. Received: something else for the pictures "
            f"{name_some(without)}, counted from 0"
        )
        error.count = len(without)
        raise error


def _labels_for(classes: np.ndarray, labels: Sequence[str] | None) -> tuple[str, ...]:
    """Return the labels, by default the numbers, after a check that they suit the classes."""
    if labels is None:
        labels = tuple(str(i) for i in range(int(max(classes, default=0)) + 1))
    if len(classes) and not 0 <= min(classes) <= max(classes) < len(labels):
        raise ValueError(
            f"Classes must be 0..{len(labels) - 1}, one for each label. Received: classes from "
            f"{min(classes)} to {max(classes)} with {len(labels)} labels"
        )
    if len(labels) < 2:
        raise ValueError(f"A classifier needs two classes or more. Received: {list(labels)}")
    labels = tuple(map(str, labels))
    class_folders.check_names(labels)
    return labels


def _hold_out(opened: Data, settings: Settings, contents: Sequence) -> None:
    pictures = opened.train
    names = pictures.names or [str(i) for i in range(len(pictures))]
    train, validation = class_folders.stratified_split(
        names, pictures.classes, settings.validation_fraction, settings.seed, contents
    )
    opened.train, opened.validation = pictures.subset(train), pictures.subset(validation)
    opened.held_out = True
    if pictures.names is None:  # a second pass, which a data set may begin elsewhere
        collections.deque(opened.train.in_order(), maxlen=0)
    missing = set(_of_so_many(opened.labels, pictures, 0))
    if single := [x for x in _of_so_many(opened.labels, opened.validation, 0) if x not in missing]:
        warnings.warn(
            "Classes with a single picture, or copies of one, are trained on and cannot be "
            f"validated: {name_some(single)}",
            stacklevel=3,
        )


def _of_so_many(labels: Sequence[str], pictures, count: int) -> list[str]:
    counts = np.bincount(pictures.classes, minlength=len(labels))
    return [labels[i] for i in np.flatnonzero(counts == count)]


def _check_filled(opened: Data) -> None:
    if not len(opened.train):
        raise FolderError(
            f"No training picture can be read. Received: {len(opened.skipped)} files, such as "
            f"{name_some(list(opened.skipped), 2)}"
        )
    if empty := _of_so_many(opened.labels, opened.train, 0):
        counted = " (classes are counted from 0)" if empty[0] == "0" else ""
        raise FolderError(
            f"{len(empty)} of {len(opened.labels)} classes have no readable training picture"
            f"{counted}: {name_some(empty)}. Add pictures, or leave these classes out"
        )
    if not len(opened.validation):
        raise FolderError(
            "No picture is left for validation. Give at least one class two pictures or more, or "
            f"pass validation_data=. Received: {len(opened.train)} training pictures"
        )


def _open_dataset(source: tf.data.Dataset, labels: Sequence[str] | None) -> _Opened:
    import tensorflow as tf

    dataset = _as_pictures(source)
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("The data set never ends. Take a number of pictures: dataset.take(n).")
    classes, typical_bytes, contents = _count(dataset)
    own = getattr(source, "class_names", None)
    if own is not None and labels is not None and list(own) != list(labels):
        if set(own) - set(labels):
            raise ValueError(
                f"The data set's class_names must be among the labels, {name_some(labels)}. "
                f"Received: {name_some(own)}"
            )
        order = np.array([list(labels).index(name) for name in own])
        classes = order[classes]
        dataset = dataset.map(lambda pixels, target: (pixels, tf.gather(order, target)))
    labels = _labels_for(classes, own if labels is None else labels)
    pictures = DatasetPictures(dataset.map(_prepared), classes, contents, None, typical_bytes)
    return _Opened(pictures, labels, contents=contents.tolist())


def _as_pictures(dataset: tf.data.Dataset) -> tf.data.Dataset:
    import tensorflow as tf

    spec = dataset.element_spec
    is_pair = isinstance(spec, tuple) and len(spec) == 2
    if not (is_pair and all(hasattr(part, "shape") for part in spec)):
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
    if target.shape.rank == 1 and target.shape[0] == 1:
        # label_mode="binary" of Keras's image_dataset_from_directory.
        dataset = dataset.map(lambda pixels, target: (pixels, tf.cast(target[0], tf.int64)))
        target = dataset.element_spec[1]
    if target.shape.rank not in (0, 1) or not (target.dtype.is_integer or target.shape.rank == 1):
        raise TypeError(f"Classes must be integers or one-hot vectors. Received: {target}")
    if target.shape.rank == 1:
        dataset = dataset.map(lambda pixels, target: (pixels, _place_in(target)))
    return dataset


def _place_in(row):
    """Return the place of the one entry that is not 0, or -1 if there is not one."""
    import tensorflow as tf

    none = tf.constant(-1, tf.int64)
    return tf.where(tf.math.count_nonzero(row) == 1, tf.argmax(row), none)


def _count(dataset: tf.data.Dataset) -> tuple[np.ndarray, int, np.ndarray]:
    """Return the classes in order, the mean size of a picture, and a hash of each one's pixels."""
    import tensorflow as tf

    def summary(pixels, target):
        wide = tf.cast(pixels, tf.float32)
        finite = tf.reduce_all(tf.math.is_finite(wide))
        low, high = tf.reduce_min(wide), tf.where(finite, tf.reduce_max(wide), float("nan"))
        return *_prepared(pixels, target)[1:], low, high, tf.size(pixels)

    rows = list(dataset.map(summary, tf.data.AUTOTUNE).as_numpy_iterator())
    if not rows:
        raise ValueError("The data set is empty.")
    classes, contents, low, high, sizes = map(np.array, zip(*rows, strict=True))
    _check_each(classes >= 0)
    fractions = dataset.element_spec[0].dtype.is_floating and high.max() <= 1
    if not (low.min() >= 0 and high.max() <= 255.5) or fractions:
        raise ValueError(
            "Pixels must run from 0 to 255; finetune scales and normalizes them itself. Received: "
            f"pixels from {low.min():.4g} to {high.max():.4g}"
        )
    return classes.astype(np.int64), int(sizes.mean()), contents


def _prepared(pixels, target):
    """Return uint8 pixels (H, W, 3), an int64 class, and a hash of the pixels."""
    import tensorflow as tf

    if pixels.dtype != tf.uint8:
        pixels = tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)
    if pixels.shape[-1] != 3:
        pixels = tf.repeat(pixels, 3 // tf.shape(pixels)[-1], axis=-1)
    content = tf.strings.to_hash_bucket_strong(tf.io.serialize_tensor(pixels), 2**62, (0, 0))
    return tf.ensure_shape(pixels, (None, None, 3)), tf.cast(target, tf.int64), content


def _tensorflow_dataset(data: str, labels: Sequence[str] | None):
    tfds = require("tensorflow_datasets", f"Data sets by name, such as {data!r},")
    loaded, info = tfds.load(data.removeprefix("tfds:"), as_supervised=True, with_info=True)
    if "train" not in loaded:
        raise ValueError(f"{data} has no train split. Received: splits {sorted(loaded)}")
    found = {"validation" if name == "val" else name: part for name, part in loaded.items()}
    splits = {name: found[name] for name in _SPLITS if name in found}
    return splits, labels or info.features[info.supervised_keys[1]].names
