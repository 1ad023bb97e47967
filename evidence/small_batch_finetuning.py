"""Fine-tuning by batch size: normalizer-free networks against their BatchNorm twins.

A run is one call of ``nf_zoo.finetune`` on 40 pictures a class. The validation pictures choose
between two learning rates; the accuracy is of test pictures that decide nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from evidence.experiments import Setting, Task
from evidence.table import Table, measured
from evidence.transfer import some_classes, tested_on
from training.data.arrays import ArrayPictures, read_arrays, read_pictures

TRAINED, VALIDATED, TESTED = 40, 20, 100
"""Pictures of a class; the test pictures are at most so many."""

EPOCHS = 6
BATCH_SIZES = (1, 4, 32, 128, 8, 2)
"""In the order of the runs: those that show most come first."""


class Variant(NamedTuple):
    """Way to fine-tune.

    Attributes:
        network: which network of a set.
        options: of ``finetune``.
        change: function from the network to the one that is fine-tuned.
    """

    network: int
    options: dict = {}
    change: Callable[[Any], Any] | None = None


VARIANTS = {
    "NF": Variant(0),
    "BatchNorm": Variant(1),
    "BatchNorm, frozen": Variant(1, {"freeze": "batch_norm"}),
}

KEYS = ("set", "variant", "batch_size", "learning_rate")


@dataclasses.dataclass(frozen=True)
class PictureSet:
    """Pictures of ten classes, and the networks that learn them.

    Attributes:
        networks: checkpoint without normalization, and its BatchNorm twin.
        read: folder of the .npz files -> the pictures.
        options: of ``finetune``.
    """

    networks: tuple[str, str]
    read: Callable[[Path], ArrayPictures]
    options: dict = dataclasses.field(default_factory=dict)


def _stored(name: str) -> Callable[[Path], ArrayPictures]:
    return lambda folder: read_arrays(folder / name)


def _digits(folder: Path) -> ArrayPictures:
    """Return scikit-learn's digits as the quickstart draws them, the first 80 of each to train."""
    from nf_zoo.quickstart import SIDE, load_digits, write_digits

    del folder
    with tempfile.TemporaryDirectory() as drawn:
        write_digits(Path(drawn), *load_digits(), {"train": 80, "test": None})
        return read_pictures(drawn, "train", "test", SIDE)


TINY_IMAGENET = ("nf_resnet26.tiny_imagenet", "resnetv2_26.tiny_imagenet")
CIFAR10 = ("wide_resnet16_2.cifar10", "wide_resnet16_2.cifar10_bn")

SETS = {
    "CIFAR-10 (JPEG)": PictureSet(TINY_IMAGENET, _stored("cifar10.npz")),
    # A mirrored digit is not a digit.
    "digits": PictureSet(TINY_IMAGENET, _digits, {"flip": False}),
    "Tiny ImageNet": PictureSet(CIFAR10, _stored("tiny_imagenet_32.npz")),
}


def small_batch_finetuning(setting: Setting) -> Iterator[Task]:
    """Compare batches of 1 to 128, each cell at the better of two rates."""
    return compare(setting, "small_batch_finetuning", SETS, BATCH_SIZES, VARIANTS)


def compare(
    setting: Setting, name: str, sets: Iterable[str], batch_sizes: Iterable[int], variants: dict
) -> Iterator[Task]:
    """Yield a task for each cell and seed, which fine-tunes at the better of two rates.

    Args:
        setting: settings that all runs share.
        name: name of the CSV file.
        sets: names of ``SETS``.
        batch_sizes: in the order of the runs.
        variants: name -> :class:`Variant`.
    """
    table = Table(setting.output / f"{name}.csv", KEYS, also=("validation",))
    for one, seed, batch_size, variant in itertools.product(
        sets, range(setting.seeds), batch_sizes, variants
    ):
        cell = {"set": one, "variant": variant, "batch_size": batch_size}

        def task(cell=cell, seed=seed):
            rates, variant = rates_of(cell["batch_size"]), variants[cell["variant"]]
            at_the_better_rate(
                table, cell, rates, seed, lambda *run: _measured(setting, variant, *run)
            )

        yield task


def at_the_better_rate(
    table: Table, cell: dict, rates: Iterable[str], seed: int, measure: Callable[[dict, int], dict]
) -> None:
    """Run seed 0 at all rates, and another seed at the better one; existing rows are kept.

    Args:
        table: table with a column ``validation``.
        cell: keys of the table, but for ``learning_rate``.
        rates: learning rates, as the table has them.
        seed: seed to run.
        measure: (key, seed) -> row.
    """

    def run(rate: str, seed: int) -> None:
        key = {**cell, "learning_rate": rate}
        if not table.find(key, seed):
            row = table.add({**key, **measure(key, seed)})
            logging.info("%s", {name: row[name] for name in (*key, "seed", "top1", "seconds")})

    for rate in rates:
        run(rate, 0)
    if seed:
        run(chosen(table.rows(), **cell)[0]["learning_rate"], seed)


def rates_of(batch_size: int) -> tuple[str, str]:
    """Return the default rate, and a third of it, or three times for batches of 32 or more."""
    from nf_zoo.finetuning.settings import default_learning_rate

    rate = default_learning_rate(batch_size, pretrained=True)
    return f"{rate:.4g}", f"{rate * 3 if batch_size >= 32 else rate / 3:.4g}"


