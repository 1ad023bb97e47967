"""Sessions of training: resumed, begun with weights, failed at the start, several in a process."""

from __future__ import annotations

import itertools
import json
import threading

import numpy as np
import pytest
from small_recipes import small_recipe

from nf_zoo.hub.folder import save_pretrained
from nf_zoo.models.classifier import build_model
from training.feeds import _ahead
from training.loop import Trainer
from training.recipe import RecipeError
from training.session import Session, run


def session(recipe, folder, **options):
    return Session(recipe, folder, strategy="one_device", **options)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_a_process_that_built_other_networks_resumes(recipe, tmp_path, precision):
    recipe.regularization.stochastic_depth, recipe.steps = 0.2, 1
    first = session(recipe, tmp_path, precision=precision)
    trainer = Trainer(first)
    trainer.run()
    # Keras numbers the names of random states and optimizers within a process.
    second = session(recipe, tmp_path, precision=precision)
    assert Trainer(second).resume() == 1
    for mine, theirs in zip(second.engine.state(), first.engine.state(), strict=True):
        np.testing.assert_array_equal(mine[1], theirs[1])


def test_weights_to_begin_with_bring_no_options_of_their_own(recipe, tmp_path):
    fields = json.loads(recipe.model.fields)
    own = {"classifier_activation": "softmax", "include_preprocessing": True}
    own |= {"input_shape": (16, 16, 3), "stochastic_depth_rate": 0.2, "num_classes": 4}
    model = build_model(recipe.model.architecture, **fields, **own)
    save_pretrained(model, tmp_path / "start")
    recipe.model.weights = str(tmp_path / "start")
    begun = session(recipe, tmp_path / "run").model
    assert begun.classifier_activation is None and begun.input_shape == (None, None, None, 3)
    assert not begun.options()["include_preprocessing"] and begun.config.stochastic_depth_rate == 0
    for mine, theirs in zip(begun.weights, model.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_start_that_fails_leaves_the_folder_to_the_next(recipe, tmp_path):
    right, recipe.data.source = recipe.data.source, "arrays:nowhere.npz"
    with pytest.raises((RecipeError, OSError)):
        run(recipe, tmp_path / "run", strategy="one_device")
    recipe.data.source, recipe.batch_size = right, 15
    recipe.accumulate = 2
    with pytest.raises(RecipeError, match="multiple"):
        run(recipe, tmp_path / "run", strategy="one_device")
    recipe.batch_size = 16
    assert run(recipe, tmp_path / "run", strategy="one_device")


def test_runs_of_one_process_leave_no_gradients_behind(arrays, tmp_path):
    ops = pytest.importorskip("tensorflow.python.framework.ops")
    registered = []
    for number in range(3):
        recipe = small_recipe(arrays)
        recipe.steps = 1
        run(recipe, tmp_path / str(number), strategy="one_device")
        registered.append(len(ops.gradient_registry._registry))
    assert registered[2] == registered[1]


def test_batches_made_in_advance_end_with_their_reader():
    before = set(threading.enumerate())
    batches = _ahead(itertools.count())
    assert [next(batches), next(batches)] == [0, 1]
    (thread,) = set(threading.enumerate()) - before
    batches.close()
    thread.join(10)
    assert not thread.is_alive()
