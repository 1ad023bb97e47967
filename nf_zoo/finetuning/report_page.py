"""``report.html``: the report of a run as one page, for a browser without a network."""

from __future__ import annotations

import base64
import html
import importlib.resources
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from nf_zoo import atomic
from nf_zoo.finetuning.evaluation import Evaluation, Sample, in_words, interval
from nf_zoo.models.grad_cam import grad_cam
from nf_zoo.pictures.class_folders import printable
from nf_zoo.pictures.heat import heat_overlay
from nf_zoo.pictures.images import as_input, input_of

LARGEST_SIDE = 320
"""Longer side in pixels to which pictures are reduced."""
_CLASSES = 20
"""Classes that a reader without scripts sees."""
_LEFT_OUT = ("confusion_matrix", "per_class", "labels", "train_per_class", "model", "run")


def write_page(
    path: Path, model, report: dict[str, Any], history: list[dict], evaluation: Evaluation
) -> None:
    """Write the page of a finished run, as :func:`~nf_zoo.finetuning.report.write_report` has it.

    The template is report.html beside this file; it draws everything from one JSON object.
    """
    # Neither a class name nor a file name can end the script, and NaN is no JSON.
    text = json.dumps(_without_nan(_contents(model, report, history, evaluation)), allow_nan=False)
    template = importlib.resources.files("nf_zoo.finetuning").joinpath("report.html")
    page = Template(template.read_text(encoding="utf-8"))
    main = "\n".join(f"<p>{html.escape(printable(line))}</p>" for line in _main_figures(report))
    atomic.write_text(path, page.substitute(data=text.replace("<", "\\u003c"), main=main))


def _main_figures(report: dict[str, Any]) -> Iterator[str]:
    """Yield what a reader without scripts sees: the accuracies, the classes, the files beside."""
    for where, figures in (("Validation", report), ("Test", report.get("test", {}))):
        if "accuracy" in figures:
            share = in_words(figures["accuracy"], figures["pictures"])
            yield f"{where} accuracy {share} of {figures['pictures']:,} pictures."
    for row in report.get("per_class", [])[:_CLASSES]:
        yield f"{row['label']}: {100 * row['recall']:.1f} % of {row['support']:,} pictures right."
    if (more := len(report.get("per_class", [])) - _CLASSES) > 0:
        yield f"{more:,} more classes: see report.json."


def _contents(model, report, history, evaluation: Evaluation) -> dict[str, Any]:
    rows, columns = np.nonzero(evaluation.confusion)
    counts = evaluation.confusion[rows, columns]
    pictures = int(evaluation.confusion.sum())
    classes = report.get("per_class", [])
    return {
        "report": {name: value for name, value in report.items() if name not in _LEFT_OUT},
        "network": report.get("model", {}),
        "start": report.get("run", {}).get("started_from", {}),
        "settings": report.get("run", {}).get("settings", {}),
        "labels": list(evaluation.labels),
        "confusion": np.stack([rows, columns, counts], axis=1).tolist(),
        "classes": [
            {**row, "interval": interval(row["recall"], row["support"]) if row["support"] else None}
            for row in classes
        ],
        "history": [
            {**row, "interval": interval(row["val_accuracy"], pictures)}
            if math.isfinite(row.get("val_accuracy", math.nan)) and pictures
            else row
            for row in history
        ],
        "samples": [_picture(sample) for sample in evaluation.samples],
        "mistakes": _with_heat(model, evaluation.mistakes),
    }


def _with_heat(model, mistakes: list[Sample]) -> list[dict[str, Any]]:
    """Describe wrong predictions, with the parts that spoke for the wrong class."""
    if not mistakes:
        return []
    pixels = np.stack([sample.pixels for sample in mistakes])
    images = as_input(pixels, model.preprocessing, **input_of(model))
    maps = grad_cam(model, images, [sample.predicted for sample in mistakes])
    return [
        {**_picture(sample), "heat": _encoded(heat_overlay(heat, sample.pixels.shape[:2]), "PNG")}
        for sample, heat in zip(mistakes, maps, strict=True)
    ]


def _picture(sample: Sample) -> dict[str, Any]:
    return {
        "src": _encoded(Image.fromarray(sample.pixels), "JPEG", quality=88),
        "true": sample.true,
        "predicted": sample.predicted,
        "probability": sample.probability,
        "name": sample.name,
    }


def _encoded(image: Image.Image, form: str, **options) -> str:
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    file = io.BytesIO()
    image.save(file, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
