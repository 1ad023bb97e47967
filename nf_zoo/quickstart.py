"""A tour of about two minutes on a CPU: fine-tune, compare, export, serve.

A small network pretrained on CIFAR-10 learns handwritten digits from a few pictures of each, and
so does the same network from scratch.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nf_zoo.cli.output import table
from nf_zoo.finetuning.settings import QuickstartSettings
from nf_zoo.options import takes
from nf_zoo.pictures.predictions import decode_predictions

ARCHITECTURE = "wide_resnet16_2"
SIDE = 32
RECORD = "quickstart.json"
TOLERANCE = 1e-4
TITLES = {"fine_tuned": "Pretrained", "from_scratch": "From scratch"}

SCRIPT = '''\
"""Predict with the exported network. TensorFlow is enough: nf_zoo is not imported.

    python predict.py PICTURE...
"""

import argparse
import sys
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__.partition("\\n")[0])
parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="a file")
names = parser.parse_args().pictures

import tensorflow as tf

model = tf.saved_model.load(str(Path(__file__).parent / "fine_tuned" / "saved_model"))
pictures = [Path(name).read_bytes() for name in names]
answer = model.signatures["serving_bytes"](image_bytes=tf.constant(pictures))
found = zip(names, answer["labels"].numpy(), answer["scores"].numpy(), strict=True)
for name, labels, scores in found:
    print(name, labels[0].decode(), f"{scores[0]:.6f}", sep="\\t")
assert "nf_zoo" not in sys.modules
'''


@takes(QuickstartSettings)
def quickstart(
    output: str | os.PathLike = "nf-zoo-quickstart", *, settings: QuickstartSettings, **fields: Any
) -> dict[str, Any]:
    """Fine-tune a small network on scikit-learn's digits, export it, and report in the terminal.

    Args:
        output: folder to write: digits/ (the pictures), fine_tuned/ (the output of
            ``finetune``), predict.py (uses the SavedModel), quickstart.json.
        {settings}
        **fields: options of the network, as for ``create_model``.

    Returns:
        the contents of quickstart.json: ``fine_tuned`` and ``from_scratch``, each with
        ``test_accuracy``, ``wrong`` and ``seconds``; ``served``, predictions of the SavedModel in
        its own process, or None if Keras does not run on TensorFlow, which writes it;
        ``network``, ``pretrained``, ``pictures``, ``epochs``, ``seed`` and ``seconds``.

    Raises:
        FileExistsError: if ``output`` is not empty, unless it holds an earlier quickstart and
            ``overwrite`` is true.
        ValueError: if the digits have too few pictures for all that is asked for.
        RuntimeError: if the SavedModel answers differently from the Keras model.

    Example:
        >>> from nf_zoo.quickstart import quickstart
        >>> quickstart("first-steps")["fine_tuned"]["test_accuracy"]  # doctest: +SKIP
        0.93
    """
    from nf_zoo.finetuning import finetune

    began, output = time.monotonic(), Path(output).expanduser()
    digits = load_digits()
    _check_shares(digits[1], settings)
    _take_folder(output, settings.overwrite)
    # Bound to the terminal itself: sys.stdout is redirected during training.
    console = Console(file=sys.stdout, markup=False, emoji=False, highlight=False)
    shares = {
        "train": settings.training_pictures,
        "val": settings.validation_pictures,
        "test": settings.test_pictures,
    }
    counts = write_digits(output / "digits", *digits, shares)
    record: dict[str, Any] = {"network": ARCHITECTURE, "pretrained": str(settings.pretrained)}
    record |= {"pictures": counts, "epochs": settings.epochs, "seed": settings.seed}
    _print_beginning(console, output, record)
    # A mirrored digit is not a digit.
    options = {"epochs": settings.epochs, "flip": False, "verbose": 2}
    options |= {"seed": settings.seed, "overwrite": settings.overwrite}
    results = {}
    for name, model in _networks(settings.pretrained, abs(settings.seed) % 2**31, fields):
        place = output / name if name == "fine_tuned" else None
        with _live(console, TITLES[name], settings.epochs):
            results[name] = finetune(model, output / "digits", output=place, **options)
        record[name] = _summary(results[name])
    _print_comparison(console, record)
    record["served"] = None
    if results["fine_tuned"].output.joinpath("saved_model").exists():
        record["served"] = _serve(output, results["fine_tuned"].model)
        _print_served(console, record["served"])
    record["seconds"] = round(time.monotonic() - began, 1)
    (output / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    _print_end(console, output, record["seconds"])
    return record


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return 1797 pictures (N, 8, 8), values 0..16, and the digits they show."""
    from sklearn import datasets

    digits = datasets.load_digits()
    return digits.images, digits.target


