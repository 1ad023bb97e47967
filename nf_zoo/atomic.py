"""Write a file or a folder to one side, then swap it in: whole or not at all; alone in a folder."""

import contextlib
import csv
import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

_FORMER = ".nf_zoo-former"


@contextlib.contextmanager
def replacing(path: str | os.PathLike, *more: str | os.PathLike) -> Iterator[Path]:
    """Yield a path to write to; it replaces ``path`` only if nothing fails.

    The yielded path has the same name and lies in a new, empty folder beside ``path``; missing
    parents are created. If the block or the final move fails, ``path`` stays as it was and nothing
    is left behind. A link stays one: what it points to is replaced. Links to several files that
    belong together become files.

    ``more`` are files beside ``path`` that belong to it; the block writes them beside the yielded
    path, under their names. ``path`` never lies beside those of another writing: it goes first and
    comes last.

    Raises:
        OSError: for a folder that cannot be replaced; see :func:`check_movable`.
        IsADirectoryError: for a file where a folder is, which would be lost.
    """
    path = Path(path)
    if path.name in ("", "..") or (path.is_symlink() and not more):
        path = path.resolve()
    check_movable(path)
    with (
        _parents_of(path),
        tempfile.TemporaryDirectory(prefix=".nf_zoo-", dir=path.parent) as scratch,
    ):
        written = Path(scratch, path.name)
        yield written
        sync(Path(scratch))
        if more:
            _swap_together([*map(Path, more), path], Path(scratch))
        else:
            swap(written, path, Path(scratch, _FORMER))


def sync(folder: Path) -> None:
    """Write the files of a folder to the disk, so that a power failure leaves them whole."""
    for path in folder.rglob("*"):
        # A file that was kept from before may be read-only.
        if path.is_file() and os.access(path, os.R_OK | os.W_OK):
            with path.open("rb+") as file:
                os.fsync(file.fileno())


@contextlib.contextmanager
def _parents_of(path: Path) -> Iterator[None]:
    """Make the missing parents of a path; remove them again if the block fails."""
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # something else is in one of them by now
            for parent in missing:
                parent.rmdir()
        raise


def check_movable(path: Path) -> None:
    """Raise ``OSError`` for a folder that cannot be replaced: it could not move aside."""
    if path.is_dir() and (os.path.ismount(path) or Path.cwd().is_relative_to(path.resolve())):
        raise OSError(
            "This folder cannot be replaced, since it is a mount point or the working folder is in "
            f"it: choose a folder inside it. Received: {path}"
        )


def _swap_together(paths: list[Path], scratch: Path) -> None:
    """Move files of the scratch folder to ``paths``, the last one last, or put all back."""
    with contextlib.ExitStack() as undo:
        for number, path in enumerate(reversed(paths)):
            _keep_folder(path, scratch / path.name)
            if path.exists():
                former = scratch / f"{_FORMER}{number}"
                os.replace(path, former)
                undo.callback(os.replace, former, path)
        for path in paths:
            os.replace(scratch / path.name, path)
            undo.callback(os.remove, path)
        undo.pop_all()


def swap(written: Path, path: Path, former: Path) -> None:
    """Move ``written`` to ``path``; a folder there moves to ``former``, and back on failure."""
    _keep_folder(path, written)
    # os.replace replaces a file in one step, but not a folder that holds anything.
    if is_folder := path.is_dir():
        os.replace(path, former)
    try:
        os.replace(written, path)
    except BaseException:
        if is_folder:
            os.replace(former, path)
        raise


def _keep_folder(path: Path, written: Path) -> None:
    """Refuse to put a file where a folder is."""
    if path.is_dir() and written.is_file():
        raise IsADirectoryError(f"This is a folder, not a file to replace. Received: {path}")


@contextlib.contextmanager
def alone_in(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a folder, which must exist, so that no other process writes there too.

    It is free again after the block, and when this process ends, however it ends. Where the system
    or the file system has no locks, nothing is held.

    Raises:
        BlockingIOError: another process, or another block of this one, holds the folder.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # any other is that of a file system without locks
            if isinstance(error, BlockingIOError):
                raise BlockingIOError(
                    "Another run is writing to this folder. Wait until it ends, stop it, or choose "
                    f"another folder. Received: {folder}"
                ) from None
        yield
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    A name with bytes that are not UTF-8 is written with escapes, which JSON reads back.
    """
    with replacing(path) as written:
        written.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_rows(path: str | os.PathLike, fields: Iterable[str], rows: Iterable[dict]) -> Path:
    """Write a CSV with a header, whole or not at all, and return its path, with ``~`` expanded."""
    path = Path(path).expanduser()
    with replacing(path) as written, written.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(fields))
        writer.writeheader()
        writer.writerows(rows)
    return path


NO_SPACE = "No space is left on the disk"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: BaseException) -> bool:
    """Return True if writing failed for want of space, whichever library wrote."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(os.strerror(number) in str(error) for number in _FULL)


@contextlib.contextmanager
def explaining_full(explanation: str) -> Iterator[None]:
    """Raise ``OSError`` with an explanation, in one line, if the block runs out of space."""
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        told = OSError(f"{NO_SPACE}. {explanation}")
        told.errno = errno.ENOSPC
        raise told from error
