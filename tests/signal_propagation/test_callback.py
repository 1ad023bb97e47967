from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import nf_zoo
from nf_zoo.models.classifier import build_model
from nf_zoo.signal_propagation.paper_figures import linear_residual_network

PROBE = np.random.default_rng(1).standard_normal((2, 16, 16, 3)).astype("float32")

RATE = 0.1


def fit(callbacks, learning_rate=RATE, epochs=2, scheme="nf"):
    keras.utils.set_random_seed(0)
    model = build_model("wide_resnet10_1", scheme=scheme, num_classes=4, widths=(4, 8, 8))
    images = np.random.default_rng(0).standard_normal((64, 16, 16, 3)).astype("float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(learning_rate), loss)
    history = model.fit(
        images, np.arange(64) % 4, batch_size=4, epochs=epochs, verbose=0, callbacks=callbacks
    )
    return model, history.history["loss"]


class Losses(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.batches, self.first_broken = 0, None

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        # Which of the two it comes to, hangs by the rounding.
        if self.first_broken is None and not logs["loss"] < 1e9:
            self.first_broken = self.batches


def test_records_go_to_csv_and_tensorboard(tmp_path):
    from tensorflow.python.summary.summary_iterator import summary_iterator

    callback = nf_zoo.SignalPropagationCallback(
        PROBE, every=2, csv_path=tmp_path / "new" / "signals.csv", log_dir=tmp_path / "logs"
    )
    model, _ = fit([callback], epochs=4)
    assert [epoch for epoch, _ in callback.records] == [0, 2, 4] and not callback.alarms
    rows = list(csv.DictReader((tmp_path / "new/signals.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [0] * 3 + [2] * 3 + [4] * 3
    last = nf_zoo.signal_propagation(model, PROBE)
    assert float(rows[-1]["variance"]) == pytest.approx(last[-1].variance, rel=1e-5)
    assert rows[0]["variance"] != rows[3]["variance"]
    (events,) = (tmp_path / "logs").iterdir()
    tags = {v.tag for event in summary_iterator(str(events)) for v in event.summary.value}
    assert "variance/stage3_block1" in tags and "squared_mean/stage1_block1" in tags


def test_training_is_the_same_with_and_without():
    plain, watched = fit([])[0], fit([nf_zoo.SignalPropagationCallback(PROBE, alarm_every=3)])[0]
    for a, b in zip(plain.get_weights(), watched.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_batch_norm_statistics_are_left_alone():
    plain = fit([], scheme="bn")[0]
    watched = fit([nf_zoo.SignalPropagationCallback(PROBE, alarm_every=3)], scheme="bn")[0]
    for a, b in zip(plain.get_weights(), watched.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_records_compare_the_same_statistics():
    model = linear_residual_network(50, 64, batch_norm=True)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    callback = nf_zoo.SignalPropagationCallback((64, 64))
    pictures = np.random.default_rng(0).standard_normal((640, 64))
    model.fit(pictures, pictures, batch_size=32, callbacks=[callback], verbose=0)
    assert not callback.alarms
    (_, before), (_, after) = callback.records
    assert after[-1].variance == pytest.approx(before[-1].variance, rel=1e-3)


def test_the_alarm_comes_before_the_loss_breaks(caplog):
    losses = Losses()
    callback = nf_zoo.SignalPropagationCallback(PROBE, alarm_every=1)
    fit([callback, losses], learning_rate=100 * RATE, epochs=2)
    assert losses.first_broken is not None, "the planted learning rate must break the training"
    ((batch, name, _),) = callback.alarms
    assert batch < losses.first_broken and name.startswith("stage")
    assert "the loss is about to diverge" in caplog.text


@pytest.mark.fast
def test_the_training_can_be_stopped():
    losses = Losses()
    callback = nf_zoo.SignalPropagationCallback(PROBE, alarm_every=1, stop=True)
    fit([callback, losses], learning_rate=100 * RATE, epochs=2)
    assert losses.first_broken is None and losses.batches == callback.alarms[0][0]


@pytest.mark.parametrize("missing", ["tensorflow", "tensorboard"])
def test_without_tensorboard_the_rest_is_written(missing, tmp_path, monkeypatch, caplog):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else found(name)
    )
    options = {"csv_path": tmp_path / "signals.csv", "log_dir": tmp_path / "logs"}
    callback = nf_zoo.SignalPropagationCallback(PROBE, alarm_every=0, **options)
    (line,) = caplog.messages
    assert f"nothing is written for TensorBoard in {tmp_path / 'logs'}" in line
    assert f"not installed: {missing};" in line and "\n" not in line
    fit([callback], epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["signals.csv"]


def test_the_same_under_jax():
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    chosen = ["-k", "test_records or test_batch_norm or test_the_alarm"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, __file__, *chosen], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "4 passed" in done.stdout


@pytest.mark.parametrize("options", [{"every": 0}, {"alarm_every": -1}, {"alarm_factor": 1.0}])
def test_bad_input(options):
    with pytest.raises(ValueError, match=r"at least 1, alarm_every.*Received"):
        nf_zoo.SignalPropagationCallback(PROBE, **options)


@pytest.mark.parametrize("steps", [1, 5])
def test_batches_are_counted_however_many_keras_runs_at_once(steps, monkeypatch):
    callback, looks = nf_zoo.SignalPropagationCallback(PROBE, alarm_every=5), []
    monkeypatch.setattr(callback, "_measure", lambda: looks.append(callback._batches) or ())
    model = build_model("wide_resnet10_1", num_classes=4, widths=(4, 8, 8))
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.SGD(0.0), loss, steps_per_execution=steps)
    images = np.zeros((40, 16, 16, 3), "float32")
    model.fit(images, np.arange(40) % 4, batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    assert callback._batches == 20
    assert looks == [0, 5, 10, 10, 15, 20, 20]  # the start, and both ends of an epoch


def test_a_second_fit_goes_on_with_the_records_of_the_first(tmp_path):
    callback = nf_zoo.SignalPropagationCallback(PROBE, csv_path=tmp_path / "signals.csv")
    model, _ = fit([callback], epochs=1)
    first = callback.records[0][1]
    images = np.random.default_rng(0).standard_normal((8, 16, 16, 3)).astype("float32")
    given = {"verbose": 0, "callbacks": [callback]}
    model.fit(images, np.arange(8) % 4, epochs=2, initial_epoch=1, **given)
    assert [epoch for epoch, _ in callback.records] == [0, 1, 2]
    assert callback.records[0][1] is first
    rows = list(csv.DictReader((tmp_path / "signals.csv").open()))
    assert [int(row["epoch"]) for row in rows[::3]] == [0, 1, 2]
    model.fit(images, np.arange(8) % 4, epochs=1, **given)
    assert [epoch for epoch, _ in callback.records] == [0, 1]
