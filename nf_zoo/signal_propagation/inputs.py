"""What signals are measured on: noise, images or a dataset, as batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


def batches_of(
    source: Any, input_shape: tuple, batch_size: int, seed: int
) -> tuple[Iterator[np.ndarray], str]:
    """Batches (n, ...) of at most ``batch_size``, and ``"noise"`` or ``"images"``.

    Args:
        source: a shape without or with the number of pictures, an array, or a dataset.
        input_shape: of the model, the batch axis first.
        batch_size: pictures at a time, at least 1.
        seed: of the noise.

    Raises:
        ValueError: on a source that is none of these, is empty, or does not fit the model.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer. Received: {batch_size!r}")
    if _is_shape(source):
        shape = tuple(int(side) for side in source)
        if len(shape) == len(input_shape) - 1:
            shape = (batch_size, *shape)
        _check(shape, input_shape, source)
        return _noise(shape, batch_size, seed), "noise"
    if hasattr(source, "shape") and not callable(source.shape):
        _check(tuple(source.shape), input_shape, tuple(source.shape))
        return (source[i : i + batch_size] for i in range(0, len(source), batch_size)), "images"
    if isinstance(source, Iterable) and not isinstance(source, str | bytes | dict):
        return _from_dataset(source, input_shape, batch_size), "images"
    raise ValueError(
        "Give images (N, H, W, C), a dataset of such batches, or a shape such as (32, 64, 64, 3) "
        f"for noise. Received: {type(source).__name__}"
    )


def _is_shape(source: Any) -> bool:
    return isinstance(source, tuple | list) and all(
        isinstance(side, int | np.integer) for side in source
    )


def _noise(shape: tuple[int, ...], batch_size: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    for start in range(0, shape[0], batch_size):
        count = min(batch_size, shape[0] - start)
        yield generator.standard_normal((count, *shape[1:]), dtype=np.float32)


def _from_dataset(source: Iterable, input_shape: tuple, batch_size: int) -> Iterator[np.ndarray]:
    empty = True
    for element in source:
        images = element[0] if isinstance(element, tuple | list) else element
        _check(tuple(images.shape), input_shape, tuple(images.shape))
        empty = False
        for start in range(0, images.shape[0], batch_size):
            yield images[start : start + batch_size]
    if empty:
        raise ValueError("The dataset has no batches: nothing to measure.")


def _check(shape: tuple, input_shape: tuple, received: Any) -> None:
    fits = len(shape) == len(input_shape) and all(
        wanted in (None, side) for side, wanted in zip(shape[1:], input_shape[1:], strict=True)
    )
    if not fits or any(side is not None and side < 1 for side in shape):
        wanted = ("N", *input_shape[1:])
        raise ValueError(
            f"The model takes ({', '.join(map(str, wanted))}), None being any size, at least one "
            f"picture. Received: {received}"
        )
