"""The same recipes under JAX."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_recipes import small_recipe

from training.session import run

REPOSITORY = Path(__file__).parents[2]

SCRIPT = """
import json, sys
sys.path.insert(0, "tests/training")
from broken_step import check_a_broken_network
from ml_collections import ConfigDict
from training import jax_engine
from training.session import run

for text, folder in json.loads(sys.stdin.read()):
    if folder.endswith("fed"):
        jax_engine._fits = lambda pictures: False  # as if the accelerator were too small
    if folder.endswith("broken"):
        check_a_broken_network(ConfigDict(json.loads(text)), folder)
    else:
        values = run(ConfigDict(json.loads(text)), folder)
print(json.dumps(values))
"""


@pytest.fixture(scope="module")
def weights(arrays, tmp_path_factory):
    """Folders of runs: JAX, JAX in two parts with micro-batches, TensorFlow."""
    root = tmp_path_factory.mktemp("runs")
    recipe = small_recipe(arrays)
    recipe.ema = 0.5
    recipe.augmentation.mixup, recipe.augmentation.erasing = 0.2, 0.5
    recipe.steps = 6
    recipe.data.early_size, recipe.data.early_epochs = 12, 2 / 3  # the first four steps
    parts = recipe.copy_and_resolve_references()
    parts.accumulate, parts.run.checkpoint_steps = 2, 3
    jobs = [(recipe.to_json(), str(root / "jax")), (parts.to_json(), str(root / "parts"))]
    jobs.append((recipe.to_json(), str(root / "fed")))
    jobs.append((recipe.to_json(), str(root / "broken")))
    done = _in_jax(jobs)
    assert done.returncode == 0, done.stderr[-3000:]
    newest = root / "parts" / "checkpoints" / "step_000000006.safetensors"
    whole = load_file(newest)
    newest.unlink()  # as if it had been killed before
    done = _in_jax(jobs[1:2])
    assert done.returncode == 0, done.stderr[-3000:]
    for key, value in load_file(newest).items():
        np.testing.assert_array_equal(value, whole[key], err_msg=key)
    values = run(recipe, root / "tensorflow", strategy="one_device")
    return root, values, json.loads(done.stdout.splitlines()[-1])


def _in_jax(jobs):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(jobs),
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


def _model(root, name):
    state = load_file(root / name / "checkpoints" / "step_000000006.safetensors")
    return {k: v for k, v in state.items() if k.startswith("model") and v.dtype.kind == "f"}


def test_the_weights_are_those_of_tensorflow(weights):
    root, values, jax_values = weights
    ours, theirs = _model(root, "tensorflow"), _model(root, "jax")
    assert set(ours) == set(theirs)
    for key, value in ours.items():
        # Each backend draws its own initial weights from the seed.
        assert value.shape == theirs[key].shape
    assert set(values) == set(jax_values)
    assert np.isfinite(list(jax_values.values())).all()


def test_micro_batches_and_an_interruption_change_nothing(weights):
    root = weights[0]
    whole, parts = _model(root, "jax"), _model(root, "parts")
    for key, value in whole.items():
        np.testing.assert_allclose(parts[key], value, atol=1e-5, err_msg=key)


def test_pictures_on_the_accelerator_are_those_fed_to_it(weights):
    root = weights[0]
    resident, fed = _model(root, "jax"), _model(root, "fed")
    assert set(resident) == set(fed)
    for key, value in resident.items():
        np.testing.assert_array_equal(fed[key], value, err_msg=key)


def test_several_devices_are_refused():
    script = (
        "from ml_collections import ConfigDict; import json, sys\n"
        "from training.session import run\n"
        "from training.recipe import RecipeError, default\n"
        "try: run(default(), 'nowhere', strategy='mirrored')\n"
        "except RecipeError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert "KERAS_BACKEND=tensorflow" in done.stdout
