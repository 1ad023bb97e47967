"""Write a file or a folder aside, check it, swap it in: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a path to write to, which takes the place of ``path`` if, and only if, all goes well.

    The path given lies in an empty folder of its own beside ``path``, whose parents are made, and
    has the same name. If anything goes wrong inside, or when it is moved, ``path`` is as it was and
    nothing is left.

    Args:
        path: the file or folder to be written or replaced.

    Yields:
        Where to write it; nothing is there yet.

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
    """Move ``written`` to ``path``; a folder there goes to ``former``, or back if that fails."""
    # One step replaces a file, but no folder that holds anything.
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
