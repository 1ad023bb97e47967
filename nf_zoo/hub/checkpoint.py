"""An open weights file: names, shapes and, one at a time, tensors. No file is trusted.

nf_zoo's own format is a safetensors file whose keys are our variable names
(``"stage1/block2/conv1/kernel"``), in our layouts, with ``"nf_zoo"`` as the ``"format"`` of its
metadata. The same function opens files of DeepMind's code (.npz, .npy), and several files with an
index. The module ``folder`` writes.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nf_zoo.hub.errors import ChecksumMismatch, CorruptWeights, WeightsNotFound, first_few
from nf_zoo.hub.untrusted import arrays, headers
from nf_zoo.hub.untrusted.documents import refuse_way_out

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
_FLOATS = ("F16", "BF16", "F32", "F64")
_WRAPPERS = re.compile(r"(?:module\.|_orig_mod\.|model\.)*")
"""Prefixes that DataParallel, torch.compile and Lightning add to names, in any order."""


class Tensor(NamedTuple):
    """A tensor of an open file: its shape, its safetensors type, and its values."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


class WeightsFile:
    """An open checkpoint, from ``open_weights``: names, shapes and, one at a time, float32 tensors.

    ``path`` is the file, or the index of several; ``format`` is ``"nf_zoo"``, ``"timm"`` or
    ``"haiku"``, by the names of the tensors; None if not recognized.
    """

    def __init__(self, path: Path, metadata: Mapping[str, str], tensors: dict[str, Tensor]) -> None:
        self.path, self.metadata, self.tensors = path, metadata, tensors
        self.shapes = {key: tensor.shape for key, tensor in tensors.items()}
        self.format = "timm" if any("." in key for key in tensors) else None
        if metadata.get("format") == "nf_zoo" or any("/" in key for key in tensors):
            self.format = "nf_zoo"
        if path.suffix.lower() in arrays.SUFFIXES or any("/~/" in key for key in tensors):
            self.format = "haiku"

    def is_float(self, key: str) -> bool:
        """Check that the tensor holds floating-point numbers."""
        return self.tensors[key].dtype in _FLOATS

    def read(self, key: str) -> np.ndarray:
        """Return one tensor, as float32 or float64."""
        tensor = self.tensors[key]
        kind = np.float64 if tensor.dtype == "F64" else np.float32
        return np.asarray(tensor.read(), dtype=kind, order="C")


@contextlib.contextmanager
def open_weights(path: Path | str, sha256: str | None = None) -> Iterator[WeightsFile]:
    """Open a safetensors file after checking its header and length, or a file of DeepMind's.

    An index opens all of its files; .npz and .npy are read whole. A prefix that a PyTorch wrapper
    put before all of timm's names is removed. ``sha256`` is the expected checksum; None accepts
    any.
    """
    path = Path(path)
    headers.refuse_pickle(path)
    if not path.is_file():
        raise WeightsNotFound(f"There is no weights file at {path}. Check the path.")
    with contextlib.ExitStack() as stack:
        if path.suffix.lower() in arrays.SUFFIXES:
            _check_sha256(path, sha256)
            yield WeightsFile(path, {}, _of_deepmind(path))
        elif headers.is_index(path):
            _check_sha256(path, sha256)
            yield _unwrapped(_open_shards(path, stack))
        else:
            yield _unwrapped(stack.enter_context(_open_one(path, sha256)))


def _of_deepmind(path: Path) -> dict[str, Tensor]:
    return {
        key: Tensor(
            array.shape,
            f"{array.dtype.kind.upper()}{8 * array.itemsize}",
            lambda array=array: array,
        )
        for key, array in arrays.read_arrays(path).items()
    }


def _unwrapped(file: WeightsFile) -> WeightsFile:
    """Return the same file without the prefix that PyTorch wrappers put before timm's names."""
    common = os.path.commonprefix(list(file.tensors))  # noqa: RUF071 (letters are meant)
    prefix = _WRAPPERS.match(common)[0]
    if file.format != "timm" or not prefix:
        return file
    tensors = {key.removeprefix(prefix): tensor for key, tensor in file.tensors.items()}
    return WeightsFile(file.path, file.metadata, tensors)


def _open_shards(index: Path, stack: contextlib.ExitStack) -> WeightsFile:
    """Open several files as one, in the order of their index."""
    shards = headers.read_index(index)
    metadata, tensors = {}, {}
    for name in dict.fromkeys(shards.values()):
        path = index.with_name(name)
        if not path.is_file():
            raise CorruptWeights(f"{index} names {name}, which is missing beside it. Fetch it too.")
        refuse_way_out(path)
        part = stack.enter_context(_open_one(path))
        promised = {key for key, owner in shards.items() if owner == name}
        if odd := sorted(promised ^ set(part.tensors)):
            raise CorruptWeights(
                f"{index} and {name} disagree on which tensors {name} holds: {first_few(odd)}. "
                "Fetch both again."
            )
        metadata = metadata or part.metadata
        tensors |= part.tensors
    return WeightsFile(index, metadata, {key: tensors[key] for key in shards})


@contextlib.contextmanager
def _open_one(path: Path, sha256: str | None = None) -> Iterator[WeightsFile]:
    from safetensors import SafetensorError, safe_open

    try:
        headers.check_header(path)
        # Mapped into memory instead, the whole file would count as resident.
        handle = safe_open(path, framework="numpy", backend="pread")
    except (SafetensorError, OSError, ValueError) as error:
        raise headers.diagnosis(path, error) from error
    _check_sha256(path, sha256)
    with handle as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        tensors = {
            key: Tensor(tuple(s.get_shape()), s.get_dtype(), lambda key=key: file.get_tensor(key))
            for key, s in slices.items()
        }
        yield WeightsFile(path, file.metadata() or {}, tensors)


def _check_sha256(path: Path, sha256: str | None) -> None:
    if sha256 is not None and (found := file_sha256(path)) != sha256:
        raise ChecksumMismatch(
            f"{path} is not the published file: its SHA-256 is {found}, expected {sha256}. "
            f"Delete it ({path.resolve()}), if it is still there, and load again; if that does not "
            "help, the published file has changed: do not trust it unexamined."
        )


def file_sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
