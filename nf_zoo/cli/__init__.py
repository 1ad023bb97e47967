"""The ``nf-zoo`` command.

Exit codes: 0 success; 1 some pictures could not be read, nothing was found, or a download or a
check of the catalog failed; 2 the command failed; 130 interrupted, by Ctrl+C or by ``SIGTERM``.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NoReturn

from nf_zoo.atomic import NO_SPACE, is_full
from nf_zoo.backend import is_out_of_memory
from nf_zoo.cli.arguments import build_parser

_EXPLAINED = (ValueError, OSError, ImportError, RuntimeError, FloatingPointError)
"""Errors that carry a message for users; any other is a bug and shows its traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, such as ``["list", "nf_resnet26"]``, and return the exit code."""
    parser = build_parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        _refuse(unknown, vars(args).get("parser", parser))
    if args.command is None:
        parser.print_help()
        return 0
    from nf_zoo.cli.output import accept_every_character, plain_warnings, print_error

    accept_every_character()
    module, _, function = args.command.partition(":")
    try:
        with _interrupted_by_sigterm(), plain_warnings(shown_in_full=args.debug):
            code = getattr(importlib.import_module(module), function)(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print_error("interrupted")
        return 130
    except BrokenPipeError:
        _give_up_output()
        return 1
    except Exception as error:
        if args.debug or (message := _message(error)) is None:
            raise
        print_error(_in_terms_of_options(message, vars(args)))
        _give_up_output()
        return 2


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """End on ``SIGTERM`` as on Ctrl+C, so that nothing half-written stays behind."""
    if threading.current_thread() is not threading.main_thread():  # there, no handler can be set
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _refuse(words: list[str], parser) -> NoReturn:
    """Exit with the usage of the command that does not know these words, and what they may mean."""
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    near = [difflib.get_close_matches(flag, parser._option_string_actions, 1) for flag in flags]
    meant = ", ".join(dict.fromkeys(name for names in near for name in names))
    parser.error(f"unknown: {' '.join(words)}" + (f". Did you mean {meant}?" if meant else ""))


def _message(error: Exception) -> str | None:
    """Return the line for users, or None for a bug."""
    from nf_zoo.hub.errors import WeightsError

    text = error.message if isinstance(error, WeightsError) else str(error)
    text = text or type(error).__name__
    # An error that explains itself has no number, and no text of the library that met it.
    if is_full(error) and not text.startswith(NO_SPACE):
        place = getattr(error, "filename", None)
        return f"{NO_SPACE}: {place}" if place else f"{NO_SPACE}."
    if is_out_of_memory(error) and not text.startswith("Out of memory"):
        return "Out of memory. Use smaller pictures, or fewer at a time, as with --batch-size 1"
    return text if isinstance(error, (*_EXPLAINED, MemoryError)) else None


def _give_up_output() -> None:
    """Keep Python from failing once more, at exit, over an output that takes nothing."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _in_terms_of_options(message: str, options: dict) -> str:
    """Replace ``overwrite=True``, ``epochs must`` and the like by ``--overwrite``, ``--epochs``."""
    message = message.replace("nf_zoo.list_models()", "`nf-zoo list`")
    flags = getattr(options.get("parser"), "_option_string_actions", {})
    named = {action.dest: flag for flag, action in reversed(flags.items())}
    for name in options:
        flag = named.get(name, "--" + name.replace("_", "-"))
        message = re.sub(rf"^{name}(?= must )|\b{name}=True( \({flag}\))?", flag, message)
    # None is what a flag has that is not given.
    return re.sub(r"^(--\S+ must be [^.]*?) or None(?=\.)", r"\1", message)