def _check_shares(classes: np.ndarray, settings: QuickstartSettings) -> None:
    there = int(np.bincount(classes).min())
    shares = settings.training_pictures, settings.validation_pictures, settings.test_pictures
    if sum(share or 1 for share in shares) > there:
        raise ValueError(
            "The pictures to train, to validate and to test on (at least 1 each) must be at most "
            f"{there} together, as many as each digit has. Received: "
            f"{', '.join(map(str, shares))}"
        )


def _take_folder(output: Path, overwrite: bool) -> None:
    """Create the folder and mark it as a quickstart's, so that it can be replaced later."""
    record = output / RECORD
    taken = output.is_file() or (output.is_dir() and any(output.iterdir()))
    if taken and not record.is_file():
        raise FileExistsError(
            f"The folder already holds something else: choose another. Received: {output}"
        )
    if taken and not overwrite:
        raise FileExistsError(
            "The folder holds an earlier quickstart: choose another, or pass overwrite=True. "
            f"Received: {output}"
        )
    output.mkdir(parents=True, exist_ok=True)
    record.write_text("{}\n", encoding="utf-8")


def write_digits(
    root: Path, images: np.ndarray, classes: np.ndarray, shares: dict[str, int | None]
) -> dict[str, int]:
    """Write train/, val/ and test/ with a folder for each digit; return the picture counts."""
    shutil.rmtree(root, ignore_errors=True)
    counts = dict.fromkeys(shares, 0)
    for digit in range(10):
        indices = iter(np.flatnonzero(classes == digit))
        for split, share in shares.items():
            folder = root / split / str(digit)
            folder.mkdir(parents=True)
            for index in itertools.islice(indices, share):
                pixels = np.round(images[index] * (255 / 16)).astype(np.uint8)
                picture = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                picture.convert("RGB").save(folder / f"{index:04d}.png")
                counts[split] += 1
    return counts


