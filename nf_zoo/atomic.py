"""Write a file or a folder to one side, then swap it in: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path to write to; it replaces ``path`` only if nothing fails.

    The yielded path has the same name and lies in a new, empty folder beside ``path``; missing
    parents are created. If the block or the final move fails, ``path`` stays as it was and nothing
    is left behind.

    Args:
        path: the file or folder to write or replace.

    Yields:
        the path to write; nothing exists there yet.

    Example:
        >>> with replacing("notes.txt") as written:  # doctest: +SKIP
        ...     written.write_text("whole")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        written = Path(scratch, path.name)
        yield written
        swap(written, path, Path(scratch, f"{path.name}.former"))


def swap(written: Path, path: Path, former: Path) -> None:
    """Move ``written`` to ``path``; a folder there moves to ``former``, and back on failure."""
    # os.replace replaces a file in one step, but not a folder that holds anything.
    if is_folder := path.is_dir():
        os.replace(path, former)
    try:
        os.replace(written, path)
    except OSError:
        if is_folder:
            os.replace(former, path)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replacing(path) as written:
        written.write_text(text, encoding="utf-8")
