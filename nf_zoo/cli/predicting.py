"""``nf-zoo predict`` and ``nf-zoo evaluate``."""

from __future__ import annotations

import dataclasses
import os
import warnings
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from rich.text import Text

from nf_zoo.cli.arguments import PredictionSettings
from nf_zoo.cli.output import console, import_backend, print_error, print_json, table
from nf_zoo.finetuning.settings import EvaluationSettings
from nf_zoo.hub.opening import SavedModel, answers, open_model
from nf_zoo.options import given
from nf_zoo.pictures.class_folders import (
    FolderError,
    find_splits,
    name_counts,
    name_some,
    pictures_in,
    printable,
)
from nf_zoo.pictures.images import load_image
from nf_zoo.pictures.predictions import decode_predictions

_UNDECODED = "The SavedModel cannot decode this file, but Pillow can: convert it to PNG or JPEG"
MOST_CLASSES = 40
BAR = 20


def predict_command(args: Namespace) -> int:
    """Print the likeliest classes of every picture; return 1 if some could not be read."""
    settings = PredictionSettings(**given(args, PredictionSettings))
    found = list(_list_files(args.files))
    if any("error" not in picture for picture in found):
        import_backend(args.debug)
        model = open_model(args.model)
        for start in range(0, len(found), settings.batch_size):
            _predict(model, found[start : start + settings.batch_size], settings.top)
    if args.json:
        print_json(found)
    else:
        _print_predictions(found)
    failed = [picture for picture in found if "error" in picture]
    for picture in failed:
        print_error(picture["error"])
    if failed and len(found) > 1:
        print_error(f"{len(failed)} of {len(found)} could not be read")
    return 1 if failed else 0


def _list_files(names: list[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        shown = printable(name)
        if not os.path.exists(name):
            yield {"file": shown, "error": f"There is no such picture file. Received: {shown}"}
            continue
        try:
            for path in pictures_in(name) if os.path.isdir(name) else [name]:
                yield {"file": printable(path), "path": path}
        except FolderError as error:
            yield {"file": shown, "error": printable(str(error))}


def _predict(model, found: list[dict[str, Any]], top: int) -> None:
    """Add to each picture its predictions, or the error of reading it."""
    pixels, read = [], []
    for picture in found:
        if "error" in picture:
            continue
        try:
            pixels.append(load_image(picture.pop("path")))
            read.append(picture)
        except (ValueError, OSError) as error:
            picture["error"] = printable(str(error))
    if not read:
        return
    rows = decode_predictions(answers(model, pixels), top, model)
    for picture, predictions in zip(read, rows, strict=True):
        picture["predictions"] = [prediction._asdict() for prediction in predictions]


def _print_predictions(found: list[dict[str, Any]]) -> None:
    rows = table("Picture", "Class", "=Probability")
    for picture in found:
        for rank, prediction in enumerate(picture.get("predictions", ())):
            style = "dim" if rank else "bold"
            share = prediction["probability"]
            text = f"{100 * share:5.1f} %  {'━' * round(BAR * share)}"
            cells = (Text(prediction["name"], style=style), Text(text, style=style))
            rows.add_row("" if rank else picture["file"], *cells)
    if rows.row_count:
        console().print(rows)


def evaluate_command(args: Namespace) -> int:
    """Print the accuracy on a folder; return 1 if some pictures could not be read."""
    settings = EvaluationSettings(**given(args, EvaluationSettings))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        find_splits(args.folder)
    import_backend(args.debug)
    from nf_zoo.finetuning import evaluate

    model = open_model(args.model)
    if isinstance(model, SavedModel):
        result = _evaluate_saved_model(model, args.folder, settings)
    else:
        result = evaluate(model, args.folder, **dataclasses.asdict(settings))
    if args.json:
        print_json(result)
    else:
        _print_evaluation(result)
    return 1 if result["skipped"] else 0


def _evaluate_saved_model(
    model: SavedModel, folder: str, settings: EvaluationSettings
) -> dict[str, Any]:
    """Return the result of ``evaluate``; the SavedModel itself decodes and prepares the files."""
    from nf_zoo.finetuning.evaluation import Evaluation
    from nf_zoo.finetuning.labeled_pictures import open_one

    pictures, labels, skipped, ignored = open_one(folder, model.labels, settings.strict)
    result, undecoded = Evaluation(labels), []
    for start in range(0, len(pictures), settings.batch_size):
        names = pictures.names[start : start + settings.batch_size]
        answers, valid = model.probabilities_of_files([pictures.root / name for name in names])
        result.add(answers[valid], pictures.classes[start : start + len(names)][valid])
        undecoded += [name for name, known in zip(names, valid, strict=True) if not known]
    if not len(pictures):
        raise ValueError(f"No picture can be read. Received: {name_some(list(skipped))}")
    if undecoded and (settings.strict or len(undecoded) == len(pictures)):
        raise ValueError(f"{_UNDECODED}. Received: {name_some(undecoded)}")
    skipped |= dict.fromkeys(map(printable, undecoded), _UNDECODED)
    return {**result.metrics(), "skipped": skipped, "ignored": ignored}


def _print_evaluation(result: dict[str, Any]) -> None:
    out = console()
    rows = table("Class", ">Pictures", ">Recall", ">Precision", ">F1")
    shown = classes = [row for row in result["per_class"] if row["support"]]
    if len(classes) > MOST_CLASSES:
        shown = sorted(classes, key=lambda row: row["f1"])[:MOST_CLASSES]
    for row in shown:
        figures = (f"{100 * row[name]:.1f}" for name in ("recall", "precision", "f1"))
        rows.add_row(row["label"], f"{row['support']:,}", *figures)
    out.print(rows)
    if len(shown) < len(classes):
        note = f"The {len(shown)} weakest of {len(classes)} classes; --json has all of them."
        out.print(Text(note, style="dim"))
    low, high = (100 * share for share in result["accuracy_interval"])
    accuracy = f"{100 * result['accuracy']:.2f} % (95 % confidence: {low:.1f} to {high:.1f} %)"
    headline = f"\nAccuracy {accuracy}"
    if "top5_accuracy" in result:
        headline += f", top-5 {100 * result['top5_accuracy']:.2f} %"
    out.print(Text(headline, style="bold"), f"on {result['pictures']:,} pictures")
    if result["skipped"]:
        names = name_some(list(result["skipped"]))
        note = f"Pictures skipped: {len(result['skipped'])} ({names}); --json says why"
        out.print(Text(note, style="dim"))
    if result["ignored"]:
        out.print(Text(f"Files ignored: {name_counts(result['ignored'])}", style="dim"))
