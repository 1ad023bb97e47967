"""A run that is interrupted, and then ends by the clock: a process of its own, for its SIGTERM."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from small_recipes import small_recipe

import nf_zoo
from training import loop, session
from training.recipe import RecipeError
from training.session import Session


def slow_clock() -> SimpleNamespace:
    """Make training see a clock that goes on by a second whenever somebody looks at it."""
    time = SimpleNamespace(now=100.0)

    def monotonic():
        time.now += 1.0
        return time.now

    loop.time = session.time = SimpleNamespace(monotonic=monotonic)
    return time


def records(folder, kind):
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == kind]


def main(arrays: str, folder: Path) -> None:
    time, recipe = slow_clock(), small_recipe(arrays)
    recipe.steps, recipe.schedule.warmup_epochs = 8, 0.0
    recipe.run.log_every, recipe.evaluation.every_epochs = 1, 1e6
    first = Session(recipe, folder, strategy="one_device", minutes=2.0)
    train_step, taken = first.engine.train_step, []

    def interrupted(*batch):
        taken.append(batch)
        if len(taken) == 15:
            signal.raise_signal(signal.SIGTERM)
        return train_step(*batch)

    first.engine.train_step = interrupted
    assert first.train() is None
    place = first.engine.iterations()
    assert 0 < place < 8 and len(taken) == 15
    assert not (folder / "model").exists()

    with contextlib.suppress(RecipeError):
        Session(recipe, folder, strategy="one_device").train()
        raise AssertionError("without the clock it went on at another place of the schedule")

    evaluated = Session(recipe, folder, strategy="one_device", eval_only=True).evaluate()
    assert np.isfinite(evaluated["loss"])

    second = Session(recipe, folder, strategy="one_device", minutes=1.0)
    train_step, places, began = second.engine.train_step, [], time.now

    def recorded(*batch):
        places.append(second.engine.iterations())
        return train_step(*batch)

    second.engine.train_step = recorded
    values = second.train()
    assert np.isfinite(values["loss"])
    assert places[0] == place and places[-1] == 7 and places == sorted(places)
    assert 50 <= time.now - began <= 75  # it took the minute, and not the rest of the steps
    results = json.loads((folder / "results.json").read_text())
    assert results["by_the_clock"] and results["step"] > 20
    assert second.engine.iterations() == 8 and len(places) == results["step"] - 15
    rates = [row["learning_rate"] for row in records(folder, "training")]
    assert rates == sorted(rates, reverse=True) and len(rates) == results["step"]
    assert np.isclose(rates[-1], float(second.schedule(7)), rtol=1e-6)
    model = nf_zoo.load_pretrained(folder / "model")
    assert model.num_classes == 4 and model.preprocessing.interpolation == "bicubic"
    for side, resized in ((16, "bicubic"), (12, "bilinear")):  # the stored pictures have 16
        recipe.data.test_size, recipe.data.stored_size = side, 16
        found = Session(recipe, None, strategy="one_device", dry_run=True).model.preprocessing
        assert found.interpolation == resized


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
