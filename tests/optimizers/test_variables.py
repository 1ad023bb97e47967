"""Optimizers know their variables again in a model that was saved and loaded, cloned or frozen."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

import composed_networks
import keras
import numpy as np
import pytest
from programs import succeed

import nf_zoo
from nf_zoo.optimizers.variables import Mark, describe, find

AGC = nf_zoo.AdaptiveGradientClipping
LABELS = tuple(composed_networks.MODELS)
LAYERS = keras.layers


def assert_same_step(actual, expected) -> None:
    assert len(actual) == len(expected)
    assert sum(np.abs(change).max() > 0 for change in expected) > len(expected) / 2
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-7)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Models saved before and after their first step, and the steps of this and a new process."""
    folder = tmp_path_factory.mktemp("saved")
    LAYERS.Dense(1)  # the numbers of Keras's names are not those of the process that loads
    for label in LABELS:
        for state in ("compiled", "fitted"):
            model = composed_networks.build(label, fit=state == "fitted")
            model.save(folder / f"{label}-{state}.keras")
            composed_networks.save_step(model, folder / f"{label}-{state}.npz")
    program = "import runpy; runpy.run_module('composed_networks', run_name='__main__')"
    succeed(program, folder, PYTHONPATH=os.pathsep.join(sys.path))
    return folder


@pytest.mark.parametrize("state", ["compiled", "fitted"])
@pytest.mark.parametrize("label", LABELS)
def test_a_loaded_model_takes_the_same_step(saved, label, state):
    steps = [np.load(saved / f"{label}-{state}{end}.npz") for end in ("", ".loaded")]
    assert_same_step(*([one[f"arr_{i}"] for i in range(len(one.files))] for one in reversed(steps)))


@pytest.mark.parametrize("fit", [False, True])
@pytest.mark.parametrize("label", [label for label in LABELS if "subclassed" not in label])
def test_a_clone_takes_the_same_step(label, fit):
    model = composed_networks.build(label, fit)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert_same_step(composed_networks.step(clone), composed_networks.step(model))


@pytest.mark.fast
def test_what_is_excluded_is_not_clipped():
    steps = composed_networks.step(composed_networks.build("sequential"))
    kernels = [np.abs(change).max() for change in steps[::2]]
    assert kernels[2] > 20 * max(kernels[:2])


@pytest.mark.parametrize("label", ["sequential", "nested", "frozen", "scaled"])
def test_files_with_paths_alone_are_loaded(saved, tmp_path, label):
    """As version 0.1.0 wrote them."""

    def older(config):
        if isinstance(config, list):
            return [older(one) for one in config]
        if not isinstance(config, dict):
            return config
        config = {key: older(value) for key, value in config.items()}
        if "exclude" in config:
            config["exclude"] = [row["path"] for row in config["exclude"]]
        if "learning_rate_scale" in config:
            config["paths"] = [row["path"] for row in config.pop("variables")]
        return config

    path = tmp_path / "older.keras"
    source = zipfile.ZipFile(saved / f"{label}-fitted.keras")
    with source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "config.json":
                data = json.dumps(older(json.loads(data))).encode()
                assert b'"paths"' in data and b'"position"' not in data
            target.writestr(name, data)
    expected = np.load(saved / f"{label}-fitted.npz")
    step = composed_networks.step(keras.models.load_model(path))
    assert_same_step(step, [expected[f"arr_{i}"] for i in range(len(expected.files))])


@pytest.mark.fast
@pytest.mark.slow
def test_a_run_goes_on_from_its_backup(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    x, y = np.random.default_rng(0).standard_normal((2, 8, composed_networks.WIDTH))
    options = {"epochs": 2, "batch_size": 4, "shuffle": False, "verbose": 0}
    whole = composed_networks.build("sequential")
    whole.fit(x, y, **options)
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras")
    for stop in ([Stop()], []):
        parts = composed_networks.build("sequential")
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        try:
            parts.fit(x, y, callbacks=[backup, checkpoint, *stop], **options)
        except KeyboardInterrupt:
            assert stop
    for one, other in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    best = keras.models.load_model(tmp_path / "best.keras")
    assert_same_step(composed_networks.step(best), composed_networks.step(whole))


def dense_model(count: int = 3):
    return keras.Sequential([LAYERS.Input((4,)), *(LAYERS.Dense(4) for _ in range(count))])


def again(optimizer):
    """The optimizer that its config makes."""
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(optimizer)))
    return keras.saving.deserialize_keras_object(config)


def unclipped(optimizer, variables) -> list[str]:
    optimizer.build(variables)
    return [variables[index].path for index in sorted(optimizer._unclipped)]


