"""The ``nf-zoo`` command.

Exit codes: 0 success; 1 some pictures could not be read, or nothing was found; 2 the command
failed; 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence

from nf_zoo.cli.arguments import build_parser

_EXPLAINED = (ValueError, OSError, ImportError, RuntimeError, FloatingPointError)
"""Errors that carry a message for users; any other is a bug and shows its traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; ``sys.argv[1:]`` by default.

    Returns:
        The exit code.

    Example:
        >>> main(["list", "nf_resnet26", "--json"])  # doctest: +SKIP
        0
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    from nf_zoo.cli.output import plain_warnings, print_error

    module, _, function = args.command.partition(":")
    try:
        with plain_warnings(shown_in_full=args.debug):
            code = getattr(importlib.import_module(module), function)(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print_error("interrupted")
        return 130
    except BrokenPipeError:
        # The reader closed the pipe; this keeps Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _EXPLAINED as error:
        if args.debug:
            raise
        print_error(_in_terms_of_options(str(error) or type(error).__name__, vars(args)))
        return 2


def _in_terms_of_options(message: str, options: dict) -> str:
    """Replace ``overwrite=True`` and ``epochs must`` by ``--overwrite`` and ``--epochs must``."""
    for name in options:
        flag = "--" + name.replace("_", "-")
        message = re.sub(rf"^{name}(?= must )|\b{name}=True( \({flag}\))?", flag, message)
    return message
