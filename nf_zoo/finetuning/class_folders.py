"""Folders of labeled pictures: their classes, their files, and their split."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
)

_SPLITS = dict.fromkeys(("val", "valid", "validation"), "validation")
_SPLITS |= {"train": "train", "test": "test"}


class FolderError(ValueError):
    """A folder that cannot be used for training or evaluation; the message says why."""


@dataclasses.dataclass(frozen=True)
class ClassFolders:
    """The pictures of one level of class folders, class by class, sorted within each.

    Attributes:
        files: paths relative to ``root``, with forward slashes.
        classes: (len(files),) index into ``labels``.
        ignored: number of files passed over, by suffix (``".txt"``) or reason.
    """

    root: Path
    labels: tuple[str, ...]
    files: tuple[str, ...]
    classes: np.ndarray
    ignored: dict[str, int]


def find_splits(root: str | os.PathLike) -> dict[str, Path]:
    """Return the splits of a folder: ``{"train": root}`` or its train/, val/ and test/ folders.

    A folder counts as already split if every visible folder in it is named train, val (or valid,
    or validation) or test, and at least one is. The keys are train, validation and test.

    Raises:
        FolderError: if there is no such folder, it is a file, or two folders name one split.

    Example:
        >>> find_splits("flowers/")
        {'train': PosixPath('flowers')}
    """
    root, folders = _visible_folders(root)
    if not folders or any(folder.name.lower() not in _SPLITS for folder in folders):
        return {"train": root}
    splits: dict[str, Path] = {}
    for folder in folders:
        split = _SPLITS[folder.name.lower()]
        if split in splits:
            raise FolderError(
                f"Two folders of {root} could be the {split} split. Keep one of them. "
                f"Received: {splits[split].name}/ and {folder.name}/"
            )
        splits[split] = folder
    return splits


def scan(root: str | os.PathLike, labels: Sequence[str] | None = None) -> ClassFolders:
    """List the pictures of a folder of class folders; open none of them.

    Every visible folder of ``root`` is a class; folders nested in it belong to it. Hidden files
    and folders are passed over. Files without the suffix of a picture are counted as ignored.
    With ``labels``, their order is kept and a class may be empty.

    Raises:
        FolderError: if there is no such folder, there are fewer than two classes, a class folder
            has no picture, or (with ``labels``) a folder is not among the labels.

    Example:
        >>> scan("flowers/").labels
        ('daisy', 'rose')
    """
    root, folders = _visible_folders(root)
    names = [folder.name for folder in folders]
    ignored: collections.Counter[str] = collections.Counter()
    found = {name: _pictures_below(root / name, ignored) for name in names}
    stray = sorted(
        path.name for path in root.iterdir() if path.is_file() and _is_picture(path.name)
    )
    if stray and names:
        ignored["in no class folder"] += len(stray)
        warnings.warn(
            f"Pictures in {root} itself belong to no class and are ignored: {len(stray)} "
            f"({name_some(stray, 3)}).",
            stacklevel=3,
        )
    if labels is None:
        _check_classes(root, found)
        labels = names
    else:
        _check_against_labels(root, found, labels)
    files, classes = [], []
    for index, name in enumerate(labels):
        inside = sorted(Path(path).relative_to(root).as_posix() for path in found.get(name, ()))
        files += inside
        classes += [index] * len(inside)
    classes, ignored = np.array(classes, dtype=np.int64), dict(sorted(ignored.items()))
    return ClassFolders(root, tuple(labels), tuple(files), classes, ignored)


def stratified_split(
    names: Sequence[str], classes: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split pictures class by class, the same way on every machine.

    The split depends only on the names and the seed: the pictures of a class are ranked by a hash
    of both. A class of two pictures or more has at least one held out, and never all.

    Returns:
        Indices of the training pictures and of those held out, both ascending.

    Example:
        >>> train, held_out = stratified_split(["a", "b", "c"], np.array([0, 0, 1]), 0.5, seed=0)
        >>> len(train), len(held_out)
        (2, 1)
    """

    def rank(i: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{names[i]}".encode(), digest_size=16).digest()

    held_out = []
    for index in np.unique(classes):
        members = np.flatnonzero(classes == index)
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held_out += sorted(members, key=rank)[:count]
    held_out = np.array(sorted(held_out), dtype=np.int64)
    return np.setdiff1d(np.arange(len(names)), held_out), held_out


def _visible_folders(root) -> tuple[Path, list[Path]]:
    if not isinstance(root, (str, os.PathLike)):
        raise TypeError(
            "data must be a folder, a tf.data.Dataset of (picture, class) or 'tfds:name'. "
            f"Received: {root!r}"
        )
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "Expected a folder, not a file" if root.exists() else "There is no such folder"
        raise FolderError(
            f"{what}. Pass a folder that holds one folder of pictures for each class. "
            f"Received: {str(root)!r}"
        )
    folders = (path for path in root.iterdir() if path.is_dir() and not _is_hidden(path.name))
    return root, sorted(folders, key=lambda folder: folder.name)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in PICTURE_SUFFIXES and not _is_hidden(name)


def pictures_in(folder: str | os.PathLike) -> list[str]:
    """Return the paths of all pictures in a folder and its folders, sorted.

    Raises:
        FolderError: if there is no such folder, or no picture in it.
    """
    if not os.path.isdir(folder):
        raise FolderError(f"There is no such folder of pictures. Received: {folder}")
    if not (found := _pictures_below(folder, collections.Counter())):
        raise FolderError(f"There is no picture in the folder. Received: {folder}")
    return found


def _pictures_below(root: str | os.PathLike, ignored: collections.Counter[str]) -> list[str]:
    """Return the pictures below ``root``; count other files in ``ignored``, by suffix.

    Hidden files and folders are left out. Links are followed.
    """
    pictures, seen = [], set()
    for place, folders, files in os.walk(root, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in files:
            if _is_picture(name):
                pictures.append(os.path.join(place, name))
            elif not _is_hidden(name):
                ignored[Path(name).suffix.lower() or "no suffix"] += 1
    return sorted(pictures)


def _check_classes(root: Path, found: dict[str, list[str]]) -> None:
    if len(found) < 2:
        have = f"one class folder ({next(iter(found))}/)" if found else "no class folder"
        raise FolderError(
            "A classifier needs two classes or more: one folder of pictures for each, such as "
            f"{root.name}/cat/ and {root.name}/dog/. Received: {str(root)!r} with {have}"
        )
    if empty := [name for name, pictures in found.items() if not pictures]:
        raise FolderError(
            f"{len(empty)} of the {len(found)} class folders hold no picture "
            f"({', '.join(sorted(PICTURE_SUFFIXES))}). Fill or remove them. "
            f"Received: {str(root)!r} with empty {name_some(empty)}"
        )


def _check_against_labels(root: Path, found: dict[str, list[str]], labels: Sequence[str]) -> None:
    if unknown := sorted(set(found) - set(labels)):
        missing = sorted(set(labels) - set(found))
        raise FolderError(
            f"Class folders must be named after the {len(labels)} labels. "
            f"Folders that match no label: {name_some(unknown)}. "
            f"Labels without a folder: {name_some(missing) or 'none'}. "
            f"Received: {str(root)!r}"
        )
    if not any(found.values()):
        raise FolderError(f"There is no picture in any class folder. Received: {str(root)!r}")


def name_some(names: Sequence[str], most: int = 8) -> str:
    """Join up to ``most`` names with commas, and say how many are left out."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + rest
