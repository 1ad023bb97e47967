"""What a run leaves behind: the models, the figures, the pictures of both."""

from __future__ import annotations

import csv
import json
import platform
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import nf_zoo
from nf_zoo.finetuning import plots
from nf_zoo.finetuning.data import Data
from nf_zoo.finetuning.evaluation import Evaluation, evaluate_pictures
from nf_zoo.finetuning.run_folder import REPORT
from nf_zoo.finetuning.settings import Settings


def build_report(
    model,
    data: Data,
    settings: Settings,
    description: dict[str, Any],
    history: list[dict[str, Any]],
    seconds: dict[str, float],
) -> tuple[dict[str, Any], Evaluation]:
    """Evaluate the fitted model and put everything about the run into one dict.

    Args:
        model: the fitted ImageClassifier.
        data: its pictures; validation (and test, if there is one) are evaluated.
        settings: of the run.
        description: what decided the run's outcome.
        history: a row for each epoch.
        seconds: durations by name.

    Returns:
        The report, JSON-able, whose figures outside ``"test"`` are those of the validation
        pictures; and the evaluation on them, with pictures.
    """
    options = {"batch_size": settings.batch_size, "seed": settings.seed}
    validation = evaluate_pictures(
        model, data.validation, data.labels, samples=16, mistakes=8, **options
    )
    report = validation.metrics()
    if data.test is not None and len(data.test):
        report["test"] = evaluate_pictures(model, data.test, data.labels, **options).metrics()
    report |= {
        "epochs_trained": len(history),
        "counts": data.counts(),
        "train_per_class": dict(zip(data.labels, _histogram(data), strict=True)),
        "skipped": data.skipped,
        "ignored": data.ignored,
        "seed": settings.seed,
        "run": description,
        "parameters": model.count_params(),
        "seconds": {"epochs": round(sum(row["seconds"] for row in history), 1), **seconds},
        "versions": versions(),
    }
    return report, validation


def write_report(
    path: Path,
    model,
    report: dict[str, Any],
    history: list[dict[str, Any]],
    evaluation: Evaluation,
) -> None:
    """Fill an empty folder with everything ``finetune`` promises.

    Args:
        path: the folder.
        model: the fitted ImageClassifier.
        report: contents of ``report.json``.
        history: a row for each epoch.
        evaluation: on the validation pictures, with samples.
    """
    from nf_zoo.deploy.saved_model import export_saved_model

    labels = evaluation.labels
    model.save(path / "model.keras")
    export_saved_model(model, path / "saved_model")
    (path / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    with open(path / "history.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)
    plots.learning_curve(history, path / "learning_curve.png")
    plots.confusion_matrix(evaluation.confusion, labels, path / "confusion_matrix.png")
    plots.picture_grid(evaluation, path / "predictions.png")
    (path / REPORT).write_text(_to_json(report), encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of the software that made a result."""
    return {
        "nf_zoo": nf_zoo.__version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "python": platform.python_version(),
    }


def _histogram(data: Data) -> list[int]:
    return [int((data.train.classes == index).sum()) for index in range(len(data.labels))]


def _to_json(report: dict[str, Any]) -> str:
    """Indented, but with each row of a confusion matrix on a line of its own."""
    rows = {}

    def hold_back(value):
        if isinstance(value, dict):
            return {key: hold_back(item) for key, item in value.items()}
        if isinstance(value, list) and value and all(isinstance(item, int) for item in value):
            rows[mark := f"@row{len(rows)}@"] = json.dumps(value)
            return mark
        return [hold_back(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(hold_back(report), indent=2, ensure_ascii=False)
    for mark, row in rows.items():
        text = text.replace(f'"{mark}"', row, 1)
    return text + "\n"
