"""Files of a finished run: the model in two forms, its figures in report.json, plots and a page.

The plots use matplotlib's object interface: no pyplot.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import platform
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import MaxNLocator, PercentFormatter

import nf_zoo
from nf_zoo import atomic
from nf_zoo.deploy.exporting import LABELS_FILE, labels_text
from nf_zoo.finetuning.evaluation import (
    Evaluation,
    Sample,
    classifier_alone,
    evaluate_pictures,
    in_words,
    interval,
)
from nf_zoo.finetuning.labeled_pictures import Data
from nf_zoo.finetuning.report_page import write_page
from nf_zoo.finetuning.run_folder import REPORT
from nf_zoo.finetuning.settings import Settings

TRAINING, VALIDATION = "#4c72b0", "#dd8452"
RIGHT, WRONG = "#2e7d32", "#c62828"

_TITLES = {"cross_entropy": "Cross-entropy (nats)", "accuracy": "Accuracy"}
_NUMBERED = 20
_NAMED = 60
_COLUMNS = 8


def build_report(
    model,
    data: Data,
    settings: Settings,
    description: dict[str, Any],
    history: list[dict[str, Any]],
    seconds: dict[str, float],
    rows: int,
) -> tuple[dict[str, Any], Evaluation]:
    """Evaluate the fitted model and put everything about the run into one dict.

    The network is given ``rows`` pictures at a time.

    Returns:
        The report, JSON-able, with figures of the validation pictures everywhere but under
        ``"test"``; and the evaluation on the validation pictures, with samples.
    """
    labels = data.labels
    validation = evaluate_pictures(
        model, data.validation, labels, rows, samples=16, mistakes=8, seed=settings.seed
    )
    report = validation.metrics()
    if data.test is not None and len(data.test):
        report["test"] = evaluate_pictures(model, data.test, labels, rows).metrics()
    if (alone := classifier_alone(history)) is not None:
        bounds = interval(alone, len(data.validation))
        report["classifier_alone"] = {"accuracy": alone, "accuracy_interval": list(bounds)}
    backend = keras.backend.backend()
    histogram = np.bincount(data.train.classes, minlength=len(labels)).tolist()
    report |= {
        "epochs_trained": len(history),
        "counts": data.counts(),
        "train_per_class": dict(zip(labels, histogram, strict=True)),
        "skipped": data.skipped,
        "ignored": data.ignored,
        "findings": data.findings,
        "seed": settings.seed,
        "model": {"architecture": model.architecture, "options": model.options()},
        "run": description,
        "parameters": model.count_params(),
        "seconds": {"epochs": round(sum(row["seconds"] for row in history), 1), **seconds},
        "versions": {
            "nf_zoo": nf_zoo.__version__,
            "keras": keras.__version__,
            backend: importlib.import_module(backend).__version__,
            "python": platform.python_version(),
        },
    }
    return report, validation


def write_report(
    path: Path, model, report: dict[str, Any], history: list[dict], evaluation: Evaluation
) -> None:
    """Write the model, the report and the plots of a run into an empty folder.

    A warning names a plot or a SavedModel that cannot be made, and so does the report under
    ``"missing"``.
    """
    labels = evaluation.labels
    model.save(path / "model.keras")
    atomic.write_text(path / LABELS_FILE, labels_text(labels))
    atomic.write_rows(path / "history.csv", history[-1], history)
    _write_figures(path, report)
    missing = {}
    if keras.backend.backend() == "tensorflow":
        from nf_zoo.deploy.saved_model import export_saved_model

        with _optional(path / "saved_model", missing) as place:
            export_saved_model(model, place)
    pictures = int(evaluation.confusion.sum())
    plots = {
        "learning_curve.png": lambda place: learning_curve(history, place, pictures),
        "confusion_matrix.png": lambda place: confusion_matrix(evaluation.confusion, labels, place),
        "predictions.png": lambda place: picture_grid(evaluation, place),
    }
    families: list[str] = []
    for name, plot in plots.items():
        with _optional(path / name, missing) as place:
            families = families or _fonts_of_names(labels)
            with literal_text(families):
                plot(place)
    with _optional(path / "report.html", missing) as place:
        write_page(place, model, report, history, evaluation)
    if missing:
        report["missing"] = missing
        _write_figures(path, report)


def _write_figures(path: Path, report: dict[str, Any]) -> None:
    # One line for each row of a confusion matrix.
    text = json.dumps(report, indent=2, ensure_ascii=False)
    numbers = r"\[\n\s+(\d+(?:,\n\s+\d+)*)\n\s*\]"
    text = re.sub(numbers, lambda row: f"[{' '.join(row[1].split())}]", text)
    atomic.write_text(path / REPORT, f"{text}\n")


@contextlib.contextmanager
def _optional(path: Path, missing: dict[str, str]) -> Iterator[Path]:
    """Do without a file or folder that cannot be made; a full disk is still an error."""
    try:
        yield path
    except Exception as error:
        if atomic.is_full(error):
            raise
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        missing[path.name] = reason
        warnings.warn(
            f"{path.name} could not be made and is missing; everything else is there. {reason}",
            stacklevel=2,
        )


@contextlib.contextmanager
def literal_text(families: list[str]) -> Iterator[None]:
    """Let matplotlib draw texts as they are, in these fonts: ``$`` begins no formula."""
    settings = {"text.parse_math": False, "text.usetex": False, "font.family": families}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        yield


def _fonts_of_names(labels: Sequence[str]) -> list[str]:
    families, without = fonts_for("".join(map(_visible, labels)))
    if without:
        warnings.warn(
            "No installed font has these characters of the class names, and the plots show boxes: "
            f"{' '.join(without[:8])}. A font such as Noto Sans CJK has most; results are complete",
            stacklevel=2,
        )
    return families


def fonts_for(text: str) -> tuple[list[str], list[str]]:
    """Return font families that have the characters of a text together, and those none has.

    The families that matplotlib uses anyway come first; others are looked for only if needed.
    """
    families = list(matplotlib.rcParams["font.family"])
    wanted = {character for character in text if not character.isspace()}
    wanted -= _drawn_by(font_manager.findfont(font_manager.FontProperties()), wanted)
    having: dict[str, set[str]] = {families[0]: set()}
    for entry in font_manager.fontManager.ttflist if wanted else ():
        # The last resort draws a box for everything.
        if entry.style == "normal" and not entry.name.startswith("Last Resort"):
            having.setdefault(entry.name, set()).update(_drawn_by(entry.fname, wanted))
    while any(having[best := max(having, key=lambda name: len(having[name] & wanted))] & wanted):
        families.append(best)
        wanted -= having[best]
    return families, sorted(wanted)


def _drawn_by(file: str, characters: set[str]) -> set[str]:
    """Return the characters that a font can draw; a font of bitmaps can draw none."""
    try:
        font = FT2Font(file)
        codes = {ord(c) for c in characters} & set(font.get_charmap())
        for code in sorted(codes)[:1]:
            font.set_size(10, 100)
            font.load_char(code)
    except (OSError, RuntimeError):
        return set()
    return set(map(chr, codes))


def learning_curve(history: list[dict[str, Any]], path: Path, pictures: int | None = None) -> None:
    """Plot cross-entropy and accuracy by epoch, the head-only epochs shaded.

    With ``pictures``, the number of validation pictures, the accuracy on them has a band: its 95 %
    confidence interval.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [row["epoch"] for row in history]
    warmup = sum(row["phase"] == "head" for row in history)
    marker = "o" if len(epochs) <= 40 else None
    style = {"marker": marker, "markersize": 3.5, "linewidth": 1.6}
    for axes, key in zip(figure.subplots(1, 2), ("cross_entropy", "accuracy"), strict=True):
        # Epochs of an earlier version may lack a figure.
        training = [row.get(key, math.nan) for row in history]
        validation = [row.get(f"val_{key}", math.nan) for row in history]
        axes.plot(epochs, training, color=TRAINING, label="training", **style)
        axes.plot(epochs, validation, color=VALIDATION, label="validation", **style)
        if 0 < warmup < len(epochs):
            axes.axvspan(epochs[0] - 0.5, warmup + 0.5, color="0.92", label="classifier alone")
        axes.set(xlabel="epoch", title=_TITLES[key], xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        if key == "accuracy":
            lowest = min([*validation, *training])
            if pictures is not None:
                low, high = zip(*(interval(share, pictures) for share in validation), strict=True)
                band = {"color": VALIDATION, "alpha": 0.15, "linewidth": 0}
                axes.fill_between(epochs, low, high, label="95 % confidence", **band)
                lowest = min(lowest, *low)
            axes.set_ylim(max(min(0.5, lowest - 0.03), 0), 1.01)
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.axhline(validation[-1], color=VALIDATION, linewidth=0.7, linestyle=":")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
    )
    figure.savefig(path, dpi=120)


