"""Weights files: opening them with suspicion, reading them lazily.

nf_zoo's own format is a safetensors file whose keys are our variable names
("stage1/block2/conv1/kernel"), in our layouts, with "nf_zoo" as the "format" of its metadata.
Files of DeepMind's code (.npz, .npy) are opened by the same function; see `haiku_files`. Several
files with an index are opened as one; see `shards`. `saving` writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nf_zoo.hub import haiku_files
from nf_zoo.hub.diagnosis import diagnosis, refuse_pickle
from nf_zoo.hub.errors import (
    ChecksumMismatch,
    CorruptWeights,
    UnsafeWeights,
    WeightsNotFound,
    first_few,
)
from nf_zoo.hub.shards import is_index, read_index, without_doubles

WEIGHTS_FILE = "model.safetensors"
MOST_HEADER_BYTES = 32 * 2**20
_FLOATS = ("F16", "BF16", "F32", "F64")
_WRAPPERS = re.compile(r"(?:module\.|_orig_mod\.|model\.)*")
"""What DataParallel, torch.compile and Lightning put before a network's names, in any order."""


class WeightsFile:
    """An open safetensors file: names, shapes and, one at a time, float32 tensors.

    Use `open_weights` to get one.
    """

    def __init__(self, path: Path, handle) -> None:
        self.path = path
        self._handle = handle
        self.metadata: dict[str, str] = handle.metadata() or {}
        slices = {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118 (not a dict)
        self.shapes = {key: tuple(piece.get_shape()) for key, piece in slices.items()}
        self._dtypes = {key: piece.get_dtype() for key, piece in slices.items()}

    @property
    def format(self) -> str | None:
        """ "nf_zoo", "timm" or "haiku", by the names of the tensors; None if they are nobody's."""
        if any("/~/" in key for key in self.shapes):
            return "haiku"
        if self.metadata.get("format") == "nf_zoo" or any("/" in key for key in self.shapes):
            return "nf_zoo"
        return "timm" if any("." in key for key in self.shapes) else None

    def is_float(self, key: str) -> bool:
        """Whether the tensor holds floating-point numbers."""
        return self._dtypes[key] in _FLOATS

    def dtype(self, key: str) -> str:
        """The tensor's type in safetensors' spelling, e.g. "BF16"."""
        return self._dtypes[key]

    def read(self, key: str) -> np.ndarray:
        """One tensor, as float32."""
        return np.asarray(self._handle.get_tensor(key), dtype=np.float32, order="C")


class HaikuFile(WeightsFile):
    """A file of DeepMind's code, read whole: the same questions, the same answers."""

    def __init__(self, path: Path) -> None:
        self.path, self.metadata = path, {}
        self._arrays = haiku_files.read_arrays(path)
        self.shapes = {key: array.shape for key, array in self._arrays.items()}
        self._dtypes = {
            key: f"{array.dtype.kind.upper()}{8 * array.itemsize}"
            for key, array in self._arrays.items()
        }

    @property
    def format(self) -> str:
        """Always "haiku"."""
        return "haiku"

    def read(self, key: str) -> np.ndarray:
        """One tensor, as float32."""
        return np.asarray(self._arrays[key], dtype=np.float32, order="C")


class ShardedFile(WeightsFile):
    """Several open safetensors files as one: the same questions, the same answers."""

    def __init__(self, path: Path, parts: Sequence[WeightsFile], shards: dict[str, str]) -> None:
        self.path, self.metadata = path, parts[0].metadata
        self._owners = {key: part for part in parts for key in part.shapes}
        for part in parts:
            promised = {key for key, name in shards.items() if name == part.path.name}
            if odd := sorted(promised ^ set(part.shapes)):
                raise CorruptWeights(
                    f"{path} and {part.path.name} disagree on which tensors are in it: "
                    f"{first_few(odd)}. Fetch both again."
                )
        self.shapes = {key: self._owners[key].shapes[key] for key in shards}

    def is_float(self, key: str) -> bool:
        """Whether the tensor holds floating-point numbers."""
        return self._owners[key].is_float(key)

    def dtype(self, key: str) -> str:
        """The tensor's type in safetensors' spelling, e.g. "BF16"."""
        return self._owners[key].dtype(key)

    def read(self, key: str) -> np.ndarray:
        """One tensor, as float32."""
        return self._owners[key].read(key)


class UnwrappedFile(WeightsFile):
    """An open file of a network that PyTorch wrapped: its tensors by the network's own names."""

    def __init__(self, file: WeightsFile, prefix: str) -> None:
        self.path, self.metadata = file.path, file.metadata
        self._file, self._prefix = file, prefix
        self.shapes = {key.removeprefix(prefix): shape for key, shape in file.shapes.items()}

    def is_float(self, key: str) -> bool:
        """Whether the tensor holds floating-point numbers."""
        return self._file.is_float(self._prefix + key)

    def dtype(self, key: str) -> str:
        """The tensor's type in safetensors' spelling, e.g. "BF16"."""
        return self._file.dtype(self._prefix + key)

    def read(self, key: str) -> np.ndarray:
        """One tensor, as float32."""
        return self._file.read(self._prefix + key)


@contextlib.contextmanager
def open_weights(path: Path | str, sha256: str | None = None) -> Iterator[WeightsFile]:
    """Open a safetensors file whose header and length have been checked, or one of DeepMind's.

    Args:
        path: The file; .npz and .npy are read whole, as trees of DeepMind's code. An index of
            several files opens them all.
        sha256: Its expected checksum; None to accept any.

    Yields:
        The open file. What a wrapper of PyTorch's put before all of timm's names is not in its.

    Raises:
        WeightsNotFound: if there is no such file.
        UnsafeWeights: if it is a pickle, by its name or by its content; as .npz or .npy, if it
            is a pickle of more than arrays; if an index leads out of its folder.
        CorruptWeights: if it is truncated or is not a weights file.
        ChecksumMismatch: if its checksum is another.
    """
    path = Path(path)
    refuse_pickle(path)
    if not path.is_file():
        raise WeightsNotFound(f"There is no weights file at {path}. Check the path.")
    with _open(path, sha256) as file:
        prefix = _wrapper(file)
        yield UnwrappedFile(file, prefix) if prefix else file


def _wrapper(file: WeightsFile) -> str:
    """What wrappers put before the names of a file of timm's; "" if they are its own."""
    if file.format != "timm":
        return ""
    common = os.path.commonprefix(list(file.shapes))  # noqa: RUF071 (letters are meant)
    return _WRAPPERS.match(common)[0]


@contextlib.contextmanager
def _open(path: Path, sha256: str | None) -> Iterator[WeightsFile]:
    if path.suffix.lower() in haiku_files.SUFFIXES:
        _check_sha256(path, sha256)
        yield HaikuFile(path)
        return
    if not is_index(path):
        with _open_one(path, sha256) as file:
            yield file
        return
    _check_sha256(path, sha256)
    shards = read_index(path)
    with contextlib.ExitStack() as stack:
        parts = [
            stack.enter_context(_open_one(_shard(path, name)))
            for name in dict.fromkeys(shards.values())
        ]
        yield ShardedFile(path, parts, shards)


def _shard(index: Path, name: str) -> Path:
    path = index.with_name(name)
    if not path.is_file():
        raise CorruptWeights(f"{index} names {name}, which is missing beside it. Fetch it too.")
    refuse_way_out(path)
    return path


@contextlib.contextmanager
def _open_one(path: Path, sha256: str | None = None) -> Iterator[WeightsFile]:
    from safetensors import SafetensorError, safe_open

    try:
        _check_header_size(path)
        # Mapped into memory instead, the whole file would count as resident.
        handle = safe_open(path, framework="numpy", backend="pread")
        _check_names(path)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise diagnosis(path, error) from error
    _check_sha256(path, sha256)
    with handle as file:
        yield WeightsFile(path, file)


def _check_header_size(path: Path) -> None:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MOST_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes, {MOST_HEADER_BYTES} at most")


def _check_names(path: Path) -> None:
    """The library takes the last of two entries of one name, others the first."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        json.loads(file.read(length), object_pairs_hook=without_doubles)


def refuse_way_out(path: Path) -> None:
    """Raise `UnsafeWeights` for a file of a folder that is a link to somewhere else.

    The links of the hub's cache, from snapshots/<commit>/ to blobs/, are no way out.
    """
    folder, target = path.parent.resolve(), path.resolve()
    homes = (folder, folder.parent.parent / "blobs")
    if not any(target.is_relative_to(home) for home in homes):
        raise UnsafeWeights(
            f"{path} is a link that leads out of its folder, so nothing of it is read. If that is "
            f"meant, name the file itself, or copy it there. Received: a link to {target}"
        )


def _check_sha256(path: Path, sha256: str | None) -> None:
    if sha256 is not None and (found := file_sha256(path)) != sha256:
        raise ChecksumMismatch(
            f"{path} is not the published file: its SHA-256 is {found}, expected {sha256}. "
            f"Delete it ({path.resolve()}), if it is still there, and load again; if that does not "
            "help, the published file has changed and should not be trusted unexamined."
        )


def file_sha256(path: Path | str) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
