"""``nf-zoo export``."""

from __future__ import annotations

import re
from argparse import Namespace

from nf_zoo.cli.output import console, import_backend
from nf_zoo.deploy.formats import FORMATS, format_of
from nf_zoo.hub.opening import load_model
from nf_zoo.pictures.class_folders import pictures_in

MOST_PICTURES = 512
"""Most pictures, evenly chosen, that measure the ranges of the activations."""


def export_command(args: Namespace) -> int:
    """Write a model in one of the formats of ``nf_zoo.deploy.formats``."""
    row = format_of(args.output, args.format)
    names = dict.fromkeys(name for other in FORMATS.values() for name in other.options)
    given = {name: value for name in names if (value := getattr(args, name)) not in (None, False)}
    row.check_flags(list(given))
    if "pictures" in given:
        given["pictures"] = some_pictures(args.pictures)
    if "keep_float" in given:
        number = re.fullmatch(r"\d+", args.keep_float)
        given["keep_float"] = int(number[0]) if number else args.keep_float.split(",")
    row.target(args.output, args.overwrite)
    import_backend(args.debug, only_tensorflow=row.tensorflow)
    model = load_model(args.model)
    path, deviation = row.load().measured(model, args.output, args.overwrite, **given)
    out = console()
    change = f"at most {deviation:.1e} of the largest"
    if row.checks[given.get("precision", next(iter(row.checks)))] is None:
        change = f"{100 * deviation:.1f} % (rms), the price of eight bits"
    out.print(f"Exported to {path}. The exported model was run again from there; its outputs")
    out.print(f"differ from those of the Keras model by {change}.")
    out.print(row.usage.format(path=path, name=row.name))
    return 0


def some_pictures(folder: str) -> list[str]:
    """Return at most :data:`MOST_PICTURES` of a folder."""
    files = pictures_in(folder)
    return files[:: -(-len(files) // MOST_PICTURES)]
