"""Folders of labeled pictures: their classes, their files, and their split."""

import collections
import dataclasses
import hashlib
import os
import re
import reprlib
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
    | {".avif", ".heic", ".heif"}
)

_SPLIT = re.compile(
    "(?:(?P<train>train(?:ing)?)|(?P<validation>val(?:id(?:ation)?)?|dev)|(?P<test>test(?:ing)?))"
    "(?:[ _-]?(?:set|data|images))?",
    re.IGNORECASE,
)
_NOT_THE_USERS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found"}
_STARTS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|II\*\0|MM\0\*|BM.{4}\0{4}|RIFF.{4}WEBP"
    rb"|.{4}ftyp(?:avi|hei|hev|mif)",
    re.DOTALL,
)
_NOT_IN_ONE_LINE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class FolderError(ValueError):
    """A folder that cannot be used for training or evaluation; the message says why."""


@dataclasses.dataclass(frozen=True)
class ClassFolders:
    """The pictures of one level of class folders, class by class, sorted within each."""

    root: Path
    labels: tuple[str, ...]
    files: tuple[str, ...]  # paths relative to ``root``, with forward slashes
    classes: np.ndarray  # (len(files),) index into ``labels``
    ignored: dict[str, int]  # number of files passed over, by suffix (``".txt"``) or reason


def find_splits(root: str | os.PathLike) -> dict[str, Path]:
    """Return the splits of a folder: ``{"train": root}`` or its train/, val/ and test/ folders.

    A folder counts as already split if the names of all visible folders in it are those of splits:
    train or training; val, valid, validation or dev; test or testing. Case does not matter, and
    ``set``, ``data`` or ``images`` may follow. If there are two splits, and train/ holds only
    folders or shares one with another split, other folders are ignored, with a warning. The keys
    are train, validation and test.
    """
    root, folders = _visible_folders(root)
    splits: dict[str, Path] = {}
    others, twice = [], []
    for folder in folders:
        if not (match := _SPLIT.fullmatch(folder.name)):
            others.append(folder.name)
        elif splits.setdefault(match.lastgroup, folder) != folder:
            twice.append((match.lastgroup, folder))
    sure = "train" in splits and len(splits) > 1
    if sure:
        place, inside, files = _listed(splits["train"])
        stray = _sort_out(place, inside, files, collections.Counter())
        rest = [folder for split, folder in splits.items() if split != "train"]
        shared = any(set(inside) & set(_listed(folder)[1]) for folder in rest)
        sure = shared or (not stray and len(inside) > 1)
    if not splits or (others and not sure):
        return {"train": root}
    for split, folder in twice:
        raise FolderError(
            f"Two folders of {root} could be the {split} split. Keep one of them. "
            f"Received: {splits[split].name}/ and {folder.name}/"
        )
    if others:
        warnings.warn(
            f"{root} holds the splits {name_some([path.name for path in splits.values()])}. Its "
            f"other folders are ignored: {name_some(others)}",
            stacklevel=3,
        )
    return splits


def scan(root: str | os.PathLike, labels: Sequence[str] | None = None) -> ClassFolders:
    """List the pictures of a folder of class folders, by their names.

    Every visible folder of ``root`` is a class; folders nested in it belong to it, and links are
    followed. Files of other kinds, hidden pictures, and pictures in hidden folders, those of
    thumbnails (``@eaDir``, ``__MACOSX``) and those of runs are counted as ignored. A file without
    a suffix is a picture if it starts like one. With ``labels``, their order is kept and a class
    may be empty; a folder matches its label in any form of Unicode.
    """
    root, folders = _visible_folders(root)
    ignored: collections.Counter[str] = collections.Counter()
    stray = _sort_out(*_listed(root), ignored)
    if stray and folders:
        ignored["in no class folder"] += len(stray)
        warnings.warn(
            f"Pictures in {root} itself belong to no class and are ignored: {len(stray)} "
            f"({name_some(sorted(stray), 3)}).",
            stacklevel=3,
        )
    by_key = {_key(label): label for label in labels or ()}
    found: dict[str, list[str]] = {}
    for folder in folders:
        name = folder.name
        if labels is not None and name not in labels:
            name = by_key.get(_key(name), name)
        inside = _pictures_below(folder, ignored, root)
        found.setdefault(name, []).extend(path.relative_to(root).as_posix() for path in inside)
    if labels is None:
        check_names(list(found))
        _check_classes(root, found)
        labels = list(found)
    else:
        _check_against_labels(root, found, labels)
    files, classes = [], []
    for index, name in enumerate(labels):
        inside = sorted(found.get(name, ()))
        files += inside
        classes += [index] * len(inside)
    classes, ignored = np.array(classes, dtype=np.int64), dict(sorted(ignored.items()))
    return ClassFolders(root, tuple(labels), tuple(files), classes, ignored)


