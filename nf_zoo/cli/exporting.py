"""``nf-zoo export``."""

from __future__ import annotations

from argparse import Namespace

from nf_zoo.cli.output import console, import_backend
from nf_zoo.deploy.formats import FORMATS, format_of
from nf_zoo.hub.opening import load_model
from nf_zoo.options import given
from nf_zoo.pictures.class_folders import pictures_in
from nf_zoo.pictures.images import readable

MOST_PICTURES = 512
"""Most pictures, evenly chosen, that measure the ranges of the activations."""


def export_command(args: Namespace) -> int:
    """Write a model in one of the formats of ``nf_zoo.deploy.formats``."""
    row = format_of(args.output, args.format)
    chosen = {}
    for other in FORMATS.values():
        chosen |= given(args, other.options)
    row.check_flags(list(chosen))
    if "pictures" in chosen:
        chosen["pictures"] = some_pictures(args.pictures)
    settings = row.options(**chosen)
    row.tolerance(settings)
    row.target(args.output, args.overwrite)
    import_backend(args.debug, only_tensorflow=row.tensorflow)
    model = load_model(args.model)
    path, deviation = row.load().measured(model, args.output, args.overwrite, settings)
    out = console()
    change = f"at most {deviation:.1e} of the largest output"
    if row.tolerance(settings) is None:
        change = f"{100 * deviation:.1f} % (rms), the price of eight bits"
    out.print(f"Exported to {path}. The export was run before it was put there; its outputs")
    out.print(f"differ from those of the Keras model by {change}.")
    out.print(row.usage.format(path=path, name=row.name))
    return 0


def some_pictures(folder: str) -> list[str]:
    """Return at most :data:`MOST_PICTURES` of a folder, those that can be read."""
    files = pictures_in(folder)
    return readable(files[:: -(-len(files) // MOST_PICTURES)])
