import csv
import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from nf_zoo.finetuning import evaluate, fine_tune, finetune, phases
from nf_zoo.finetuning.phases import Progress
from nf_zoo.models.classifier import variable_names

pytestmark = pytest.mark.filterwarnings("ignore:1 file of:UserWarning")

FAST = {"verbose": 0, "batch_size": 8, "flip": False}


@pytest.fixture
def no_saved_model(monkeypatch):
    """Leaves out the slow part of the report."""

    def stub(model, path, overwrite=False):
        path.mkdir()

    monkeypatch.setattr("nf_zoo.deploy.saved_model.export_saved_model", stub)


@pytest.fixture(scope="module")
def finished(shapes, tiny, tmp_path_factory):
    """A whole run on three shapes, with everything written."""
    output = tmp_path_factory.mktemp("finished") / "out"
    return finetune(
        tiny(widths=(16,)),
        shapes,
        output=output,
        epochs=12,
        warmup_epochs=1,
        learning_rate=0.1,
        class_weight="balanced",
        ema=0.8,
        **FAST,
    )


def test_learns_the_shapes(finished, shapes):
    assert finished.metrics["accuracy"] >= 0.8
    assert finished.labels == finished.model.labels == ("bar", "disc", "ring")
    assert evaluate(finished.model, shapes)["accuracy"] >= 0.85


def test_result_is_ready_to_use(finished):
    model = finished.model
    assert model.preprocessing.input_size == (16, 16)
    assert not model.compiled
    assert all(layer.trainable for layer in model.layers)


def test_output_folder_is_complete(finished):
    output = finished.output
    assert {path.name for path in output.iterdir()} == {
        "model.keras",
        "saved_model",
        "labels.txt",
        "history.csv",
        "learning_curve.png",
        "confusion_matrix.png",
        "predictions.png",
        "report.json",
    }
    assert (output / "saved_model" / "saved_model.pb").stat().st_size > 0
    assert (output / "labels.txt").read_text() == "bar\ndisc\nring\n"
    assert [path.name for path in output.parent.iterdir()] == ["out"]
    with open(output / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["phase"] for row in rows] == ["head"] + 11 * ["whole"]
    assert [float(row["val_loss"]) for row in rows] == [row["val_loss"] for row in finished.history]


def test_saved_model_file_gives_the_reported_accuracy(finished, few):
    reloaded = keras.saving.load_model(finished.output / "model.keras")
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(
        reloaded.predict_on_batch(images), finished.model.predict_on_batch(images), atol=1e-5
    )
    assert reloaded.labels == finished.labels


def test_report(finished):
    report = json.loads((finished.output / "report.json").read_text())
    assert report == json.loads(json.dumps(finished.metrics))
    assert report["counts"] == {"train": 57, "validation": 15, "skipped": 1}
    assert list(report["skipped"]) == ["disc/broken.jpg"]
    assert report["ignored"] == {".txt": 1}
    confusion = np.array(report["confusion_matrix"])
    assert confusion.sum() == report["pictures"] == 15
    assert report["accuracy"] == pytest.approx(np.trace(confusion) / 15)
    assert [row["support"] for row in report["per_class"]] == confusion.sum(axis=1).tolist()
    assert report["run"]["settings"]["class_weight"] == pytest.approx([1, 1, 1])
    assert report["run"]["model"]["architecture"] == "nf_resnet10"
    assert report["seed"] == 0
    assert set(report["versions"]) == {"nf_zoo", "keras", "tensorflow", "python"}
    # What was validated last is what was shipped: the average of the weights.
    assert report["accuracy"] == pytest.approx(finished.history[-1]["val_accuracy"])


def test_confusion_matrix_rows_stand_on_their_lines(finished):
    text = (finished.output / "report.json").read_text()
    row = json.dumps(finished.metrics["confusion_matrix"][0])
    assert f"{row},\n" in text


