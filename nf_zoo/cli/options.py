"""What the options of several commands share."""

from __future__ import annotations

import argparse
import ast
import re
from typing import Any

MODEL = (
    "a checkpoint (nf_resnet50.ra2_in1k, or nf_resnet50 for its default one), hf://owner/name, a "
    ".keras file, or a folder: of finetune, of save_pretrained, or a SavedModel. A name goes "
    "before a path; ./name is always a path"
)


def add_command(commands, name: str, function: str, help: str) -> argparse.ArgumentParser:
    """A command that ``function``, "module:function" in ``nf_zoo.cli``, carries out."""
    parser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.set_defaults(command=f"nf_zoo.cli.{function}")
    # Without its default: it would undo a --debug that stands before the command.
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks"
    )
    return parser


def add_json(parser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_batch_size(parser) -> None:
    """``--batch-size``."""
    parser.add_argument("--batch-size", type=int, default=32, help="pictures at a time (32)")


def image_size(text: str) -> tuple[int, int]:
    """``"224"`` -> (224, 224), ``"192x256"`` -> (192, 256): height, width."""
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected N or HEIGHTxWIDTH in pixels, not {text!r}")
    return int(match[1]), int(match[2] or match[1])


def field_value(text: str) -> tuple[str, Any]:
    """``"depths=1,1"`` -> ("depths", (1, 1)); a value that is no Python literal is a string."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals and value):
        raise argparse.ArgumentTypeError(f"expected FIELD=VALUE, not {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
