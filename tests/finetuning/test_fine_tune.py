import csv
import dataclasses
import json
import shutil
import warnings
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tiny_networks

from nf_zoo.backend import is_out_of_memory
from nf_zoo.finetuning import evaluate, fine_tune, finetune, phases
from nf_zoo.finetuning.devices import Devices
from nf_zoo.finetuning.phases import Progress
from nf_zoo.finetuning.settings import Settings
from nf_zoo.models.classifier import variable_names

pytestmark = pytest.mark.filterwarnings("ignore:1 file of:UserWarning")

TENSORFLOW = keras.backend.backend() == "tensorflow"
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
    exported = {"saved_model"} if TENSORFLOW else set()
    assert {path.name for path in output.iterdir()} == exported | {
        "model.keras",
        "labels.txt",
        "history.csv",
        "pictures.csv",
        "learning_curve.png",
        "confusion_matrix.png",
        "predictions.png",
        "report.html",
        "report.json",
    }
    assert not TENSORFLOW or (output / "saved_model" / "saved_model.pb").stat().st_size > 0
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
    result, start = report["model"], report["run"]["started_from"]
    assert result["architecture"] == start["architecture"] == "nf_resnet10"
    assert (result["options"]["num_classes"], start["options"]["num_classes"]) == (3, 5)
    assert report["seed"] == 0
    assert set(report["versions"]) == {"nf_zoo", "keras", keras.backend.backend(), "python"}
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

    train = phases._train_epoch

    def train_epoch(run, epoch, bar):
        if epoch == epochs:
            raise Killed
        return train(run, epoch, bar)

    monkeypatch.setattr(phases, "_train_epoch", train_epoch)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_resumed_run_equals_an_uninterrupted_one(
    accumulate, few, tiny, tmp_path, monkeypatch, no_saved_model
):
    start = tiny(drop_rate=0.2, stochastic_depth_rate=0.3)
    options = {
        "accumulate": accumulate,
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


@pytest.mark.parametrize("kind", ["arrays", "data set"])
def test_a_run_from_memory_goes_on_with_the_same_pixels_only(kind, tiny, tmp_path, monkeypatch):
    def data(changed: int, seed: int = 0):
        pixels = np.random.default_rng(seed).integers(0, 255, (12, 18, 16, 3), np.uint8)
        pixels[changed, 5, 5] ^= 1
        pair = pixels, np.arange(12) % 2
        if kind == "arrays":
            return pair
        tf = pytest.importorskip("tensorflow", reason="a data set of TensorFlow")
        return tf.data.Dataset.from_tensor_slices(pair)

    options = {"epochs": 1, "warmup_epochs": 1, "output": tmp_path / "out", **FAST}
    # Numbers of pictures name no files, and are the same in each split.
    options["validation_data"] = data(1, seed=1)
    start = tiny()
    kill_after(monkeypatch, 0)
    for _ in range(2):
        with pytest.raises(Killed):
            finetune(start, data(2), resume=True, **options)
    folder = tmp_path / "out.partial"
    (folder / "epoch-00001").mkdir()
    (folder / "epoch-00001" / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other settings or pictures.*pictures train"):
        finetune(start, data(3), resume=True, **options)


@pytest.mark.parametrize("what", ["dtype", "preprocessing", "layers"])
def test_a_run_goes_on_with_the_same_network_only(what, few, tiny, tmp_path, monkeypatch):
    start = tiny(dtype="mixed_bfloat16") if what == "dtype" else tiny()
    if what == "preprocessing":
        start.preprocessing = dataclasses.replace(start.preprocessing, crop_mode="squash")
    if what == "layers":
        start.get_layer("stem_conv").trainable = False
    options = {"epochs": 2, "warmup_epochs": 1, "output": tmp_path / "out", **FAST}
    kill_after(monkeypatch, 1)
    with pytest.raises(Killed):
        finetune(start, few, **options)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=f"other settings or pictures.*started_from {what}"):
        finetune(tiny(), few, resume=True, **options)


def test_a_classifier_that_is_kept_stays_frozen(few, tiny):
    start = tiny(num_classes=2, labels=("bar", "disc"))
    start.head.trainable = False
    result = finetune(start, few, epochs=2, **FAST)
    assert [row["phase"] for row in result.history] == ["whole", "whole"]
    np.testing.assert_array_equal(result.model.head.kernel, start.head.kernel)
    assert not result.model.head.trainable
    before, after = variable_names(start), variable_names(result.model)
    assert any(not np.array_equal(before[name], after[name]) for name in before)


def test_an_average_of_no_epoch_is_told(few, tiny):
    with pytest.warns(UserWarning, match="ema averages the epochs of the whole network"):
        finetune(tiny(), few, epochs=1, warmup_epochs=1, ema=True, **FAST)


def test_validation_has_the_loss_of_the_training(few, tiny):
    start = tiny(num_classes=2, labels=("bar", "disc"), classifier_activation="sigmoid")
    start.head.kernel.assign(np.zeros(start.head.kernel.shape))
    start.head.bias.assign([1.0, 1.0])
    start.trainable = False
    start.head.bias.trainable = True
    options = {"validation_data": few, "learning_rate": 1e-9, "class_weight": {"disc": 3.0}}
    (row,) = finetune(start, few, epochs=1, warmup_epochs=0, **options, **FAST).history
    for name, expected in (("cross_entropy", np.log(2)), ("loss", 2 * np.log(2))):
        assert row[name] == pytest.approx(expected, rel=1e-4)
        assert row[f"val_{name}"] == pytest.approx(expected, rel=1e-4)
    assert evaluate(start, few)["cross_entropy"] == pytest.approx(np.log(2), rel=1e-4)


def test_whole_network_epochs_change_the_body_in_mixed_precision(tiny):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 18, 16, 3), np.uint8)
    start = tiny()
    result = finetune(
        start,
        (pixels, np.arange(20) % 2),
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
        settings = Settings(image_size=(24, 16), seed=seed)
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


def test_a_run_that_diverged_is_started_again_as_the_message_says(
    few, tiny, tmp_path, monkeypatch, no_saved_model
):
    options = {"epochs": 2, "warmup_epochs": 1, "output": tmp_path / "out", **FAST}
    train = Devices.train
    monkeypatch.setattr(
        Devices,
        "train",
        lambda self, model, batch: {
            **train(self, model, batch),
            "loss": float("nan") if model.layers[1].trainable else 1.0,
        },
    )
    with pytest.raises(FloatingPointError, match="Lower learning_rate"):
        finetune(tiny(), few, learning_rate=0.3, **options)
    assert (tmp_path / "out.partial" / "epoch-00001").is_dir()
    monkeypatch.undo()
    monkeypatch.setattr("nf_zoo.deploy.saved_model.export_saved_model", lambda model, path: None)
    result = finetune(tiny(), few, learning_rate=0.1, **options)
    assert len(result.history) == 2


def test_out_of_memory_names_what_to_lower(few, tiny, monkeypatch, tmp_path):
    def exhausted(*_):
        raise ResourceExhaustedError("OOM when allocating tensor")

    monkeypatch.setattr(phases, "_train_epochs", exhausted)
    message = r'accumulate="auto".* batch_size, for example to 4.*batch_size=8, image_size=16 x 16'
    with pytest.raises(MemoryError, match=message):
        finetune(tiny(), few, output=tmp_path / "out", epochs=2, **FAST)


@pytest.mark.parametrize("epochs", [1, 2])
def test_finish_delivers_the_last_complete_epoch(
    epochs, few, tiny, tmp_path, monkeypatch, no_saved_model
):
    options = {"epochs": 4, "warmup_epochs": 1, "ema": 0.5, "output": tmp_path / "out", **FAST}
    start = tiny()
    kill_after(monkeypatch, epochs)
    with pytest.raises(Killed):
        finetune(start, few, **options)
    monkeypatch.undo()
    monkeypatch.setattr("nf_zoo.deploy.saved_model.export_saved_model", lambda model, path: None)
    result = finetune(start, few, finish=True, **options)
    assert [row["epoch"] for row in result.history] == [1, 2][:epochs]
    assert result.metrics["epochs_trained"] == epochs
    assert result.metrics["accuracy"] == pytest.approx(result.history[-1]["val_accuracy"])
    assert result.metrics["cross_entropy"] == pytest.approx(
        result.history[-1]["val_cross_entropy"], rel=1e-4
    )
    assert [path.name for path in tmp_path.glob("out*")] == ["out"]


def test_losses_are_comparable_and_the_result_fits_a_screen(finished):
    last = finished.history[-1]
    # The validation loss is smoothed; the cross-entropy is that of the report.
    assert last["val_cross_entropy"] == pytest.approx(finished.metrics["cross_entropy"], rel=1e-4)
    assert last["val_loss"] != pytest.approx(last["val_cross_entropy"], rel=1e-2)
    text = repr(finished)
    assert len(text) < 400 and "\n" not in text
    assert "nf_resnet10, 3 classes, 12 epochs; Validation accuracy" in text
    low, high = finished.metrics["accuracy_interval"]
    assert 0 < low < finished.metrics["accuracy"] <= high <= 1
    alone = finished.metrics["classifier_alone"]["accuracy"]
    assert alone == finished.history[0]["val_accuracy"]


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

    def __init__(self):
        self.weights = 0

    def get_weights(self):
        return [self.weights]


def test_early_stopping_keeps_the_best_epoch():
    run = SimpleNamespace(progress=Progress(), model=Network())
    scores = [(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.6, 0.1), (0.7, 0.8)]
    for epoch, (accuracy, loss) in enumerate(scores):
        run.model.weights = epoch
        phases._keep_best(run, {"val_accuracy": accuracy, "val_loss": loss}, patience=2)
        assert run.progress.stopped == (epoch == 4)
    assert run.progress.best_weights == [2]
    assert run.progress.best == [0.7, -0.8]


@pytest.mark.fast
def test_linear_probe_leaves_the_body_alone_and_stops_at_the_best_weights(few, tiny, monkeypatch):
    best = {}

    keep = phases._keep_best

    def keep_the_first(run, figures, patience):
        # The first epoch is the best; two without a better one end the run.
        first = run.progress.best is None
        keep(run, {"val_accuracy": float(first), "val_loss": 0.0}, patience)
        best.setdefault("weights", run.progress.best_weights)

    monkeypatch.setattr(phases, "_keep_best", keep_the_first)
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


def values_of(result):
    """Weights of the result, and the losses of its epochs."""
    return [*result.model.get_weights(), [row["loss"] for row in result.history]]


@pytest.mark.parametrize("more", [{"ema": 0.5}, {"early_stopping": 1}, {"early_stopping": 9}])
def test_parts_of_a_batch_make_the_same_steps(more, few, tiny):
    options = {"epochs": 3, "warmup_epochs": 1, "learning_rate": 0.1, **more, **FAST}
    start = tiny()
    whole, parts = (finetune(start, few, accumulate=k, **options) for k in (1, 4))
    for mine, theirs in zip(values_of(parts), values_of(whole), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)
    assert (whole.metrics["micro_batch"], parts.metrics["micro_batch"]) == (8, 2)


@pytest.mark.parametrize("options", [{"agc": 0.05}, {"layer_decay": 0.5}, {"optimizer": "adamw"}])
def test_parts_make_the_same_steps_with_other_optimizers(options, few, tiny):
    options |= {"epochs": 1, "ema": 0.5, "weight_decay": 0.01, **FAST}
    start = tiny()
    whole, parts = (finetune(start, few, accumulate=k, **options) for k in (1, 2))
    for mine, theirs in zip(values_of(parts), values_of(whole), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)


def test_a_batch_larger_than_all_pictures_is_said_to_be_smaller(few, tiny, capsys):
    result = finetune(tiny(), few, **{**FAST, "epochs": 1, "batch_size": 1000, "verbose": 1})
    count = result.metrics["run"]["settings"]["batch_size"]
    assert f"batches of {count} (all training pictures), " in capsys.readouterr().out


class ResourceExhaustedError(RuntimeError):
    """Named as TensorFlow's."""


class OutOfMemoryError(RuntimeError):
    """Named as PyTorch's."""


def test_out_of_memory_is_known_on_every_backend():
    assert is_out_of_memory(OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(ResourceExhaustedError("no memory")) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("out of luck"))


def test_smaller_parts_are_tried_when_memory_runs_out(few, tiny, capsys, monkeypatch):
    options = {"epochs": 2, "warmup_epochs": 1, "learning_rate": 0.1, **FAST}
    start, train = tiny(), Devices.train
    whole = finetune(start, few, **options)

    def fits_two(self, model, batch):
        if len(batch[0]) // model.accumulate > 2:
            raise ResourceExhaustedError("no memory")
        return train(self, model, batch)

    monkeypatch.setattr(Devices, "train", fits_two)
    with pytest.raises(MemoryError, match='accumulate="auto"'):
        finetune(start, few, **options)
    sizes, answer = [], type(start).predict_on_batch
    monkeypatch.setattr(
        type(start), "predict_on_batch", lambda m, x: sizes.append(len(x)) or answer(m, x)
    )
    parts = finetune(start, few, accumulate="auto", **{**options, "verbose": 2})
    assert set(sizes) == {2}, "the pictures to validate on come in parts too, to the end"
    assert "micro-batches of 2, 4 for each step" in capsys.readouterr().out
    assert parts.metrics["micro_batch"] == 2
    for mine, theirs in zip(values_of(parts), values_of(whole), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)


def test_a_kept_classifier_keeps_its_adapter(few, tiny):
    start = tiny(num_classes=2, labels=("bar", "disc"))
    start.head.enable_lora(2)
    result = finetune(start, few, **{**FAST, "epochs": 1})
    assert result.model.head.lora_rank == 2
    moved = result.model.head.lora_kernel_b - start.head.lora_kernel_b
    assert np.abs(np.asarray(moved)).max() > 0


def test_what_is_trained_from_scratch_is_pretrained_from_then_on(few, tiny, tmp_path):
    first = finetune(tiny(weights_tag=None), few, **{**FAST, "epochs": 1, "output": tmp_path / "a"})
    assert first.history[0]["phase"] == "whole" and first.model.weights_tag == "./a"
    renamed = tmp_path / "renamed"
    shutil.copytree(few, renamed)
    (renamed / "bar").rename(renamed / "rod")
    second = finetune(first.model, renamed, **{**FAST, "epochs": 2})
    assert second.history[0]["phase"] == "head"


def test_no_two_layers_draw_the_same_numbers(tiny):
    start = tiny(depths=(3,), stochastic_depth_rate=0.5, drop_rate=0.5, num_classes=2)
    fitted = fine_tune._prepare(start, ("bar", "disc"), Settings(image_size=16))
    weights = {id(variable) for variable in fitted.weights}
    states = [np.asarray(v) for v in fitted.variables if id(v) not in weights]
    drawn = [(seed, place + step) for seed, place in states for step in range(100)]
    assert len(states) >= 3 and len(set(drawn)) == len(drawn)


def test_the_next_number_of_micro_batches():
    """As the batch has divisors, which powers of two may not be, and the devices share each."""
    for batch_size, devices, expected in (
        (12, 1, [2, 4, 12]),
        (9, 1, [3, 9]),
        (7, 1, [7]),
        (12, 2, [2, 6]),
        (12, 5, []),
    ):
        found, now = [], 1
        while now := phases._next_accumulate(now, batch_size, devices):
            found.append(now)
        assert found == expected


def test_nothing_smaller_to_try(few, tiny, monkeypatch):
    def exhausted(*_):
        raise ResourceExhaustedError("no memory")

    monkeypatch.setattr(Devices, "train", exhausted)
    with pytest.raises(MemoryError) as told:
        finetune(tiny(), few, epochs=1, accumulate="auto", **FAST)
    assert "auto" not in str(told.value) and "rematerialize=True" in str(told.value)


def test_micro_batches_must_divide_the_batch(few, tiny):
    with pytest.raises(ValueError, match=r"accumulate must divide the batch size.*batch_size=8"):
        finetune(tiny(), few, accumulate=3, **FAST)


def part(model, block, name):
    return next(one for one in model.get_layer(block)._layers if one.name == name)


def test_frozen_parts_stay_as_they_are(few, tiny):
    start = tiny(depths=(1, 1), widths=(8, 8))
    part(start, "stage1_block1", "conv1").trainable = False
    alone = "stage2/block1/conv2/kernel"
    variable_names(start)[alone].trainable = False
    result = finetune(
        start, few, epochs=1, freeze=["stem", "stage2/block1/.*gain"], **{**FAST, "verbose": 0}
    )
    before, after = variable_names(start), variable_names(result.model)
    moved = {n for n in after if n in before and not np.array_equal(before[n], after[n])}
    assert not [n for n in moved if n.startswith(("stem", "stage1/block1/conv1"))]
    assert not [n for n in moved if n.startswith("stage2") and n.endswith("gain")]
    assert [n for n in moved if n.startswith("stage2") and n.endswith("kernel")]
    assert alone not in moved and not after[alone].trainable
    assert not part(result.model, "stage1_block1", "conv1").trainable
    second = result.model.get_layer("stage2_block1")
    own = [v for layer in second._flatten_layers() for v in layer._trainable_variables]
    assert [v.trainable for v in own].count(False) == 1
    assert result.model.get_layer("stem_conv").trainable
    with pytest.raises(ValueError, match=r"freeze must name parts.*stem.*Received: 'stge1'"):
        finetune(start, few, epochs=1, freeze="stge1", **FAST)


@pytest.mark.parametrize(("freeze", "warmup"), [("head", 1), (".*", 0)])
def test_a_phase_without_anything_to_train_is_refused(freeze, warmup, few, tiny):
    with pytest.raises(ValueError, match="freeze must leave a part of the"):
        finetune(tiny(), few, epochs=2, warmup_epochs=warmup, freeze=freeze, **FAST)


def test_frozen_batch_normalization_keeps_scale_and_statistics(few):
    start = tiny_networks.build("resnet_v2")
    result = finetune(start, few, epochs=1, image_size=32, freeze="batch_norm", **FAST)
    before, after = variable_names(start), variable_names(result.model)
    norms = [n for n in after if n.endswith(("gamma", "beta", "mean", "variance"))]
    assert norms and all(np.array_equal(before[n], after[n]) for n in norms)
    assert not np.array_equal(before["stem/conv1/kernel"], after["stem/conv1/kernel"])


def test_micro_batches_of_batch_normalization_are_warned_of(few):
    options = {"epochs": 1, "warmup_epochs": 0, "image_size": 32, "accumulate": 2, **FAST}
    start = tiny_networks.build("resnet_v2")
    with pytest.warns(UserWarning, match="statistics from micro-batches of 4.*batch of 8"):
        finetune(start, few, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        finetune(start, few, freeze="batch_norm", **options)


def test_recomputed_blocks_make_the_same_steps(few, tiny):
    options = {"epochs": 1, "learning_rate": 0.1, **FAST}
    start = tiny()
    plain, recomputed = (finetune(start, few, rematerialize=r, **options) for r in (False, True))
    for mine, theirs in zip(values_of(recomputed), values_of(plain), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)
    assert not recomputed.model.config.rematerialize


def test_a_picture_that_disappears_ends_the_run_and_it_goes_on(few, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("nf_zoo.finetuning.picture_sets.CACHE_BYTES", 1)
    options = {"epochs": 2, "warmup_epochs": 1, "output": tmp_path / "out", **FAST}
    start = tiny()
    whole = finetune(start, few, **{**options, "output": tmp_path / "whole"})
    train, lost = phases._train_epoch, few / "bar" / "000.jpg"

    def lose(run, epoch, bar):
        if epoch == 1:
            for path in few.rglob("*.*"):
                path.rename(path.with_suffix(path.suffix + ".gone"))
        return train(run, epoch, bar)

    monkeypatch.setattr(phases, "_train_epoch", lose)
    with pytest.raises(RuntimeError, match=r"can no longer be read"):
        finetune(start, few, **options)
    monkeypatch.setattr(phases, "_train_epoch", train)
    for path in list(few.rglob("*.gone")):
        path.rename(path.with_suffix(""))
    assert lost.exists()
    again = finetune(start, few, resume=True, **options)
    for mine, theirs in zip(values_of(again), values_of(whole), strict=True):
        np.testing.assert_array_equal(mine, theirs)