def count_unlabeled(folder: Path, labels: Sequence[str]) -> int | None:
    """Return the number of pictures of a split without classes, with a warning; else None.

    Such a folder is flat, or has all pictures in one folder that is no label.
    """
    inside = [path.name for path in _visible_folders(folder)[1]]
    known = set(map(_key, labels))
    if len(inside) > 1 or any(_key(name) in known for name in inside):
        return None
    count = len(_pictures_below(folder, collections.Counter()))
    warnings.warn(
        f"{folder} does not have a folder for each class, so its pictures have no class and are "
        f"ignored: {count}",
        stacklevel=3,
    )
    return count


def check_lines(labels: Sequence[str]) -> None:
    """Check that class names can be written one a line, as in labels.txt."""
    if broken := [label for label in map(str, labels) if _NOT_IN_ONE_LINE.search(label)]:
        raise ValueError(
            "Class names must be text of one line, without control characters and bytes that are "
            f"not UTF-8. Received: {name_some(broken)}"
        )


def check_names(labels: Sequence[str]) -> None:
    """Check that class names can be written, one a line, and told apart."""
    try:
        check_lines(labels)
    except ValueError as error:
        raise FolderError(f"Rename the class folders. {error}") from None
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(_key(label), []).append(label)
    for twins in alike.values():
        if len(set(twins)) < len(twins):
            raise FolderError(f"Class names must differ. Received: {twins[0]!r} twice")
        if len(twins) > 1:
            raise FolderError(
                "Class names look the same but differ. Merge the class folders, or rename one. "
                f"Received: {' and '.join(f'{name!r} ({name!a})' for name in twins)}"
            )
    if padded := [repr(label) for label in labels if label != label.strip()]:
        warnings.warn(f"Class names start or end with a space: {name_some(padded)}", stacklevel=3)


