"""Files of DeepMind's code: a pickled tree of parameters, numpy's .npz or .npy of one, or flat.

A tree is {module path: {parameter: array}}. It may come alone or with the tree of the state
(moving averages) as (params, state) or {"params": ..., "state": ...}. A flat .npz has one array
per parameter, called "module path/parameter".
"""

import itertools
import math
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nf_zoo.hub.errors import CorruptWeights, WeightsError
from nf_zoo.hub.untrusted.headers import damaged
from nf_zoo.hub.untrusted.pickles import PickledArray, load_tree

SUFFIXES = (".npz", ".npy")
MOST_NODES = 100_000
MOST_LEVELS = 16
MOST_AXES = 32
LONGEST_KEY = 1000
_TREES = {"params", "state", "states"}
_NUMPY = b"\x93NUMPY"


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return every array of a file of DeepMind's code by its flat name; run nothing of the file.

    The file's first bytes show whether it is a pickle, .npz or .npy. All of it is then in memory.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(len(_NUMPY))
        file.seek(0)
        if head[:2] == b"PK":
            return _read_zip(path, file, size)
        if head.lstrip()[:1] == b"<":
            raise damaged(path, head, "it starts with <")
        tree = (_read_npy if head == _NUMPY else load_tree)(file, size, str(path))
    if isinstance(tree, np.ndarray):
        raise CorruptWeights(f"{path} is one array, not a tree of named parameters.")
    return _flatten(tree, str(path))


def _read_zip(path: Path, file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """Read an .npz: trees from pickled members, and arrays by their members' names."""
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            if not members or sum(m.file_size for m in members) > 64 * size + 2**26:
                raise CorruptWeights(
                    f"{path} is a zip archive, but none of arrays as numpy writes them. "
                    f"It claims {len(members)} of them in {size} bytes."
                )
            for member in members:
                name = f"{member.filename} in {path}"
                with archive.open(member) as stream:
                    found = _read_npy(stream, member.file_size, name)
                if not isinstance(found, np.ndarray):
                    _merge(arrays, _flatten(found, name), name)
                    continue
                key = member.filename.removesuffix(".npy")
                _merge(arrays, {re.sub(r"/~/(\w+)$", r"/\1", key): found}, name)
    except WeightsError:
        raise
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError) as error:
        raise CorruptWeights(f"{path} is truncated or damaged: {error}. Fetch it again.") from error
    return arrays


def _read_npy(file: BinaryIO, size: int, name: str) -> Any:
    """Return the array of an .npy, or the content of its one object."""
    try:
        shape, is_fortran, dtype = _read_header(file)
    # numpy parses the header as Python literals, which can go wrong in many ways.
    except Exception as error:
        raise CorruptWeights(f"{name} is truncated or damaged: {error}. Fetch it again.") from error
    left = size - file.tell()
    if dtype.hasobject:
        return load_tree(file, left, name)
    fits = len(shape) <= MOST_AXES and left == math.prod(shape) * dtype.itemsize
    if dtype.kind not in "fiub" or not fits:
        raise CorruptWeights(
            f"{name} claims an array of {dtype} and shape {shape}, but has {left} bytes for it."
        )
    data = file.read(left)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"version {version} of the format holds no plain arrays")


def _flatten(root: Any, name: str) -> dict[str, np.ndarray]:
    """Return one flat dictionary of a tree, or of several side by side."""
    if isinstance(root, PickledArray):
        root = root.content()
    trees = list(root) if isinstance(root, tuple | list) else [root]
    trees = [
        tree
        for entry in trees
        for tree in (
            entry.values() if isinstance(entry, dict) and set(entry) <= _TREES else [entry]
        )
    ]
    arrays: dict[str, np.ndarray] = {}
    nodes = itertools.count(1)

    def visit(node: Any, key: str, level: int) -> None:
        # The tree may be endless, or of other things than arrays.
        if level > MOST_LEVELS or next(nodes) > MOST_NODES or len(key) > LONGEST_KEY:
            raise CorruptWeights(
                f"{name} nests or repeats its dictionaries beyond any network's tree: "
                f"{MOST_LEVELS} levels, {MOST_NODES} entries and names of {LONGEST_KEY} characters "
                "at most."
            )
        if isinstance(node, dict):
            for part, child in node.items():
                visit(child, f"{key}/{part}" if key else part, level + 1)
            return
        array = None
        if isinstance(node, PickledArray):
            array = node.array()
        elif type(node) in (bool, float):
            array = np.asarray(node)
        if array is None:
            kind = "an array of objects" if isinstance(node, PickledArray) else type(node).__name__
            raise CorruptWeights(
                f"{name} holds {kind} at {key[:200]!r}; a tree of parameters holds arrays of "
                "numbers only."
            )
        _merge(arrays, {key: array}, name)

    for tree in trees:
        if not isinstance(tree, dict):
            raise CorruptWeights(
                f"{name} holds no tree of parameters, {{module: {{parameter: array}}}}. "
                f"Received: {type(tree).__name__}"
            )
        visit(tree, "", 0)
    return arrays


def _merge(arrays: dict[str, np.ndarray], more: dict[str, np.ndarray], name: str) -> None:
    twice = sorted(set(arrays) & set(more))
    if twice:
        raise CorruptWeights(f"{name} holds {twice[0][:200]!r} more than once.")
    arrays.update(more)
