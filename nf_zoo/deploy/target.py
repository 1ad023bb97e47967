"""What an export needs: modules of an extra, a place that may be written, the right answers."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

import numpy as np


def require(extra: str, *names: str) -> list[ModuleType]:
    """The modules of an extra.

    Raises:
        ImportError: in one line that says what to install.
    """
    try:
        return [importlib.import_module(name) for name in names]
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in {name.partition(".")[0] for name in names}:
            raise
        raise ImportError(
            f"This needs {package}, which is not installed: pip install 'nf-zoo[{extra}]'"
        ) from error


def check_target(path: str | os.PathLike, overwrite: bool, is_folder: bool = False) -> Path:
    """The path, if something may be written there.

    Raises:
        FileExistsError: if it exists and may not be replaced, or is not of the kind to replace.
    """
    path = Path(path)
    kind = "folder" if is_folder else "file"
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"The {kind} exists already: choose another, or pass overwrite=True (--overwrite). "
            f"Received: {path}"
        )
    if path.exists() and path.is_dir() != is_folder:
        raise FileExistsError(
            f"A {kind} is to be written, and what is there is none: choose another path. "
            f"Received: {path}"
        )
    return path


def check_answers(expected, actual, tolerance: float) -> None:
    """Compare what an exported model says with what the Keras model says.

    Args:
        expected: arrays of the Keras model.
        actual: as many arrays.
        tolerance: share of the largest expected value, or of 1 if that is larger.

    Raises:
        RuntimeError: if they differ by more, or in shape.
    """
    for wanted, found in zip(expected, actual, strict=True):
        wanted, found = np.asarray(wanted, "float32"), np.asarray(found, "float32")
        gap = np.inf
        if wanted.shape == found.shape:
            gap = float(np.abs(found - wanted).max(initial=0.0))
        if not gap <= tolerance * max(1.0, float(np.abs(wanted).max(initial=0.0))):
            raise RuntimeError(
                "The exported model does not answer as the Keras model does, so nothing was "
                f"written. Received: a difference of {gap:.2g}"
            )