def stratified_split(
    names: Sequence[str],
    classes: np.ndarray,
    fraction: float,
    seed: int,
    contents: Sequence | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the training pictures and of those held out, class by class, ascending.

    The split depends only on the names and the seed: the pictures of a class are ranked by a hash
    of both. A class of two pictures or more has at least one held out, and never all. Pictures of
    equal ``contents`` stay together; a class of nothing but copies has none held out.
    """
    copies: dict = {}
    for i, content in enumerate(range(len(names)) if contents is None else contents):
        copies.setdefault(content, []).append(i)

    def rank(group: list[int]) -> bytes:
        text = f"{seed}/{min(names[i] for i in group)}"
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()

    sizes = np.bincount(classes)
    wanted = np.maximum(np.round(fraction * sizes).astype(int), 1)
    wanted = np.minimum(wanted, np.maximum(sizes - 1, 0))
    held_out: list[int] = []
    left = sizes.copy()
    ranked = [
        (group, np.bincount(classes[group], minlength=len(sizes)))
        for group in sorted(copies.values(), key=rank)
    ]
    for group, taken in ranked:
        if np.all(sizes - left + taken <= wanted):
            left -= taken
            held_out += group
    # Where many copies make every group too large, the smallest has to do.
    for group, taken in sorted(ranked, key=lambda pair: len(pair[0])):
        if np.any((taken > 0) & (left == sizes)) and np.all((left > taken) | (taken == 0)):
            left -= taken
            held_out += group
    held_out = np.array(sorted(held_out), dtype=np.int64)
    return np.setdiff1d(np.arange(len(names)), held_out), held_out


def _visible_folders(root) -> tuple[Path, list[Path]]:
    if not isinstance(root, str | os.PathLike):
        raise TypeError(
            "data must be a folder, a pair (pictures, classes), a tf.data.Dataset of (picture, "
            f"class) or 'tfds:name'. Received: {reprlib.repr(root)}"
        )
    if not os.fspath(root):
        raise FolderError("The name of the folder is empty; '.' is the current one. Received: ''")
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "Expected a folder, not a file" if root.exists() else "There is no such folder"
        raise FolderError(
            f"{what}. Pass a folder that holds one folder of pictures for each class. "
            f"Received: {str(root)!r}"
        )
    folders = (path for path in root.iterdir() if path.is_dir() and not _is_left_out(path))
    return root, sorted(folders, key=lambda folder: folder.name)


def _listed(root: Path) -> tuple[str, list[str], list[str]]:
    """Return the first step of ``os.walk``; nothing for a folder that cannot be read."""
    return next(os.walk(root), (str(root), [], []))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _NOT_THE_USERS


def _is_left_out(folder: Path) -> bool:
    """Return True for a folder that is hidden, or that a run of fine-tuning wrote."""
    is_unfinished = folder.suffix == ".partial" and (folder / "run.json").is_file()
    return _is_hidden(folder.name) or is_unfinished or is_run(folder)


def is_run(folder: Path) -> bool:
    """Return True for the folder of a finished run of fine-tuning."""
    return (folder / "report.json").is_file() and (folder / "model.keras").is_file()


def _suffix(name: str) -> str:
    """Return the suffix in lower case; ``""`` for one that names no kind of file, as ``.0001``."""
    match = re.search(r"[^.](\.[a-z][a-z0-9]{0,9})$", name.lower())
    return match[1] if match else ""


def _is_picture(path: str) -> bool:
    if os.path.exists(path) and not os.path.isfile(path):
        return False  # reading a pipe would wait forever
    if suffix := _suffix(path):
        return suffix in PICTURE_SUFFIXES
    try:
        with open(path, "rb") as file:
            return bool(_STARTS.match(file.read(16)))
    except OSError:
        return False


def _key(name: str) -> str:
    """Return what names that look the same have in common."""
    return unicodedata.normalize("NFC", name).strip()


def pictures_in(folder: str | os.PathLike) -> list[str]:
    """Return the paths of all pictures in a folder and its folders, sorted.

    A warning counts the files that are ignored.
    """
    if not os.path.isdir(folder):
        raise FolderError(f"There is no such folder of pictures. Received: {folder}")
    ignored: collections.Counter[str] = collections.Counter()
    found = _pictures_below(Path(folder), ignored)
    if ignored:
        warnings.warn(f"Files ignored in {folder}: {name_counts(ignored)}", stacklevel=3)
    if not found:
        raise FolderError(f"There is no picture in the folder. Received: {folder}")
    return sorted(map(str, found))


def _pictures_below(
    folder: Path, ignored: collections.Counter[str], parent: Path | None = None
) -> list[Path]:
    """Return the pictures below a folder; count what is left out in ``ignored``.

    Links are followed, once each, and not back to ``parent``.
    """

    def unreadable(error: OSError) -> None:
        ignored["folders that cannot be read"] += 1

    pictures, seen = [], {os.path.realpath(parent)} if parent else set()
    for place, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        pictures += [Path(place, name) for name in _sort_out(place, folders, files, ignored)]
    return pictures


def _sort_out(
    place: str, folders: list[str], files: list[str], ignored: collections.Counter[str]
) -> list[str]:
    """Return the pictures of one step of ``os.walk``, and take hidden folders from ``folders``.

    In hidden folders and in those of a run only pictures are counted; elsewhere all other files,
    by suffix.
    """
    out = [name for name in folders if _is_left_out(Path(place, name))]
    for name in out:
        inside = (file for _, _, some in os.walk(Path(place, name)) for file in some)
        if count := sum(_suffix(file) in PICTURE_SUFFIXES for file in inside):
            ignored[f"in {printable(name)}/"] += count
    folders[:] = [name for name in folders if name not in out]
    pictures = []
    for name in files:
        if _is_hidden(name):
            ignored.update(["hidden"] * (_suffix(name) in PICTURE_SUFFIXES))
        elif _is_picture(os.path.join(place, name)):
            pictures.append(name)
        else:
            ignored[_suffix(name) or "no suffix"] += 1
    return pictures


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
    # The first folder of each picture within its class; none for a picture right in it.
    nested = [{(path.split("/")[1:-1] or [""])[0] for path in found[name]} for name in found]
    common = set.intersection(*nested)
    if len(common) > 1 and not any("" in names for names in nested):
        raise FolderError(
            f"Each class folder holds the same folders ({name_some(sorted(common))}), so those are "
            "probably the classes. Pass one folder that holds them, or name the parts of the data "
            "set train/, val/ and test/. "
            f"Received: {str(root)!r} with {name_some(list(found))}"
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
        raise FolderError(
            "There is no picture in any class folder: put them into a folder for each class, such "
            f"as {root.name}/{labels[0]}/, or remove {root.name}/. Received: {str(root)!r}"
        )


def name_some(names: Sequence[str], most: int = 8) -> str:
    """Join up to ``most`` names with commas, and say how many are left out."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(printable, names[:most])) + rest


def name_counts(counts: Mapping[str, int]) -> str:
    """Return ``{".txt": 3, "hidden": 1}`` as ``"3 .txt, 1 hidden"``."""
    return ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))


def printable(name: str) -> str:
    """Escape line breaks, control characters, and bytes that are not UTF-8."""
    return _NOT_IN_ONE_LINE.sub(lambda found: ascii(found[0])[1:-1], name)