def _networks(pretrained, seed: int, fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the pretrained network and its untrained twin."""
    import keras

    from nf_zoo.hub.models import create_model
    from nf_zoo.models.classifier import build_model

    if pretrained is False:
        fields = {"preprocessing": {"input_size": SIDE, "crop_fraction": 1.0}, **fields}
    keras.utils.set_random_seed(seed)
    model = create_model(ARCHITECTURE, pretrained, **fields)
    yield "fine_tuned", model
    keras.utils.set_random_seed(seed)
    options = {**model.options(), "preprocessing": model.preprocessing, "dtype": model.dtype_policy}
    yield "from_scratch", build_model(ARCHITECTURE, **options)


def _summary(result) -> dict[str, Any]:
    test = result.metrics["test"]
    return {
        "test_accuracy": test["accuracy"],
        "wrong": round((1 - test["accuracy"]) * test["pictures"]),
        "seconds": round(sum(row["seconds"] for row in result.history), 1),
    }


def _serve(output: Path, model) -> list[dict[str, Any]]:
    """Predict with the SavedModel in a process without nf_zoo; compare with the Keras model."""
    script = output / "predict.py"
    script.write_text(SCRIPT, encoding="utf-8")
    pictures = [
        min(folder.iterdir()) for folder in sorted((output / "digits" / "test").iterdir())[::2]
    ]
    run = subprocess.run(
        [sys.executable, "-P", script.name, *(str(path.relative_to(output)) for path in pictures)],
        cwd=output,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    if run.returncode:
        raise RuntimeError(f"{script} failed: {run.stderr.strip()[-1000:]}")
    rows = [line.split("\t") for line in run.stdout.splitlines()]
    outputs = model.predict_on_batch(model.preprocess(pictures))
    served = []
    answers = decode_predictions(outputs, 1, model)
    for (name, label, probability), path, (own,) in zip(rows, pictures, answers, strict=True):
        served.append(
            {
                "file": name,
                "digit": path.parent.name,
                "saved_model": [label, float(probability)],
                "keras": [own.name, own.probability],
            }
        )
    _check_served(served)
    return served


def _check_served(served: list[dict[str, Any]]) -> None:
    for row in served:
        (label, probability), (own_label, own_probability) = row["saved_model"], row["keras"]
        if label != own_label or abs(probability - own_probability) > TOLERANCE:
            raise RuntimeError(
                "The SavedModel answers differently from the Keras model. Received for "
                f"{row['file']}: {label} ({probability:.6f}) and {own_label} "
                f"({own_probability:.6f})"
            )


@contextlib.contextmanager
def _live(console: Console, title: str, epochs: int) -> Iterator[None]:
    """Show a spinner with the latest figures instead of the output of a run."""
    with console.status(f"{title}: getting ready") as status:
        line = _LastLine(lambda text: status.update(Text(f"{title}: {text}")), epochs)
        with contextlib.redirect_stdout(line):
            yield


class _LastLine(io.TextIOBase):
    """Stand-in for stdout that shows the accuracy of each epoch written to it."""

    def __init__(self, show: Callable[[str], None], epochs: int):
        self._show, self._epochs, self._done = show, epochs, 0

    def write(self, text: str) -> int:
        if match := re.search(r"val_accuracy: ([\d.]+)", text):
            self._done += 1
            right = f"{float(match[1]):.0%} of the validation pictures right"
            last = "; now the test pictures" if self._done == self._epochs else ""
            self._show(f"{self._done} of {self._epochs} epochs, {right}{last}")
        return len(text)


def _print_beginning(console: Console, output: Path, record: dict[str, Any]) -> None:
    counts = record["pictures"]
    console.print(Text("Handwritten digits, learned from a few pictures of each", style="bold"))
    console.print(
        f"{sum(counts.values()):,} scanned digits that come with scikit-learn, as pictures in "
        f"{output / 'digits'}: {counts['train']} to learn from, {counts['val']} to monitor "
        f"training, {counts['test']:,} to compare the networks on. "
        f"{record['network']} learns them twice, {record['epochs']} epochs each: pretrained "
        f"({record['pretrained']}), and from scratch.\n"
    )


def _print_comparison(console: Console, record: dict[str, Any]) -> None:
    rows = table("", ">Test pictures right", ">Wrong")
    for name, title in TITLES.items():
        row = record[name]
        right = Text(f"{100 * row['test_accuracy']:.1f} %", style="bold")
        rows.add_row(title, right, str(row["wrong"]))
    console.print(rows)
    console.print("Pretraining saves epochs: with more of them, the gap narrows.", style="dim")


def _print_served(console: Console, served: list[dict[str, Any]]) -> None:
    console.print(
        "\nThe fine-tuned network, exported as a SavedModel and loaded in a fresh Python process "
        "without nf_zoo, gives the same answers as the Keras model:\n"
    )
    rows = table("Picture", ">Shows", ">SavedModel", ">Probability")
    for row in served:
        label, probability = row["saved_model"]
        style = "green" if label == row["digit"] else "red"
        rows.add_row(
            row["file"], row["digit"], Text(label, style=style), f"{100 * probability:.1f} %"
        )
    console.print(rows)


def _print_end(console: Console, output: Path, seconds: float) -> None:
    tuned = output / "fine_tuned"
    console.print(Text(f"\nIn {output} ({seconds:.0f} s in all)", style="bold"), soft_wrap=True)
    rows = Table.grid(padding=(0, 3))
    for path, what in (
        (output / "digits", "the pictures: a folder for each digit"),
        (tuned / "model.keras", "the fine-tuned network"),
        (tuned / "saved_model", "the same for TensorFlow Serving or plain TensorFlow"),
        (tuned / "report.html", "the report: curves, confusion matrix, mistakes; for a browser"),
        (tuned / "report.json", "every figure of the report"),
        (tuned / "predictions.png", "some pictures with the network's predictions"),
        (output / "predict.py", "predicts with the SavedModel, without nf_zoo"),
    ):
        if path.exists():
            rows.add_row(str(path.relative_to(output)), Text(what, style="dim"))
    console.print(rows)
    console.print(Text("\nWhat next", style="bold"))
    folders = sorted((output / "digits" / "test").iterdir())[1::3]
    network, digits, *pictures = (
        shlex.quote(str(x))
        for x in (tuned, output / "digits", *(min(x.iterdir()) for x in folders))
    )
    for line in (
        f"nf-zoo predict {network} {' '.join(pictures)} --top 3",
        f"nf-zoo evaluate {network} {digits}",
        "nf-zoo finetune YOUR_PICTURES --model nf_resnet26.tiny_imagenet --output my_model",
        "nf-zoo list --pretrained",
    ):
        console.print(f"  {line}", soft_wrap=True)
