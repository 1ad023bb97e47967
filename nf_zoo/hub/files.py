"""Weights files: opening them with suspicion, reading them lazily, writing them atomically.

nf_zoo's own format is a safetensors file whose keys are our variable names
("stage1/block2/conv1/kernel"), in our layouts, with "nf_zoo" as the "format" of its metadata.
Files of DeepMind's code (.npz, .npy) are opened by the same function; see `haiku_files`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nf_zoo.hub import haiku_files
from nf_zoo.hub.diagnosis import diagnosis, refuse_pickle
from nf_zoo.hub.errors import (
    ChecksumMismatch,
    WeightsNotFound,
)

if TYPE_CHECKING:
    from nf_zoo.models.classifier import ImageClassifier

WEIGHTS_FILE = "model.safetensors"
DTYPES = ("float32", "float16", "bfloat16")
_FLOATS = ("F16", "BF16", "F32", "F64")


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


@contextlib.contextmanager
def open_weights(path: Path | str, sha256: str | None = None) -> Iterator[WeightsFile]:
    """Open a safetensors file whose header and length have been checked, or one of DeepMind's.

    Args:
        path: The file; .npz and .npy are read whole, as trees of DeepMind's code.
        sha256: Its expected checksum; None to accept any.

    Raises:
        WeightsNotFound: if there is no such file.
        UnsafeWeights: if it is a pickle, by its name or by its content; as .npz or .npy, if it
            is a pickle of more than arrays.
        CorruptWeights: if it is truncated or is not a weights file.
        ChecksumMismatch: if its checksum is another.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    refuse_pickle(path)
    if not path.is_file():
        raise WeightsNotFound(f"There is no weights file at {path}. Check the path.")
    if path.suffix.lower() in haiku_files.SUFFIXES:
        _check_sha256(path, sha256)
        yield HaikuFile(path)
        return
    try:
        # Mapped into memory instead, the whole file would count as resident.
        handle = safe_open(path, framework="numpy", backend="pread")
    except (SafetensorError, OSError) as error:
        raise diagnosis(path, error) from error
    _check_sha256(path, sha256)
    with handle as file:
        yield WeightsFile(path, file)


def _check_sha256(path: Path, sha256: str | None) -> None:
    if sha256 is not None and (found := file_sha256(path)) != sha256:
        raise ChecksumMismatch(
            f"{path} is not the published file: its SHA-256 is {found}, expected {sha256}. "
            f"Delete it ({path.resolve()}) and load again; if that does not help, the "
            "published file has changed and should not be trusted unexamined."
        )


def file_sha256(path: Path | str) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_weights(model: ImageClassifier, path: str | Path, dtype: str | None = None) -> Path:
    """Write a model's weights as a safetensors file in nf_zoo's own format.

    The file appears whole or not at all, and replaces an older one of the same name.

    Args:
        model: The model; its optimizer and random state are not written.
        path: Where to, ending in .safetensors. The folder must exist.
        dtype: "float32", "float16" or "bfloat16"; None keeps each variable's own.

    Returns:
        The path.

    Raises:
        ValueError: for another dtype or suffix, or a value too large for float16.

    Example:
        >>> import nf_zoo
        >>> from nf_zoo.hub.files import save_weights
        >>> model = nf_zoo.create_model("nf_resnet26", num_classes=10)
        >>> save_weights(model, "model.safetensors", dtype="float16")  # doctest: +SKIP
    """
    from nf_zoo.models.classifier import variable_names

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"A weights file must be called *.safetensors. Received: {path}")
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {DTYPES} or None. Received: {dtype!r}")
    tensors = {
        name: _as_stored(name, variable, dtype) for name, variable in variable_names(model).items()
    }
    write_tensors(tensors, path, {"format": "nf_zoo", "architecture": model.architecture})
    return path


def save_pretrained(
    model: ImageClassifier,
    folder: str | Path,
    dtype: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model as a folder: model.safetensors and config.json.

    `load_pretrained` builds the model again from that folder alone. Other files in the folder are
    left alone.

    Args:
        model: The model.
        folder: Where to; made if need be, its parents too.
        dtype: As for `save_weights`.
        overwrite: Replace the two files in a folder that is not empty.

    Returns:
        The folder.

    Raises:
        FileExistsError: if the folder is not empty (and `overwrite` is false), or is a file.
        ValueError: for another dtype, or a value too large for float16.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.create_model("nf_resnet26", num_classes=10)
        >>> nf_zoo.save_pretrained(model, "my-nf-resnet")  # doctest: +SKIP
    """
    from nf_zoo.hub.model_config import CONFIG_FILE, ModelConfig

    folder = Path(folder)
    is_taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if is_taken and not (overwrite and folder.is_dir()):
        raise FileExistsError(
            "The folder exists already: choose another, or pass overwrite=True to replace its "
            f"{WEIGHTS_FILE} and {CONFIG_FILE}. Received: {folder}"
        )
    config = ModelConfig.of(model).to_json()
    folder.mkdir(parents=True, exist_ok=True)
    # The configuration takes its place last, so that a folder with one also has the weights.
    with atomic_path(folder / CONFIG_FILE) as partial:
        partial.write_text(config, encoding="utf-8")
        save_weights(model, folder / WEIGHTS_FILE, dtype)
    return folder


def write_tensors(
    tensors: Mapping[str, np.ndarray], path: Path, metadata: Mapping[str, str]
) -> None:
    """Write arrays as a safetensors file, atomically."""
    from safetensors.numpy import save_file

    with atomic_path(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(dict(tensors), partial, metadata=dict(metadata))
        # safetensors makes a file that only its owner can read.
        partial.chmod(mode)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary sibling to write to; it takes the path's name if, and only if, all goes well."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _as_stored(name: str, variable, dtype: str | None) -> np.ndarray:
    import keras
    import ml_dtypes

    # np.ascontiguousarray would turn a scalar gain into shape (1,).
    value = np.asarray(keras.ops.convert_to_numpy(variable), order="C")
    if dtype is None:
        return value
    with np.errstate(over="ignore"):
        stored = value.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    if not np.isfinite(stored.astype("float32")).all() and np.isfinite(value).all():
        raise ValueError(
            f"{name} has values beyond the range of {dtype}: save in bfloat16 or float32. "
            f"Received: {np.abs(value).max():.3g}"
        )
    return stored