def chosen(rows: list[dict], **cell) -> list[dict]:
    """Return the runs of a cell at the rate with the better validation accuracy of seed 0."""
    runs = [row for row in rows if all(row[key] == str(one) for key, one in cell.items())]
    first = [row for row in runs if row["seed"] == "0"]
    if not first:
        return []
    best = max(first, key=lambda row: float(row["validation"] or 0.0))
    return [row for row in runs if row["learning_rate"] == best["learning_rate"]]


def _measured(setting: Setting, variant: Variant, key: dict, seed: int) -> dict:
    """Fine-tune and return the measured columns."""
    one = SETS[key["set"]]
    options = {**one.options, **variant.options}
    options |= {"batch_size": key["batch_size"], "learning_rate": float(key["learning_rate"])}
    options |= {"epochs": max(round(EPOCHS * setting.scale), 1)}
    pictures = _pictures(key["set"], setting.pictures)
    row, _ = _run(one.networks[variant.network], pictures, seed, options, variant.change)
    return row


@functools.lru_cache(maxsize=1)
def _pictures(name: str, folder: str) -> ArrayPictures:
    """Return the pictures of ten classes, with the first test pictures of each."""
    return tested_on(some_classes(SETS[name].read(Path(folder)), seed=0), TESTED)


def drawn(pictures: ArrayPictures, seed: int, trained: int, validated: int) -> tuple[tuple, tuple]:
    """Return the training and the validation pictures of a seed, from ``pictures.train``.

    Args:
        trained, validated: number of pictures of each class.
    """
    images, classes = pictures.train
    order = np.random.default_rng(seed).permutation(len(classes))
    members = [order[classes[order] == one] for one in range(len(pictures.labels))]
    train = np.concatenate([rows[:trained] for rows in members])
    validation = np.concatenate([rows[trained : trained + validated] for rows in members])
    return (images[train], classes[train]), (images[validation], classes[validation])


def _run(network: str, pictures: ArrayPictures, seed: int, options: dict, change=None):
    """Fine-tune and test; return the measured columns, and the result or None if it diverged.

    ``change`` turns the pretrained network into the one that is fine-tuned.
    """
    import keras

    import nf_zoo

    keras.backend.clear_session()
    start, found, result = time.monotonic(), {}, None
    train, validation = drawn(pictures, seed, TRAINED, VALIDATED)
    given = {"labels": pictures.labels, "validation_data": validation, "output": None}
    try:
        model = nf_zoo.create_model(network)
        model = change(model) if change else model
        result = nf_zoo.finetune(model, train, seed=seed, verbose=0, **given, **options)
    except FloatingPointError:
        logging.info("%s diverged", network)
    else:
        tested = nf_zoo.evaluate(result.model, pictures.test)
        found = {"top1": tested["accuracy"], "loss": tested["cross_entropy"]}
        found["validation"] = f"{100 * result.metrics['accuracy']:.2f}"
    words = ", ".join(f"{name}={value!r}" for name, value in options.items())
    network += f" {change.__name__}" if change else ""
    recipe = f"nf_zoo.finetune, {network}, {TRAINED} pictures a class, {words}"
    return measured(seed, start, recipe, **found), result


PARTS = {"32 x 1": {"accumulate": 1}, "4 x 8": {"accumulate": 8}}
"""Micro-batches of a step of 32 pictures."""


def accumulate(setting: Setting) -> Iterator[Task]:
    """Compare an epoch of whole batches with one of micro-batches, on CIFAR-10."""
    table = Table(setting.output / "accumulate.csv", ("variant", "step"), also=("difference",))
    name = next(iter(SETS))
    for seed, (variant, (network, options, _)) in itertools.product(
        range(setting.seeds), itertools.islice(VARIANTS.items(), 2)
    ):

        def task(seed=seed, variant=variant, network=SETS[name].networks[network], options=options):
            if table.find({"variant": variant, "step": "4 x 8"}, seed):
                return
            given = {**options, "epochs": 1, "warmup_epochs": 0, "batch_size": 32}
            pictures, rows, weights = _pictures(name, setting.pictures), [], [_weights(network)]
            for step, parts in PARTS.items():
                row, result = _run(network, pictures, seed, {**given, **parts})
                rows.append({"variant": variant, "step": step, **row})
                weights.append(_weights(result.model))
            rows[1]["difference"] = f"{relative_difference(*weights):.3g}"
            table.add_together(rows)

        yield task


def _weights(model) -> dict[str, np.ndarray]:
    """Return the trained variables of the body by path; the classifier starts anew in each run."""
    import keras

    import nf_zoo
    from nf_zoo.models.classifier import variable_names

    model = nf_zoo.create_model(model) if isinstance(model, str) else model
    trained = {id(variable) for variable in model.trainable_variables}
    return {
        name: keras.ops.convert_to_numpy(variable)
        for name, variable in variable_names(model).items()
        if id(variable) in trained and not name.startswith("head/")
    }


def relative_difference(start: dict, one: dict, other: dict) -> float:
    """Return the largest difference of two trained networks, by the largest change of the first.

    Args:
        start: name -> weight before the training.
        one, other: the same after it.
    """
    difference = max(np.abs(one[name] - other[name]).max() for name in start)
    return float(difference / max(np.abs(one[name] - start[name]).max() for name in start))


EXPERIMENTS: dict[str, Callable[[Setting], Iterator[Task]]] = {
    "small_batch_finetuning": small_batch_finetuning,
    "accumulate": accumulate,
}
