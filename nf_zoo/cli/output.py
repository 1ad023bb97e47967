"""Output of the command, and silence for the notices of others."""

from __future__ import annotations

import codecs
import contextlib
import importlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nf_zoo.backend import LOG_LEVEL, require_tensorflow
from nf_zoo.extras import remedy

WIDTH_OF_A_PIPE = 200

_BACKENDS = ("tensorflow", "jax", "torch")
_PACKAGE = str(Path(__file__).resolve().parent.parent)


def _write_otherwise(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks: lines by dashes, others by escapes."""
    found = error.object[error.start : error.end]
    text = "".join(c if c.isascii() else _LIKE.get(c) or ascii(c)[1:-1] for c in found)
    return text, error.end


_LIKE = {"━": "-", "…": "...", "·": "-"}


def accept_every_character() -> None:
    """Let stdout and stderr take any text, in any encoding, and be closed.

    A terminal of cp1252 or ASCII has no ``━``, and not the names of all classes; a file name may
    hold bytes that are not UTF-8. None of that may cost a result.
    """
    codecs.register_error("nf_zoo", _write_otherwise)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="nf_zoo")


def console(stderr: bool = False) -> Console:
    """Return a console that prints text literally, wide if the output is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDTH_OF_A_PIPE
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def table(*columns: str, **options) -> Table:
    """Return a borderless table; ``"=Name"`` is not wrapped, ``">N"`` is also aligned right."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0), **options)
    for column in columns:
        form = {"no_wrap": column.startswith(("=", ">")), "overflow": "fold"}
        side = "right" if column.startswith(">") else "left"
        made.add_column(column.lstrip("=>"), justify=side, **form)
    return made


def print_error(message: str) -> None:
    """Print one red line on stderr."""
    text = Text(f"nf-zoo: {' '.join(message.split(chr(10)))}", style="red")
    console(stderr=True).print(text, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as indented JSON, in ASCII unless the terminal takes UTF-8."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    print(json.dumps(value, indent=2, ensure_ascii=not unicode))


@contextlib.contextmanager
def plain_warnings(shown_in_full: bool = False) -> Iterator[None]:
    """Print warnings of this library as one line on stderr and drop those of others."""
    if shown_in_full:
        yield
        return

    def show(message, category, filename, lineno, file=None, line=None):
        if str(filename).startswith(_PACKAGE):
            text = Text(f"warning: {message}", style="yellow")
            console(stderr=True).print(text, soft_wrap=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def import_backend(debug: bool = False, only_tensorflow: bool = False) -> None:
    """Import Keras and its backend, silently unless ``debug``; see :func:`nf_zoo.backend.quiet`.

    The backend must be installed. With ``only_tensorflow`` it must be TensorFlow.
    """
    # Off by default on some processors, where convolutions then take about twice as long.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if debug:
        os.environ.setdefault(LOG_LEVEL, "0")
    try:
        keras = importlib.import_module("keras")
        if keras.backend.backend() == "tensorflow" and not debug:
            importlib.import_module("tensorflow").get_logger().setLevel("ERROR")
    except ModuleNotFoundError as error:
        if error.name not in _BACKENDS:
            raise
        raise ImportError(
            f"Keras is set to a backend that is not installed: {remedy(error.name)}, or set "
            f"KERAS_BACKEND to one that is. Received: backend {error.name!r}"
        ) from error
    if only_tensorflow:
        require_tensorflow("This command")
