"""Runs that end by the clock, and several of them on one accelerator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clocked_run import slow_clock
from programs import succeed

import nf_zoo
from training import loop, session
from training.loop import Clock

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


@pytest.fixture
def time(monkeypatch):
    for module in (loop, session):
        monkeypatch.setattr(module, "time", module.time)  # given back at the end
    return slow_clock()


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


def test_a_run_ends_by_the_clock_and_goes_on_where_it_was(arrays, tmp_path):
    places = os.pathsep.join([str(REPOSITORY), str(HERE)])
    succeed((HERE / "clocked_run.py").read_text(), arrays, tmp_path, PYTHONPATH=places)


def test_each_divergence_halves_the_rate_also_after_an_interruption(tmp_path):
    succeed(
        """
import subprocess, sys, time, types
from pathlib import Path
from training import gpu_run

codes, rates, workdir = [None, 1, None, 0], [], Path(sys.argv[1])

def runs(command, **how):
    rates.append([float(word.partition("=")[2]) for word in command if "learning_rate" in word])
    code = codes.pop(0)
    if code is None:
        (workdir / "nf" / "diverged.json").write_text("{}")
    return types.SimpleNamespace(returncode=code)

subprocess.run = runs
given = ["--config.optimizer.learning_rate=0.4"]
for succeeded in (False, True):  # the same command again
    end = time.monotonic() + 60
    assert gpu_run.train("nf", "a recipe", given, workdir, end) is succeeded
assert rates == [[0.4], [0.4, 0.2], [0.4, 0.2], [0.4, 0.1]], rates
""",
        tmp_path,
    )


def test_a_run_that_diverged_to_the_end_is_packed(tmp_path):
    succeed(
        """
import subprocess, sys, types
from pathlib import Path
from training import gpu_run

workdir, output = Path(sys.argv[1], "runs"), Path(sys.argv[1], "out")

def runs(command, **how):
    (workdir / "nf" / "diverged.json").write_text("{}")
    gpu_run.time.monotonic = lambda: float("inf")  # no time is left
    return types.SimpleNamespace(returncode=None)

subprocess.run = runs
gpu_run.FLAGS(["gpu_run", "--minutes=1", f"--workdir={workdir}", f"--output={output}"])
config = "training/configs/nf_resnet50_tiny_imagenet.py:smoke"
assert gpu_run.main(["gpu_run", f"nf={config}"]) == 1
assert [path.name for path in output.iterdir()] == ["nf.diverged0.tar.00"]
""",
        tmp_path,
        PYTHONPATH=str(REPOSITORY),
    )


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
        joined = ["sh", "-c", f"cat {name}.tar.* | tar x"]  # as the program's help says
        subprocess.run(joined, cwd=tmp_path / "results", check=True)
        folder = tmp_path / "results" / name
        assert json.loads((folder / "results.json").read_text())["by_the_clock"]
        assert not (folder / "checkpoints").exists()
        model = nf_zoo.load_pretrained(folder / "model")
        trained = nf_zoo.load_pretrained(tmp_path / "runs" / name / "model")
        for found, expected in zip(model.get_weights(), trained.get_weights(), strict=True):
            np.testing.assert_array_equal(found, expected.astype("float16").astype("float32"))
