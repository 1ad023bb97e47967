"""JAX alone, without TensorFlow; run by .ci/without_tensorflow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import batch_norm_networks
import goldens
import keras
import numpy as np
import pytest
import tiny_networks
from PIL import Image

import nf_zoo
from nf_zoo.models.classifier import build_model

LABELS = ("dark", "light")
REPOSITORY = Path(__file__).parents[2]


def draw_folder(root: Path) -> Path:
    """Eight pictures each of two classes, dark and light, of several sizes."""
    rng = np.random.default_rng(0)
    for base, label in zip((20, 170), LABELS, strict=True):
        (root / label).mkdir(parents=True)
        for index in range(8):
            pixels = base + rng.integers(0, 60, (24 + index, 40 - index, 3))
            Image.fromarray(pixels.astype("uint8")).save(root / label / f"{index}.png")
    return root


@pytest.fixture
def folder(tmp_path) -> Path:
    return draw_folder(tmp_path / "pictures")


@pytest.fixture(scope="module")
def small():
    name, fields = tiny_networks.NETWORKS["nf_resnet"]
    preprocessing = nf_zoo.Preprocessing(32)
    return build_model(name, labels=LABELS, preprocessing=preprocessing, **fields)


def test_there_is_no_tensorflow():
    with pytest.raises(ModuleNotFoundError, match="tensorflow"):
        import tensorflow  # noqa: F401
    assert keras.backend.backend() == "jax"
    assert Path(nf_zoo.__file__).is_relative_to(sys.prefix)


def test_published_outputs():
    model = build_model("test_nfnet")
    goldens.fill(model, "timm", "test_nfnet")
    logits = model.predict_on_batch(goldens.images((75, 93)))
    expected = goldens.outputs("timm", "test_nfnet", (75, 93))["logits"]
    assert tiny_networks.difference(np.asarray(logits), expected) <= 2e-5


def test_signal_propagation(small):
    result = nf_zoo.signal_propagation(small, (4, 32, 32, 3), unit_gains=True)
    assert [block.name for block in result] == ["stage1_block1", "stage2_block1", "stage2_block2"]
    assert all(0.1 < block.variance < 10 for block in result)
    assert not nf_zoo.diagnose(small, (4, 32, 32, 3))


def test_signals_while_it_trains(small, tmp_path, caplog):
    images = np.random.default_rng(0).standard_normal((8, 32, 32, 3)).astype("float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    options = {"csv_path": tmp_path / "signals.csv", "log_dir": tmp_path / "logs"}
    callback = nf_zoo.SignalPropagationCallback(images[:2], alarm_every=1, **options)
    (line,) = caplog.messages
    assert "nothing is written for TensorBoard" in line and "tensorflow" in line
    model = keras.models.clone_model(small)
    model.compile(keras.optimizers.SGD(0.05), loss)
    model.fit(images, np.arange(8) % 2, batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    assert [path.name for path in tmp_path.iterdir()] == ["signals.csv"]
    lines = (tmp_path / "signals.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in lines] == ["epoch", *"000111222"]
    before, after = (callback.records[index][1][-1].variance for index in (0, -1))
    assert before != after
    assert after == pytest.approx(nf_zoo.signal_propagation(model, images[:2])[-1].variance)


def test_the_shipped_checkpoint_knows_a_picture_file(folder):
    model = nf_zoo.NFResNet14(pretrained="cifar10")
    path = folder / "light" / "0.png"
    pixels = nf_zoo.preprocess([path], model)
    assert pixels.shape == (1, *model.preprocessing.input_size, 3)
    (best, *others), *_ = nf_zoo.decode_predictions(model.predict(pixels), top=10, labels=model)
    assert best.name in model.labels and len(others) == 9
    assert best.probability + sum(p.probability for p in others) == pytest.approx(1, abs=1e-5)
    untrained = nf_zoo.NFResNet14(num_classes=10)
    assert np.abs(untrained.predict(pixels) - model.predict(pixels)).max() > 0.1


def test_fit_lowers_the_loss(small, folder):
    paths = sorted(folder.rglob("*.png"))
    classes = np.array([LABELS.index(path.parent.name) for path in paths])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    small.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
    history = small.fit(small.preprocess(paths), classes, batch_size=8, epochs=10, verbose=0)
    losses = history.history["loss"]
    assert np.all(np.isfinite(losses)) and losses[-1] < 0.7 * losses[0]


def test_evaluate_counts_what_predict_says(small, folder):
    paths = [path for label in LABELS for path in sorted((folder / label).iterdir())]
    said = np.asarray(small.predict(small.preprocess(paths), verbose=0)).argmax(-1)
    true = np.repeat([0, 1], 8)
    metrics = nf_zoo.evaluate(small, folder, batch_size=5)
    confusion = np.zeros((2, 2), int)
    np.add.at(confusion, (true, said), 1)
    assert metrics["confusion_matrix"] == confusion.tolist()
    assert metrics["pictures"] == 16


def test_a_model_comes_back_from_disk(small, tmp_path):
    images = tiny_networks.images(size=(32, 32))
    expected = small.predict_on_batch(images)
    small.save(tmp_path / "model.keras")
    nf_zoo.save_pretrained(small, tmp_path / "weights")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict_on_batch(images), expected)
    again = nf_zoo.load_pretrained(tmp_path / "weights")
    np.testing.assert_array_equal(again.predict_on_batch(images), expected)


@pytest.mark.parametrize("label", ["nf_resnet_paper", "nf_regnet", "resnet_v2"])
def test_a_folded_network_computes_the_same(label, tmp_path):
    model = tiny_networks.filled(label, "jax")
    images = tiny_networks.images()
    folded = nf_zoo.fold(model)
    folded.save(tmp_path / "folded.keras")
    expected = np.asarray(model.predict_on_batch(images))
    for each in (folded, keras.models.load_model(tmp_path / "folded.keras")):
        assert tiny_networks.difference(np.asarray(each.predict_on_batch(images)), expected) < 1e-5


@pytest.mark.parametrize("label", ["nf_resnet", "nfnet_eca_paper"])
def test_onnx_files_need_no_tensorflow(label, tmp_path):
    import onnxruntime

    model, images = tiny_networks.filled(label, "jax"), tiny_networks.images()
    path = nf_zoo.export_onnx(model, tmp_path / "model.onnx")
    said = onnxruntime.InferenceSession(path).run(["logits"], {"images": images})[0]
    expected = np.asarray(model.predict_on_batch(images))
    assert tiny_networks.difference(said, expected) < 1e-5


@pytest.mark.parametrize("command", ["export_saved_model", "export_litert"])
def test_what_needs_tensorflow_says_so_and_writes_nothing(command, small, folder):
    with pytest.raises(RuntimeError, match="works with TensorFlow only: pip install") as caught:
        getattr(nf_zoo, command)(small, folder.parent / "made" / "output")
    message = str(caught.value)
    assert message.endswith("Received: backend 'jax'") and "\n" not in message
    assert list(folder.parent.iterdir()) == [folder]


def test_quickstart(tmp_path):
    from nf_zoo.quickstart import quickstart

    shares = {"training_pictures": 8, "validation_pictures": 3, "test_pictures": 5}
    record = quickstart(tmp_path / "tour", epochs=2, **shares)
    assert record["served"] is None
    assert 0 < record["fine_tuned"]["test_accuracy"] <= 1
    assert (tmp_path / "tour" / "fine_tuned" / "model.keras").exists()


def nf_zoo_command(*arguments, **options) -> subprocess.CompletedProcess:
    command = [Path(sys.executable).with_name("nf-zoo"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_the_command_lists_and_describes():
    listed = json.loads(nf_zoo_command("list", "nf_resnet14", "--json", check=True).stdout)
    assert [row["name"] for row in listed] == ["nf_resnet14"]
    described = nf_zoo_command("info", "nf_resnet14", "--json", check=True).stdout
    assert json.loads(described)["parameters"] == 692_122


def test_the_command_predicts_and_refuses(folder):
    picture = folder / "dark" / "0.png"
    predicted = nf_zoo_command("predict", "nf_resnet14.cifar10", picture, "--json", check=True)
    assert len(json.loads(predicted.stdout)[0]["predictions"]) == 5
    refused = nf_zoo_command("export", "nf_resnet14.cifar10", folder.parent / "made.tflite")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "works with TensorFlow only" in refused.stderr
    assert list(folder.parent.iterdir()) == [folder]


def test_the_command_fine_tunes(folder):
    output = folder.parent / "output"
    options = [
        "--model",
        "nf_resnet14.cifar10",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--accumulate",
        "2",
    ]
    nf_zoo_command("finetune", folder, "--output", output, *options, check=True)
    report = json.loads((output / "report.json").read_text())
    assert report["micro_batch"] == 2 and set(report["versions"]) > {"jax"}
    assert nf_zoo_command("predict", output, folder / "dark" / "0.png").returncode == 0


def test_a_recipe_trains(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY)  # recipes are not in the wheel
    from training import recipe as recipes
    from training.session import run

    for split in ("train", "test"):
        draw_folder(tmp_path / "set" / split)
    recipe = recipes.load(f"{REPOSITORY}/training/configs/wide_resnet_cifar10.py:nf,10-1,smoke")
    recipe.data.source = f"folder:{tmp_path / 'set'}"
    recipe.evaluation.batch_size = 5
    recipe.run.checkpoint_steps, recipe.ema = 10, 0.9
    values = run(recipe, tmp_path / "run")
    assert values["top1"] > 80 and values["ema_top1"] > 50
    assert run(recipe, tmp_path / "run", eval_only=True) == pytest.approx(values)
    model = nf_zoo.load_pretrained(tmp_path / "run" / "model")
    assert model.labels == LABELS
    recipe.data.in_memory = False
    with pytest.raises(recipes.RecipeError, match=r"data\.in_memory=True"):
        run(recipe, tmp_path / "other")


@pytest.mark.parametrize("convert", [nf_zoo.remove_batch_norm, nf_zoo.normalizer_free])
def test_batch_norms_are_converted(convert):
    """Also channels first, which TensorFlow cannot compute on CPUs; there only removed."""
    model = batch_norm_networks.fill(channels_first())
    inputs = batch_norm_networks.draw(model)
    if convert is nf_zoo.normalizer_free:
        with pytest.raises(ValueError, match=r'data_format="channels_last".*axis=1'):
            convert(model)
        result = convert(batch_norm_networks.pairs())
        answers = batch_norm_networks.answer(result, batch_norm_networks.draw(result))
        assert all(np.isfinite(x).all() and x.std() > 0 for x in answers)
        return
    result = convert(model)
    (before,), (after,) = (batch_norm_networks.answer(x, inputs) for x in (model, result))
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())
    assert result.remaining == {} and not batch_norm_networks.norms_of(result)


def channels_first() -> keras.Model:
    first = {"data_format": "channels_first"}
    x = inputs = keras.Input((3, 12, 10))
    for layer in (
        keras.layers.Conv2D(8, 3, use_bias=False, **first),
        keras.layers.DepthwiseConv2D(3, strides=2, **first),
        keras.layers.SeparableConv2D(6, 3, padding="same", **first),
        keras.layers.Conv2DTranspose(4, 2, strides=2, **first),
    ):
        x = keras.layers.BatchNormalization(axis=1)(layer(x))
    return keras.Model(inputs, keras.layers.ReLU()(x))
