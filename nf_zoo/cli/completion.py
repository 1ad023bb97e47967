"""``nf-zoo completion``: a script that makes a shell complete the command, by shtab."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterator

from nf_zoo.cli.arguments import EXPORTED, MODEL, build_parser
from nf_zoo.hub.models import list_models

_PATHS = ("FILE", "FOLDER", "PATH", "DIR")
_MODELS = {"bash": "_nf_zoo_models", "zsh": "_nf_zoo_models"}
_PREAMBLE = {
    "bash": '_nf_zoo_models() {{ compgen -W "{names}" -- "$1"; compgen -f -- "$1"; }}',
    "zsh": "_nf_zoo_models() {{ _alternative 'n:name:({names})' 'f:file:_files' }}",
}


def completion_command(args: Namespace) -> int:
    """Print the script of a shell."""
    import shtab

    parser = build_parser()
    for action in _actions(parser):
        if (action.help or "").endswith((MODEL, EXPORTED)) or action.dest in ("name", "model"):
            action.complete = _MODELS
        elif action.metavar in _PATHS or action.dest in ("folder", "output", "files"):
            action.complete = shtab.FILE
    names = " ".join([*list_models(), *list_models(pretrained=True)])
    preamble = {shell: text.format(names=names) for shell, text in _PREAMBLE.items()}
    print(shtab.complete(parser, args.shell, preamble=preamble))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield every argument of a parser and of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
