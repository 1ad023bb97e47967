"""Writing weights: one safetensors file, or several with an index; whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nf_zoo.hub.files import WEIGHTS_FILE
from nf_zoo.hub.shards import INDEX_FILE, write_index

if TYPE_CHECKING:
    from nf_zoo.models.classifier import ImageClassifier

DTYPES = ("float32", "float16", "bfloat16")
MAX_SHARD_SIZE = "2GB"


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
        >>> from nf_zoo.hub.saving import save_weights
        >>> model = nf_zoo.create_model("nf_resnet26", num_classes=10)
        >>> save_weights(model, "model.safetensors", dtype="float16")  # doctest: +SKIP
    """
    from nf_zoo.models.classifier import variable_names

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"A weights file must be called *.safetensors. Received: {path}")
    check_dtype(dtype)
    _write_variables(model, variable_names(model), path, dtype)
    return path


def save_shards(
    model: ImageClassifier,
    folder: Path,
    dtype: str | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> None:
    """Write a model's weights into a folder, in several files with an index if they are large.

    Args:
        model: The model.
        folder: An existing folder, best an empty one.
        dtype: As for `save_weights`.
        max_shard_size: Bytes of tensors in a file at most, or "500MB"; a tensor larger than that
            has a file to itself.

    Raises:
        ValueError: for another dtype, a size that is none, or a value too large for float16.
    """
    import huggingface_hub

    from nf_zoo.models.classifier import variable_names

    check_dtype(dtype)
    if isinstance(max_shard_size, int) and max_shard_size < 1:
        raise ValueError(f"max_shard_size must be 1 byte or more. Received: {max_shard_size}")
    variables = variable_names(model)
    split = huggingface_hub.split_state_dict_into_shards_factory(
        variables,
        get_storage_size=lambda variable: _stored_bytes(variable, dtype),
        filename_pattern=WEIGHTS_FILE.replace(".", "{suffix}."),
        max_shard_size=max_shard_size,
    )
    for filename, names in split.filename_to_tensors.items():
        part = {name: variables[name] for name in names}
        _write_variables(model, part, folder / filename, dtype)
    if split.is_sharded:
        write_index(
            folder / INDEX_FILE,
            {name: split.tensor_to_filename[name] for name in variables},
            split.metadata["total_size"],
        )


def check_dtype(dtype: str | None) -> None:
    """Raise `ValueError` for a type that weights are not stored in."""
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {DTYPES} or None. Received: {dtype!r}")


def _write_variables(model, variables: Mapping, path: Path, dtype: str | None) -> None:
    tensors = {name: _as_stored(name, variable, dtype) for name, variable in variables.items()}
    write_tensors(tensors, path, {"format": "nf_zoo", "architecture": model.architecture})


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


def _stored_bytes(variable, dtype: str | None) -> int:
    size = 2 if dtype in ("float16", "bfloat16") else 4
    if dtype is None:
        import keras

        size = {"float64": 8, "float16": 2, "bfloat16": 2}.get(
            keras.backend.standardize_dtype(variable.dtype), 4
        )
    return size * int(np.prod(variable.shape, dtype=np.int64))


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
