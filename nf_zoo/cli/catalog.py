"""``nf-zoo list`` and ``nf-zoo info``; listing does not import Keras."""

from __future__ import annotations

import dataclasses
import fnmatch
from argparse import Namespace
from collections.abc import Iterable
from typing import Any

from rich.text import Text

from nf_zoo.cli.output import console, import_backend, print_error, print_json, table
from nf_zoo.hub.catalog import PretrainedWeights, records_of
from nf_zoo.hub.models import list_models, model_info, parameter_counts
from nf_zoo.models.registry import architecture


def list_command(args: Namespace) -> int:
    """Print every network, or every checkpoint, whose name or data set matches."""
    rows = [_row(name) for name in list_models(pretrained=args.pretrained)]
    rows = [row for row in rows if _matches(args.pattern, row)]
    if args.json:
        print_json(rows)
    elif rows:
        _print_rows(rows)
    if not rows:
        print_error(f"nothing is called {args.pattern!r}; nf-zoo list shows everything")
    return 0 if rows else 1


def _matches(pattern: str, row: dict[str, Any]) -> bool:
    """Return True if a pattern fits a name of the row, or a part of one if it has no wildcard."""
    name = row["name"]
    names = [name, *(f"{name}.{tag}" for tag in row.get("checkpoints", ())), row["dataset"] or ""]
    if not set("*?[") & set(pattern):
        pattern = f"*{pattern}*"
    return any(fnmatch.fnmatchcase(each.lower(), pattern.lower()) for each in names)


def _row(name: str) -> dict[str, Any]:
    """Return a network with the figures of its first checkpoint, or a checkpoint with its own."""
    bare, _, tag = name.partition(".")
    records = [record for record in records_of(bare) if tag in ("", record.tag)]
    records.sort(key=lambda record: not record.default)
    figures = dict.fromkeys(("dataset", "input_size", "top1", "license", "shipped"))
    if records:
        figures = {key: getattr(records[0], key) for key in ("dataset", "top1", "license")}
        figures["input_size"] = list(records[0].preprocessing.input_size)
        figures["shipped"] = records[0].source == "shipped"
    own = {"checkpoints": [record.tag for record in records]}
    own = {"default": records[0].default} if tag else own
    return {
        "name": name,
        "factory": architecture(bare).factory,
        "parameters": _parameters(records[0]) if records else parameter_counts()[bare],
        **own,
        **figures,
    }


def _parameters(record: PretrainedWeights) -> int:
    """Return the parameters of a checkpoint, whose network may be narrower than its namesake."""
    counts = parameter_counts()
    return counts.get(record.name) or record.parameters or counts[record.architecture]


def _print_rows(rows: list[dict[str, Any]]) -> None:
    networks = "checkpoints" in rows[0]
    more = ["Checkpoints"] if networks else []
    names = ("=Data set", ">Input", ">Top-1", "=License", "=Weights")
    shown = table("=Name", "=Factory", ">Parameters", *more, *names)
    places = {None: "", True: "shipped", False: "to download"}
    for row in rows:
        tags = [", ".join(row["checkpoints"]) or Text("none", style="dim")] if networks else []
        shown.add_row(
            row["name"],
            Text(row["factory"], style="dim"),
            f"{row['parameters'] / 1e6:.1f} M",
            *tags,
            row["dataset"] or "",
            _size(row["input_size"]) if row["input_size"] else "",
            f"{row['top1']:.1f}" if row["top1"] else "",
            row["license"] or "",
            places[row["shipped"]],
        )
    console().print(shown)
    if networks:
        note = (
            "\nParameters, and the columns after Checkpoints, are those of the first checkpoint. "
            "It is the default if the network has one; a haiku checkpoint is the default with "
            "variant='paper'. Input in pixels, top-1 in %."
        )
        console().print(Text(note, style="dim"))


def info_command(args: Namespace) -> int:
    """Print size, cost, fields and checkpoints of a network."""
    architecture(args.name.partition(".")[0])
    import_backend(args.debug)
    info = model_info(args.name, args.size)
    if args.json:
        document = dataclasses.asdict(info)
        for record, fields in zip(info.weights, document["weights"], strict=True):
            fields |= {"name": record.name, "pinned": record.pinned, "trust": record.trust}
        print_json(document)
        return 0
    out = console()
    out.print(Text(info.name, style="bold"), Text(f"nf_zoo.{info.factory}()", style="dim"))
    out.print(
        f"{info.parameters:,} parameters; {info.multiply_adds / 1e9:.3g} G multiply-adds for a "
        f"picture of {_size(info.input_size)} pixels\n"
    )
    _print_config(out, info.config)
    _print_checkpoints(out, info.weights)
    return 0


def _print_config(out, config) -> None:
    fields = table("=Field", "Value")
    defaults = type(config)()
    for name, value in dataclasses.asdict(config).items():
        changed = value != getattr(defaults, name)
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        fields.add_row(name, Text(text, style="bold" if changed else ""))
    out.print(fields)
    out.print(Text("Bold: differs from the family's default.\n", style="dim"))


def _print_checkpoints(out, records: Iterable[PretrainedWeights]) -> None:
    if not records:
        out.print("No checkpoints are published for this network.")
        return
    for record in records:
        recipe = record.preprocessing
        where = record.url if record.source == "url" else record.filename
        if record.source == "hf":
            where = f"hf://{record.repository}@{record.revision}, {record.filename}"
        figures = {"top-1": record.top1, "top-5": record.top5}
        figures = [f"{name} {x:.2f} %" for name, x in figures.items() if x is not None]
        accuracy = (
            f"{', '.join(figures)} ({record.accuracy_source})" if figures else "none published"
        )
        default = "default" if record.default else ""
        out.print(Text(record.name, style="bold"), Text(default, style="dim"))
        rows = table("", "", show_header=False)
        rows.add_row("  source", f"{where} ({record.trust})")
        rows.add_row("  license", record.license)
        rows.add_row("  accuracy", accuracy)
        rows.add_row("  parameters", f"{_parameters(record):,}")
        rows.add_row("  classes", str(record.num_classes))
        rows.add_row(
            "  pictures",
            f"{_size(recipe.input_size)}, crop {recipe.crop_fraction:g} ({recipe.crop_mode}), "
            f"{recipe.interpolation}",
        )
        out.print(rows)


def _size(size) -> str:
    height, width = size
    return f"{height} x {width}"
