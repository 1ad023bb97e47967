"""JSON that a stranger wrote, and links that a stranger made."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from nf_zoo.hub.errors import UnsafeWeights, printable

MOST_BYTES = 32 * 2**20


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; ``ValueError`` if it is too large or not plain JSON."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES} bytes")
    return parse_json(path.read_bytes(), parse_constant=_refuse_constant)


def parse_json(text: bytes, **hooks: Any) -> dict[str, Any]:
    """Return a JSON object in which each name appears once; readers differ over the others."""
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_without_doubles, **hooks)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error
    if not isinstance(document, dict):
        raise ValueError(f"it must be a JSON object. Received: {type(document).__name__}")
    return document


def fields_of(path: Path) -> set[str]:
    """Return the names in a JSON object, whatever else is wrong with it; none if it is not one."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return set()
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return set()
    return set(document) if isinstance(document, dict) else set()


def refuse_way_out(path: Path) -> None:
    """Raise ``UnsafeWeights`` for a file of a folder that is a link to somewhere else.

    The links of the hub's cache, from snapshots/<commit>/ to blobs/, are no way out.
    """
    folder, target = path.parent.resolve(), path.resolve()
    homes = (folder, folder.parent.parent / "blobs")
    if not any(target.is_relative_to(home) for home in homes):
        raise UnsafeWeights(
            f"{path} is a link that leads out of its folder, so nothing of it is read. If that is "
            f"meant, name the file itself, or copy it there. Received: a link to {target}"
        )


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{printable(twice)!r} appears twice")
    return made


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
