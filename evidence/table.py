"""Table of measurements in a CSV file that several processes may add to."""

from __future__ import annotations

import fcntl
import json
import time
from pathlib import Path

from benchmarks.tables import read_table, write_table
from training import provenance
from training import recipe as recipes

MEASURED = ("seed", "outcome", "top1", "loss", "seconds", "commit", "device", "recipe")


class Table:
    """Measurements of one experiment.

    Args:
        path: path of the CSV file, which the first row creates.
        keys: columns that identify a run together with the seed.
        also: further measured columns.
        measured: measured columns, the seed among them; those of a training unless given.
    """

    def __init__(
        self,
        path: Path,
        keys: tuple[str, ...],
        also: tuple[str, ...] = (),
        measured: tuple[str, ...] = MEASURED,
    ):
        self.path, self.keys = Path(path), keys
        self.columns = (*keys, *measured, *also)

    def rows(self) -> list[dict]:
        """Return all rows, as text."""
        return read_table(self.path)

    def find(self, key: dict, seed: int) -> dict | None:
        """Return the row of one run, if it was measured."""
        wanted = {name: str(value) for name, value in {**key, "seed": seed}.items()}
        for row in self.rows():
            if all(row[name] == value for name, value in wanted.items()):
                return row
        return None

    def measure(self, key: dict, recipe) -> dict:
        """Return the row of this key and the recipe's seed; run the recipe if there is none yet.

        Raises:
            KeyboardInterrupt: if the run was interrupted; no row is written then.
        """
        found = self.find(key, recipe.seed)
        return found or self.add({**key, **run(recipe)})

    def add(self, row: dict) -> dict:
        """Add a row to the file, sorted among the others; return it as text.

        A run that another process measured meanwhile stays as it is.
        """
        (added,) = self.add_together([row])
        return added

    def add_together(self, rows: list[dict]) -> list[dict]:
        """Add rows as :meth:`add` does, all of them or none."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f".{self.path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = {self._place(row): row for row in self.rows()}
            texts = [{name: str(row.get(name, "")) for name in self.columns} for row in rows]
            together = {self._place(text): text for text in texts} | before
            written = [together[place] for place in sorted(together)]
            write_table(self.path, written, shown=False)
        return [together[self._place(text)] for text in texts]

    def _place(self, row: dict) -> tuple:
        return tuple(_number_or_word(row[name]) for name in (*self.keys, "seed"))


def _number_or_word(text: str) -> tuple:
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)


def run(recipe) -> dict:
    """Train by the recipe in a temporary folder; return the measured columns of its row.

    ``seconds`` includes the compilation of the step and the evaluation.
    """
    import tempfile

    import keras

    from training.sweep import measure

    keras.backend.clear_session()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(recipe, Path(folder) / "run")
    if found is None:
        raise KeyboardInterrupt
    figures = {} if "top1" not in found else {"top1": found["top1"] / 100, "loss": found["loss"]}
    return measured(recipe.seed, start, json.dumps(changes(recipe)), **figures)


def measured(seed: int, start: float, recipe: str, top1=None, loss=None, **also: str) -> dict:
    """Return the measured columns of a run that began at ``start``.

    Args:
        top1: share of the test pictures that are right; None if the run diverged.
    """
    return {
        "seed": seed,
        "outcome": "diverged" if top1 is None else "finished",
        "top1": "" if top1 is None else f"{100 * top1:.2f}",
        "loss": "" if loss is None else f"{loss:.4f}",
        "seconds": f"{time.monotonic() - start:.0f}",
        "commit": provenance.commit(),
        "device": provenance.device(),
        "recipe": recipe,
        **also,
    }


def changes(recipe) -> dict:
    """Return the recipe's fields that differ from the defaults, except the seed and the place."""
    defaults = recipes.identity(recipes.default())
    left_out = ("name", "seed")
    rows = {
        field: value
        for field, value in recipes.identity(recipe).items()
        if value != defaults[field] and field not in left_out
    }
    rows["data.source"] = Path(rows["data.source"]).name
    return rows


def accuracy(row: dict) -> float:
    """Return the test accuracy in percent; 0 for a run that diverged."""
    return float(row["top1"] or 0.0)
