"""A run that is killed at any moment ends with the weights of one that was not."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from multiprocessing import forkserver

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_recipes import REPEATABLE

from training.checkpoints import Checkpoints
from training.recipe import RecipeError

STEPS = 200


def _train(recipe_text: str, workdir: str) -> None:
    """In a child process: the recipe to its end, or until the process is killed."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from ml_collections import ConfigDict

    from training.session import run

    run(ConfigDict(json.loads(recipe_text)), workdir, strategy="one_device")


@pytest.fixture(scope="module")
def processes():
    """Children of a process that has imported TensorFlow, and done nothing with it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["training.session", "training.feeds", "training.tensorflow_engine"]
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in REPEATABLE.items():
            patch.setenv(name, value)
        forkserver.ensure_running()  # with these variables
    return context


def start(processes, recipe, workdir):
    process = processes.Process(target=_train, args=(recipe.to_json(), str(workdir)))
    process.start()
    return process


def long_recipe(recipe):
    recipe.steps = STEPS
    recipe.regularization.stochastic_depth = 0.2
    recipe.regularization.dropout = 0.1
    recipe.augmentation.mixup = 0.2
    recipe.ema = 0.9
    recipe.run.checkpoint_steps, recipe.run.keep = 2, 2
    recipe.evaluation.every_epochs = 2.0
    return recipe


def final_state(workdir) -> dict[str, np.ndarray]:
    return load_file(workdir / "checkpoints" / f"step_{STEPS:09d}.safetensors")


def test_killed_twenty_times(processes, recipe, tmp_path):
    recipe = long_recipe(recipe)
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    process = start(processes, recipe, whole)
    process.join()
    assert process.exitcode == 0
    newest, generator = Checkpoints(pieces / "checkpoints", {}).steps, random.Random(0)
    startup = None
    for kill in range(20):
        before = newest()[-1] if newest() else 0
        process, started = start(processes, recipe, pieces), time.monotonic()
        # Mostly shortly after a checkpoint; now and then before there can be one.
        early = started + generator.uniform(0, startup) if startup and kill % 4 == 3 else None
        while process.is_alive() and (early is None or time.monotonic() < early):
            if newest() and newest()[-1] > before:
                startup = startup or time.monotonic() - started
                time.sleep(generator.uniform(0.0, 0.04))
                break
            time.sleep(0.001)
        assert process.is_alive(), "the run ended before it was killed twenty times"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    process = start(processes, recipe, pieces)
    process.join()
    assert process.exitcode == 0
    expected, found = final_state(whole), final_state(pieces)
    assert set(expected) == set(found) and len(expected) > 50
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)
    records = [json.loads(row) for row in (pieces / "log.jsonl").read_text().splitlines()]
    places = [(record["kind"], record["step"]) for record in records]
    assert len(places) == len(set(places)) and ("training", STEPS) in places
    assert not list((pieces / "checkpoints").glob(".*"))
    assert (pieces / "model" / "model.safetensors").exists()


def test_sigterm_saves_and_ends(processes, recipe, tmp_path):
    recipe = long_recipe(recipe)
    recipe.run.checkpoint_steps = 0
    recipe.run.log_every = 1000
    process = start(processes, recipe, tmp_path)
    while not (tmp_path / "log.jsonl").exists():  # the first evaluation
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 0
    steps = Checkpoints(tmp_path / "checkpoints", {}).steps()
    assert 0 < steps[-1] < STEPS and not (tmp_path / "model").exists()


def test_a_damaged_checkpoint_is_passed_over(processes, recipe, tmp_path, caplog):
    recipe = long_recipe(recipe)
    recipe.steps = 6
    process = start(processes, recipe, tmp_path)
    process.join()
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, json.loads((tmp_path / "recipe.json").read_text()))
    assert checkpoints.steps()[-2:] == [4, 6]
    newest = folder / "step_000000006.safetensors"
    content = newest.read_bytes()
    flipped = bytearray(content)
    flipped[-5] ^= 1
    for damaged in (content[: len(content) // 2], b"", bytes(flipped)):
        newest.write_bytes(damaged)
        step, state = checkpoints.load_newest()
        assert step == 4 and len(state) > 50
    newest.unlink()
    assert checkpoints.load_newest()[0] == 4
    for path in folder.glob("step_*"):
        path.write_bytes(b"nothing")
    with pytest.raises(OSError, match="No checkpoint can be read"):
        checkpoints.load_newest()


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, {"seed": 0}, keep=3)
    state = [("model/0000/kernel", np.arange(6.0))]
    checkpoints.save(1, state)

    def full(values, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.checkpoints.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(2, state)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000001.safetensors"]
    step, found = checkpoints.load_newest()
    assert step == 1 and np.array_equal(found["model/0000/kernel"], np.arange(6.0))


def test_the_newest_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, {}, keep=2)
    for step in range(1, 7):
        checkpoints.save(step, [("x", np.float32(step))])
        if step == 2:
            checkpoints.mark_best(step, 50.0)
    assert checkpoints.steps() == [2, 5, 6] and checkpoints.best() == {"step": 2, "top1": 50.0}


def test_damaged_files_do_not_push_out_what_follows(tmp_path):
    checkpoints, state = Checkpoints(tmp_path, {}, keep=1), [("x", np.ones(2))]
    checkpoints.save(100, state)
    checkpoints.mark_best(100, 50.0)
    (tmp_path / "step_000000900.safetensors").write_bytes(b"damaged")
    assert checkpoints.load_newest()[0] == 100
    checkpoints.save(150, state)
    checkpoints.mark_best(150, 60.0)
    assert checkpoints.load_newest()[0] == 150 and checkpoints.steps() == [150]


def test_another_recipe_is_refused(tmp_path):
    Checkpoints(tmp_path, {"seed": 0, "ema": 0.9}).save(1, [("x", np.zeros(1))])
    with pytest.raises(RecipeError, match="seed: 0 then, 1 now"):
        Checkpoints(tmp_path, {"seed": 1, "ema": 0.9}).load_newest()
