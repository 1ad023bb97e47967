"""Runs that end by the clock, and several of them on one accelerator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import nf_zoo
from training import loop, session
from training.loop import Clock
from training.session import Session

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def time(monkeypatch):
    """A clock that goes on by a second whenever somebody looks at it."""
    time = SimpleNamespace(now=100.0)

    def monotonic():
        time.now += 1.0
        return time.now

    for module in (loop, session):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=monotonic))
    return time


@pytest.mark.fast
def test_the_clock_tells_the_place_on_the_schedule(time):
    clock = Clock(end=141.0, steps=10)
    clock.start(place=2)  # at 101, with 40 seconds to go
    places = [clock.place() for _ in range(60)]
    assert places[19] == 6 and places[38] == 9 and set(places[39:]) == {10}
    assert places == sorted(places)
    late = Clock(end=0.0, steps=10)
    late.start(place=2)
    assert late.place() == 10


def records(folder, kind):
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == kind]


def test_a_run_ends_by_the_clock_and_goes_on_where_it_was(recipe, tmp_path, time):
    recipe.steps, recipe.schedule.warmup_epochs = 8, 0.0
    recipe.run.log_every, recipe.evaluation.every_epochs = 1, 1e6
    first = Session(recipe, tmp_path, strategy="one_device", minutes=2.0)
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
    assert not (tmp_path / "model").exists()

    second = Session(recipe, tmp_path, strategy="one_device", minutes=1.0)
    train_step, places, began = second.engine.train_step, [], time.now

    def recorded(*batch):
        places.append(second.engine.iterations())
        return train_step(*batch)

    second.engine.train_step = recorded
    values = second.train()
    assert np.isfinite(values["loss"])
    assert places[0] == place and places[-1] == 7 and places == sorted(places)
    assert 50 <= time.now - began <= 75  # it took the minute, and not the rest of the steps
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["by_the_clock"] and results["step"] > 20
    assert second.engine.iterations() == 8 and len(places) == results["step"] - 15
    rates = [row["learning_rate"] for row in records(tmp_path, "training")]
    assert rates == sorted(rates, reverse=True) and len(rates) == results["step"]
    assert rates[-1] == pytest.approx(float(second.schedule(7)))
    assert nf_zoo.load_pretrained(tmp_path / "model").num_classes == 4


def test_several_runs_at_once_are_packed(arrays, tmp_path):
    config = f"{REPOSITORY}/tests/training/small_recipes.py"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "training.gpu_run", "--minutes=0.2", "--reserve=0.1"),
            *(f"--workdir={tmp_path / 'runs'}", f"--output={tmp_path / 'results'}"),
            *("--largest=9000", f"nf={config}:nf", f"bn={config}:bn", "--"),
            f"--config.data.source=arrays:{arrays}",
        ],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    logs = [path.read_text()[-2000:] for path in (tmp_path / "runs").glob("*/output.log")]
    assert done.returncode == 0, (done.stderr[-2000:], logs)
    for name in ("nf", "bn"):
        parts = sorted((tmp_path / "results").glob(f"{name}.tar.*"))
        assert len(parts) > 1 and max(part.stat().st_size for part in parts) == 9000
        whole = tmp_path / f"{name}.tar"
        whole.write_bytes(b"".join(part.read_bytes() for part in parts))
        with tarfile.open(whole) as archive:
            archive.extractall(tmp_path / "unpacked", filter="data")
        folder = tmp_path / "unpacked" / name
        assert json.loads((folder / "results.json").read_text())["by_the_clock"]
        assert not (folder / "checkpoints").exists()
        model = nf_zoo.load_pretrained(folder / "model")
        trained = nf_zoo.load_pretrained(tmp_path / "runs" / name / "model")
        for found, expected in zip(model.get_weights(), trained.get_weights(), strict=True):
            np.testing.assert_array_equal(found, expected.astype("float16").astype("float32"))