@pytest.mark.fast
@pytest.mark.parametrize("built", [False, True])
def test_other_layers_may_be_frozen_meanwhile(built):
    model = dense_model()
    optimizer = AGC(keras.optimizers.SGD(), exclude=model.layers[2].kernel)
    if built:
        optimizer.build(model.trainable_variables)
    model.layers[0].trainable = False  # the positions of the others change, not their shapes
    path = model.layers[2].kernel.path
    assert unclipped(again(optimizer), model.trainable_variables) == [path]
    model.layers[0].trainable = True
    assert unclipped(again(optimizer), model.trainable_variables) == [path]


@pytest.mark.fast
def test_a_frozen_exclusion_is_kept_for_later():
    model = dense_model()
    head = model.layers[2]
    head.trainable = False
    optimizer = AGC(keras.optimizers.SGD(), exclude=head)
    assert unclipped(optimizer, model.trainable_variables) == []
    loaded = again(optimizer)
    assert unclipped(again(loaded), model.trainable_variables) == []
    head.trainable = True
    for one in (loaded, again(again(loaded))):
        paths = unclipped(again(one), model.trainable_variables)
        assert paths == [head.kernel.path, head.bias.path]


@pytest.mark.fast
def test_a_trained_exclusion_may_be_frozen_later():
    model = dense_model()
    optimizer = AGC(keras.optimizers.SGD(), exclude=model.layers[2].kernel)
    optimizer.build(model.trainable_variables)
    model.layers[2].trainable = False
    assert unclipped(again(optimizer), model.trainable_variables) == []


@pytest.mark.fast
def test_another_variable_does_not_take_the_place_of_a_lost_one():
    model = dense_model(2)
    optimizer = AGC(keras.optimizers.SGD(), exclude=model.layers[1].kernel)
    optimizer.build(model.trainable_variables)
    loaded = again(optimizer)
    model.layers[1].trainable = False
    lost, other = (layer.kernel.path for layer in reversed(model.layers))
    with pytest.raises(ValueError, match=rf"exclude.*Received.*{lost}.*shape: \['{other}'\]"):
        loaded.build(model.trainable_variables)
    assert not loaded.built


@pytest.mark.fast
def test_exclusions_that_match_nothing_are_errors():
    model, other = dense_model(), dense_model()
    for exclude in (other.layers[2].kernel, "kernel", "dense/nothing", f"x{model.layers[0].path}"):
        with pytest.raises(ValueError, match=r"exclude must hold trainable variables.*Received"):
            AGC(keras.optimizers.SGD(), exclude=exclude).build(model.trainable_variables)
    with pytest.raises(ValueError, match=r"build the model first.*Received: Dense named 'late'"):
        AGC(keras.optimizers.SGD(), exclude=[LAYERS.Dense(3, name="late")])
    with pytest.raises(ValueError, match=r"that have some\. Received none"):
        AGC(keras.optimizers.SGD(), exclude=keras.Sequential([LAYERS.Input((3,)), LAYERS.ReLU()]))
    for nothing in ((), [], None):
        AGC(keras.optimizers.SGD(), exclude=nothing).build(model.trainable_variables)


@pytest.mark.fast
def test_paths_that_could_be_several_are_errors():
    model = composed_networks.MODELS["twins"]()
    optimizer = AGC(keras.optimizers.SGD(), exclude="head/kernel")
    with pytest.raises(ValueError, match=r"or several.*shape: .*'head/kernel'.*'head/kernel'"):
        optimizer.build(model.trainable_variables)


@pytest.mark.fast
def test_groups_say_which_variables_they_have_lost():
    model = dense_model()
    optimizer = nf_zoo.GroupedOptimizer(
        keras.optimizers.SGD(),
        [{"paths": ["elsewhere/kernel"], "learning_rate_scale": 1.0, "weight_decay": 0.0}],
    )
    with pytest.raises(ValueError, match=r"none with: .*kernel.*groups with: .*elsewhere/kernel"):
        optimizer.build(model.trainable_variables)


@pytest.mark.fast
def test_numbers_of_names_count_only_where_nothing_else_tells():
    class Layer(LAYERS.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(name="kernel", shape=self.sizes)

    def variables(*shapes):
        layers = [Layer(name=f"layer_{n}") for n in range(4, 4 + len(shapes))]
        for layer, layer.sizes in zip(layers, shapes, strict=True):
            layer.build(None)
        return [layer.kernel for layer in layers]

    marks = [Mark("model/layer_1/kernel", (2, 3))]
    assert find(marks, variables((2, 2), (2, 3))) == [1]
    assert find(marks, variables((2, 3), (2, 3))) == [None]
    marks = [Mark("model/layer_5/kernel", (2, 3))]
    assert find(marks, variables((2, 3), (2, 3))) == [1]


@pytest.mark.fast
def test_a_config_is_stable():
    model = dense_model()
    marks = [Mark.make(layer.kernel) for layer in model.layers]
    rows = describe(marks, model.trainable_variables)
    assert [row["position"] for row in rows] == [0, 2, 4]
    for variables in (None, model.trainable_variables):
        assert describe([Mark.make(row) for row in rows], variables) == rows