def test_finished_run_is_refused_or_loaded(finished, shapes, tiny):
    arguments = {
        "epochs": 12,
        "warmup_epochs": 1,
        "learning_rate": 0.1,
        "class_weight": "balanced",
        "ema": 0.8,
        **FAST,
    }
    model = tiny(widths=(16,))
    with pytest.raises(FileExistsError, match="finished run"):
        finetune(model, shapes, output=finished.output, **arguments)
    loaded = finetune(model, shapes, output=finished.output, resume=True, **arguments)
    assert loaded.history == finished.history
    assert loaded.metrics == json.loads(json.dumps(finished.metrics))
    for mine, theirs in zip(loaded.model.get_weights(), finished.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(ValueError, match="settings seed: 0 then, 1 now"):
        finetune(model, shapes, output=finished.output, resume=True, seed=1, **arguments)


class Killed(BaseException):
    """Not an Exception, as a real kill is not."""


def kill_after(monkeypatch, epochs):
    """Make the run die in the epoch after so many."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == epochs:
            raise Killed
        self._began = 0.0

    monkeypatch.setattr(phases._Record, "on_epoch_begin", on_epoch_begin)


def test_resumed_run_equals_an_uninterrupted_one(few, tiny, tmp_path, monkeypatch, no_saved_model):
    start = tiny(drop_rate=0.2, stochastic_depth_rate=0.3)
    options = {
        "epochs": 3,
        "warmup_epochs": 1,
        "learning_rate": 0.1,
        "ema": 0.5,
        "early_stopping": 9,
        "mixup": 0.2,
        **FAST,
    }
    whole = finetune(start, few, output=tmp_path / "whole", **options)
    for epochs in (1, 2):
        kill_after(monkeypatch, epochs)
        with pytest.raises(Killed):
            finetune(start, few, output=tmp_path / "killed", resume=True, **options)
        assert not (tmp_path / "killed").exists()
        monkeypatch.undo()
    monkeypatch.setattr("nf_zoo.deploy.saved_model.export_saved_model", lambda model, path: None)
    resumed = finetune(start, few, output=tmp_path / "killed", resume=True, **options)

    def losses(result):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]

    assert losses(resumed) == losses(whole)
    for mine, theirs in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert not (tmp_path / "killed.partial").exists()


def test_whole_network_epochs_change_the_body_in_mixed_precision(tiny):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 18, 16, 3), np.uint8)
    dataset = tf.data.Dataset.from_tensor_slices((pixels, np.arange(20) % 2))
    start = tiny()
    result = finetune(
        start,
        dataset.batch(5),
        labels=["even", "odd"],
        epochs=1,
        precision="mixed_float16",
        cutmix=1.0,
        randaugment=True,
        ema=False,
        class_weight={"odd": 2.0},
        **FAST,
    )
    assert result.labels == ("even", "odd")
    assert result.output is None
    assert result.model.dtype_policy.name == "float32"
    assert all(variable.dtype == "float32" for variable in result.model.weights)
    mine, theirs = variable_names(start), variable_names(result.model)
    assert not np.array_equal(mine["stem/conv/kernel"], theirs["stem/conv/kernel"])
    assert result.metrics["run"]["settings"]["class_weight"] == [1.0, 2.0]


def test_known_classes_keep_their_classifier_and_new_ones_get_a_seeded_one(tiny):
    def prepared(labels, seed):
        settings = SimpleNamespace(image_size=(24, 16), precision=None, seed=seed)
        return fine_tune._prepare(start, labels, settings)

    start = tiny(num_classes=2, labels=("bar", "disc"), stochastic_depth_rate=0.3)
    kernel = np.asarray(start.head.kernel)
    same, new = prepared(("bar", "disc"), 0), prepared(("disc", "bar"), 0)
    again, other = prepared(("disc", "bar"), 0), prepared(("disc", "bar"), 1)
    assert same.preprocessing.input_size == (24, 16)
    np.testing.assert_array_equal(same.head.kernel, kernel)
    assert not np.array_equal(new.head.kernel, kernel)
    assert not np.array_equal(new.head.kernel, other.head.kernel)
    for mine, theirs in zip(new.variables, again.variables, strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg="random states included")
    body = variable_names(start)
    for name, variable in variable_names(new).items():
        if not name.startswith("head/"):
            np.testing.assert_array_equal(variable, body[name], err_msg=name)


@pytest.mark.fast
def test_divergence_is_an_error_with_a_remedy(few, tiny, tmp_path):
    with pytest.raises(FloatingPointError, match=r"Lower learning_rate.*1e\+38"):
        finetune(
            tiny(),
            few,
            epochs=3,
            warmup_epochs=3,
            learning_rate=1e38,
            output=tmp_path / "out",
            **FAST,
        )
    assert not (tmp_path / "out").exists()


def test_bad_input_is_refused_before_anything_is_written(few, tiny, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(TypeError, match="must be an ImageClassifier"):
        finetune(keras.Sequential(), few, output=output)
    with pytest.raises(ValueError, match=r"one channel or three.*takes 5"):
        finetune(tiny(input_shape=(None, None, 5)), few, output=output)
    with pytest.raises(ValueError, match=r"one input size only.*\(24, 24\)"):
        finetune(tiny(input_shape=(16, 16, 3)), few, image_size=24, output=output)
    with pytest.raises(ValueError, match="epochs must be"):
        finetune(tiny(), few, epochs=-1, output=output)
    assert {path.name for path in tmp_path.iterdir()} == {"few"}


class Network:
    """The parts of a model that early stopping uses."""

    stop_training = False

    def __init__(self):
        self.weights = 0

    def get_weights(self):
        return [self.weights]


def test_early_stopping_keeps_the_best_epoch():
    progress, network = Progress(), Network()
    callback = phases._KeepBest(progress, patience=2)
    callback.set_model(network)
    scores = [(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.6, 0.1), (0.7, 0.8)]
    for epoch, (accuracy, loss) in enumerate(scores):
        network.weights = epoch
        callback.on_test_end({"accuracy": accuracy, "loss": loss})
        callback.on_epoch_end(epoch)
        assert network.stop_training == progress.stopped == (epoch == 4)
    assert progress.best_weights == [2]
    assert progress.best == [0.7, -0.8]


@pytest.mark.fast
def test_linear_probe_leaves_the_body_alone_and_stops_at_the_best_weights(few, tiny, monkeypatch):
    best = {}

    def on_test_end(self, logs=None):
        # The first epoch is the best; two without a better one end the run.
        self._progress.waited = 0 if self._progress.best is None else self._progress.waited + 1
        if self._progress.best is None:
            self._progress.best, self._progress.best_weights = [1.0, 0.0], self.model.get_weights()
            best["weights"] = self._progress.best_weights

    monkeypatch.setattr(phases._KeepBest, "on_test_end", on_test_end)
    start = tiny()
    result = finetune(
        start, few, epochs=9, warmup_epochs=9, early_stopping=2, learning_rate=0.1, **FAST
    )
    assert [row["phase"] for row in result.history] == 3 * ["head"]
    assert result.metrics["epochs_trained"] == 3
    for mine, theirs in zip(best["weights"], result.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    before, after = variable_names(start), variable_names(result.model)
    for name in after:
        if not name.startswith("head/"):
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    assert abs(np.asarray(after["head/bias"])).max() > 0
    assert after["head/kernel"].shape == (8, 2)