def confusion_matrix(confusion: np.ndarray, labels: tuple[str, ...], path: Path) -> None:
    """Plot true against predicted class, as shares of each true class; rows are true classes.

    With up to 20 classes each cell shows its count; with more, the most common confusions are
    listed beside the matrix. With up to 60 the sides name the classes.
    """
    listed = len(labels) > _NUMBERED
    side = 4.4 + (0.45 if not listed else 0.19) * min(len(labels), _NAMED)
    figure = Figure(figsize=(side + 0.8 + 4.6 * listed, side), layout="constrained")
    pictures = int(confusion.sum())
    right = int(np.trace(confusion))
    title = f"{right:,} of {pictures:,} right: {in_words(right / pictures, pictures)}"
    figure.suptitle(title, fontsize=14 if listed else 11, weight="bold")
    left = figure
    if listed:
        left, right = figure.subfigures(1, 2, width_ratios=(side + 0.8, 4.6))
        _list_confusions(right, confusion, labels)
    axes = left.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    where = "" if len(labels) <= _NAMED else " (line of labels.txt, from 0)"
    axes.set(xlabel=f"predicted{where}", ylabel="true")
    if len(labels) <= _NAMED:
        _name_sides(axes, labels)
    if not listed:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            style = {"fontsize": 9, "color": "white" if shares[row, column] > 0.5 else "0.15"}
            axes.text(column, row, confusion[row, column], ha="center", va="center", **style)
    bar = left.colorbar(image, ax=axes, shrink=0.7, aspect=30, format=PercentFormatter(1))
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    figure.savefig(path, dpi=120)


