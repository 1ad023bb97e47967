"""Batches to measure signals on: from noise, images, files or a dataset."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

FREE_SIDE = 64
"""Pixels of a side that the model leaves free, if no shape is given."""


def batches_of(
    source: Any,
    input_shape: tuple,
    batch_size: int,
    seed: int,
    preprocess: Callable[[Any], np.ndarray] | None = None,
) -> tuple[Iterator[np.ndarray], str]:
    """Return batches (n, ...) of at most ``batch_size``, and ``"noise"`` or ``"images"``.

    ``input_shape`` is that of the model, ``preprocess`` its function of a file, or None.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer. Received: {batch_size!r}")
    if source is None:
        source = own_shape(input_shape)
    entries = source if isinstance(source, tuple | list) else [source]
    if entries is source and all(isinstance(side, int | np.integer) for side in source):
        shape = tuple(int(side) for side in source)
        if len(shape) == len(input_shape) - 1:
            shape = (batch_size, *shape)
        _check(shape, input_shape, source)
        return _noise(shape, batch_size, seed), "noise"
    if all(isinstance(path, str | os.PathLike) for path in entries):
        batches = _of_files(_files_of(entries), batch_size, preprocess)
        return _from_dataset(batches, input_shape, batch_size), "images"
    if hasattr(source, "shape") and not callable(source.shape):
        _check(tuple(source.shape), input_shape, tuple(source.shape))
        return (source[i : i + batch_size] for i in range(0, len(source), batch_size)), "images"
    if isinstance(source, Iterable) and not isinstance(source, bytes | dict):
        return _from_dataset(source, input_shape, batch_size), "images"
    raise _unknown(source)


def own_shape(input_shape: tuple) -> tuple[int, ...]:
    """Return the shape of one picture for a model's input shape, with free sides at 64."""
    *sides, channels = input_shape[1:]
    if channels is None:
        raise ValueError(
            "The model leaves its channels free: give the shape of the noise, such as "
            f"(32, 64, 64, 3). Received: a model of input shape {input_shape}"
        )
    return (*(FREE_SIDE if side is None else side for side in sides), channels)


def _unknown(source: Any) -> ValueError:
    return ValueError(
        "Give images (N, H, W, C), a dataset of such batches, paths of pictures, or a shape such "
        f"as (32, 64, 64, 3) for noise. Received: {type(source).__name__}"
    )


def _files_of(paths: Iterable) -> list[str]:
    """Return the files, and every picture below the folders."""
    from nf_zoo.pictures.class_folders import pictures_in

    files = []
    for path in map(os.fspath, paths):
        if not os.path.exists(path):
            raise FileNotFoundError(f"There is no such picture or folder. Received: {path}")
        files += pictures_in(path) if os.path.isdir(path) else [path]
    return files


def _of_files(files: list[str], batch_size: int, preprocess) -> Iterator[np.ndarray]:
    if preprocess is None:
        raise TypeError(
            "A model must have its own preprocess to be measured on files. Prepare the pictures "
            "as in its training: give images (N, H, W, C), for example from "
            "nf_zoo.preprocess(files, nf_zoo.Preprocessing(input_size=224)). "
            f"Received: {len(files)} files"
        )
    starts = range(0, len(files), batch_size)
    return (np.concatenate([preprocess(f) for f in files[i : i + batch_size]]) for i in starts)


def _noise(shape: tuple[int, ...], batch_size: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    for start in range(0, shape[0], batch_size):
        count = min(batch_size, shape[0] - start)
        yield generator.standard_normal((count, *shape[1:]), dtype=np.float32)


def _from_dataset(source: Iterable, input_shape: tuple, batch_size: int) -> Iterator[np.ndarray]:
    empty = True
    for element in source:
        images = element[0] if isinstance(element, tuple | list) else element
        if not hasattr(images, "shape"):
            raise _unknown(images)
        _check(tuple(images.shape), input_shape, tuple(images.shape))
        empty = False
        for start in range(0, images.shape[0], batch_size):
            yield images[start : start + batch_size]
    if empty:
        raise ValueError("The dataset must have batches to measure. Received: none")


def _check(shape: tuple, input_shape: tuple, received: Any) -> None:
    fits = len(shape) == len(input_shape) and all(
        wanted in (None, side) for side, wanted in zip(shape[1:], input_shape[1:], strict=True)
    )
    if not fits or any(side is not None and side < 1 for side in shape):
        wanted = ("N", *input_shape[1:])
        raise ValueError(
            f"The pictures must be ({', '.join(map(str, wanted))}), where None is any size, and "
            f"there must be at least one. Received: {received}"
        )
