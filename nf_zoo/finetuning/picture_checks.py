"""Faults of labeled pictures: unreadable, flat, transparent, or copies of others.

Every picture is looked at once before a run starts, so that this is said then and not hours later.
"""

import collections
import dataclasses
import hashlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from nf_zoo.finetuning import picture_sets
from nf_zoo.pictures.class_folders import FolderError, name_some, printable
from nf_zoo.pictures.images import FORMATS, load_image

_LARGE = 4 * 2**20
_FEW, _CLOSE = 16, 64
_FINDINGS = {
    "constant": "are of a single color",
    "few_levels": (
        f"have fewer than {_FEW} levels, in a range of less than {_CLOSE} of the 256: they may "
        "hold more than 8 bits or another scale, so that most of their detail is lost"
    ),
    "transparent": "have transparent parts, which are taken as white",
}


class Picture(NamedTuple):
    """A picture of a run, as it is compared with others; equal ``content`` means equal pixels."""

    split: str
    name: str
    label: str
    content: Any


@dataclasses.dataclass
class Checked:
    """Findings about pictures, each of which was read once."""

    # reason why a file could not be read, by name
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    # pixels by name. There are none if they would take more than ``CACHE_BYTES`` in all, and none
    # of a picture above 4 MB
    cache: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    # digest of the pixels, by name
    contents: dict[str, bytes] = dataclasses.field(default_factory=dict)
    # names of pictures, under the keys of the report
    findings: dict[str, list] = dataclasses.field(default_factory=dict)


def check_files(root, names: Sequence[str], strict: bool) -> Checked:
    """Decode the files once, and warn of what is wrong with them."""

    def look(name: str):
        path = root / name
        try:
            pixels = load_image(path)
        except Exception as error:
            return f"{type(error).__name__}: {error}".replace(str(path), name)
        kept = pixels if pixels.nbytes <= _LARGE else None
        flat = _flatness(pixels)
        return kept, digest(pixels), [flat] * bool(flat) + ["transparent"] * _has_alpha(path)

    checked, total = Checked(), 0
    for name, seen in zip(names, picture_sets.in_threads(look, names), strict=True):
        if isinstance(seen, str):
            checked.skipped[printable(name)] = printable(seen)
            continue
        pixels, checked.contents[name], findings = seen
        for finding in findings:
            checked.findings.setdefault(finding, []).append(printable(name))
        if pixels is not None:
            total += pixels.nbytes
            checked.cache[name] = pixels
            if total > picture_sets.CACHE_BYTES:
                checked.cache.clear()
    _warn_of_skipped(root, checked.skipped, strict)
    for finding, words in _FINDINGS.items():
        if found := checked.findings.get(finding):
            _warn(f"{len(found)} of {len(names)} pictures of {root} {words}: {name_some(found)}")
    return checked


_COPIES = {
    "copies": "have the same pixels as another picture; copies stay on one side of a split",
    "copies_across_classes": "have the same pixels as a picture of another class",
    "copies_across_splits": (
        "have the same pixels as a picture in another split, so that accuracies come out too high: "
        "remove the copies"
    ),
}


def compare(pictures: Sequence[Picture]) -> dict[str, list[list[str]]]:
    """Return lists of names with equal pixels, and warn of them.

    Those of several splits are under ``copies_across_splits``, of the others those of several
    classes under ``copies_across_classes``, and the rest under ``copies``; no key without a list.
    """
    groups = collections.defaultdict(list)
    for picture in pictures:
        groups[picture.content].append(picture)
    found: dict[str, list[list[str]]] = {}
    for group in groups.values():
        if len(group) > 1:
            splits, labels = ({getattr(p, kind) for p in group} for kind in ("split", "label"))
            across = "_across_classes" * (len(labels) > 1)
            across = "_across_splits" if len(splits) > 1 else across
            found.setdefault(f"copies{across}", []).append([printable(p.name) for p in group])
    for kind, copies in found.items():
        some = name_some([" = ".join(names) for names in copies], 3)
        _warn(f"{sum(map(len, copies))} of {len(pictures)} pictures {_COPIES[kind]}: {some}")
    return found


def _warn_of_skipped(root, skipped: dict[str, str], strict: bool) -> None:
    if not skipped:
        return
    some = "; ".join(f"{name} ({reason})" for name, reason in list(skipped.items())[:5])
    some += f"; and {len(skipped) - 5} more, which the report names" if len(skipped) > 5 else ""
    count = f"{len(skipped)} file{'s' * (len(skipped) > 1)} of {root} cannot be read"
    if strict:
        raise FolderError(f"{count} as pictures, and strict=True allows none: {some}")
    _warn(f"{count} as pictures and will be skipped: {some}")


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)


def digest(pixels: np.ndarray) -> bytes:
    """Return 16 bytes that are the same for pictures of the same pixels."""
    content = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    content.update(np.ascontiguousarray(pixels))
    return content.digest()


def _flatness(pixels: np.ndarray) -> str | None:
    """Return ``"constant"`` or ``"few_levels"`` for a picture, (H, W, 3) uint8, that is so."""
    step = max(min(pixels.shape[:2]) // 64, 1)
    # A part of it tells for nearly all pictures.
    for part in (pixels[::step, ::step], pixels):
        spread = np.ptp(part.reshape(-1, part.shape[-1]), axis=0)
        if spread.max() >= _CLOSE:
            return None
    if not spread.max():
        return "constant"
    levels = np.unique(pixels[..., spread.argmax()])
    return "few_levels" if len(levels) < _FEW else None


def _has_alpha(path) -> bool:
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.has_transparency_data
    except Exception:
        return False