def picture_grid(evaluation: Evaluation, path: Path) -> None:
    """Plot random samples, and the worst mistakes apart, with their classes; mistakes are red."""
    groups = [("Validation pictures drawn at random", evaluation.samples)]
    if evaluation.mistakes:
        groups.append(("The most confident mistakes", evaluation.mistakes))
    rows = [max(-(-len(samples) // _COLUMNS), 1) for _, samples in groups]
    height, width = evaluation.samples[0].pixels.shape[:2]
    picture, text, header = 1.9 * height / width, 0.62, 0.5
    heights = [count * (picture + text) + header for count in rows]
    figure = Figure(figsize=(2.0 * _COLUMNS, sum(heights)))
    parts = figure.subfigures(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (title, samples), count, total in zip(parts, groups, rows, heights, strict=True):
        part.suptitle(title, fontsize=14, x=0.012, y=1 - 0.12 / total, ha="left", weight="bold")
        cells = part.subplots(count, _COLUMNS, squeeze=False).flat
        low, high = 0.5 * text / total, 1 - (header + 0.5 * text) / total
        part.subplots_adjust(0.012, low, 0.988, high, wspace=0.06, hspace=text / picture)
        for index, axes in enumerate(cells):
            axes.set_axis_off()
            if index < len(samples):
                _show(axes, samples[index], evaluation.labels)
    figure.savefig(path, dpi=100)


def _show(axes, sample: Sample, labels: tuple[str, ...]) -> None:
    color = RIGHT if sample.correct else WRONG
    axes.set_axis_on()
    axes.imshow(sample.pixels, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=2.5)
    predicted = f"{_shorten(labels[sample.predicted])} · {100 * sample.probability:.0f} %"
    axes.set_title(predicted, fontsize=10, color=color, pad=4)
    if not sample.correct:
        axes.set_xlabel(f"is {_shorten(labels[sample.true])}", fontsize=10, labelpad=3)


def _name_sides(axes, labels: tuple[str, ...]) -> None:
    names = [_shorten(label) for label in labels]
    slanted = {"rotation": 30, "rotation_mode": "anchor", "ha": "right"}
    axes.set_yticks(range(len(labels)), names)
    axes.set_xticks(
        range(len(labels)), names, **(slanted if len(labels) <= 6 else {"rotation": 90})
    )
    axes.tick_params(length=0, labelsize=9 if len(labels) <= _NUMBERED else 8)


def _list_confusions(figure, confusion: np.ndarray, labels: tuple[str, ...]) -> None:
    axes = figure.subplots()
    axes.set_axis_off()
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:25]
    lines = []
    for true, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if count := wrong[true, predicted]:
            lines.append(f"{count:4d}  {_shorten(labels[true])} as {_shorten(labels[predicted])}")
    text = "\n".join(["Most common confusions", *(lines or ["none"])])
    axes.text(0, 0.97, text, fontsize=11, va="top", linespacing=1.8)


def _visible(label: str) -> str:
    """Write what cannot be printed, line breaks and bytes that are not UTF-8, as escapes."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in label)
    return "".join(shown)


def _shorten(label: str, most: int = 18) -> str:
    label = _visible(label)
    return label if len(label) <= most else label[: most - 1] + "…"
