"""Weights in several files: the index that says which tensor lies in which of them.

The layout is the hub's: model-00001-of-00003.safetensors, ..., and
model.safetensors.index.json with {"metadata": {"total_size": bytes}, "weight_map": {name: file}}.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from nf_zoo.hub.errors import CorruptWeights, UnsafeWeights, printable

INDEX_FILE = "model.safetensors.index.json"
MOST_BYTES = 32 * 2**20
MOST_SHARDS = 1000
_PLAIN_NAME = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)


def is_index(path: Path) -> bool:
    """Whether a path is that of an index rather than of tensors."""
    return path.name.endswith(".safetensors.index.json")


def is_ours(name: str) -> bool:
    """Whether a file name is one that `save_pretrained` gives to weights."""
    pattern = r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?"
    return re.fullmatch(pattern, name) is not None


def read_index(path: Path) -> dict[str, str]:
    """Tensor name -> file name, from an index that may come from anywhere.

    Args:
        path: The index.

    Returns:
        The map, in the index' order. Every file name is that of a file beside the index.

    Raises:
        CorruptWeights: if it is no index, names a tensor twice, or is beyond any network's size.
        UnsafeWeights: if a file name leads out of the folder or is no safetensors file's.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"larger than {MOST_BYTES} bytes")
        document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=without_doubles)
        shards = document["weight_map"]
        if not isinstance(shards, dict) or not shards:
            raise TypeError("weight_map must be an object that names tensors")
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise CorruptWeights(
            f"{path} is no index of safetensors files: {printable(error)}. Fetch it again."
        ) from error
    for name in dict.fromkeys(map(_as_text, shards.values())):
        if not _PLAIN_NAME.fullmatch(name):
            raise UnsafeWeights(
                f"{path} points to a file that is no safetensors file of its own folder, so "
                f"nothing of it is read. Received: {printable(name)!r}"
            )
    if len(set(shards.values())) > MOST_SHARDS:
        raise CorruptWeights(f"{path} names more than {MOST_SHARDS} files.")
    return shards


def write_index(path: Path, shards: Mapping[str, str], total_size: int) -> None:
    """Write an index; `total_size` is that of all tensors in bytes."""
    document = {"metadata": {"total_size": total_size}, "weight_map": dict(shards)}
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object, for `object_pairs_hook`.

    Raises:
        ValueError: if it says two things under one name, of which readers would differ.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{printable(twice)!r} stands there twice")
    return made


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)
