from __future__ import annotations

import io
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_networks
from photographs import encode, photograph
from picture_files import FILES
from PIL import Image
from programs import succeed

import nf_zoo
from nf_zoo.deploy import saved_model
from nf_zoo.models.classifier import build_model
from nf_zoo.pictures import tensorflow_decoding
from nf_zoo.pictures.preprocessing import Preprocessing

TINY = {"depths": (1, 1, 1, 1), "widths": (8, 8, 16, 16), "stem_width": 8}
LABELS = tuple(["alpha", "beta", "gamma", "delta", "epsilon", "zeta"])


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = build_model(
        "nf_resnet10",
        labels=LABELS,
        preprocessing={"input_size": [32, 32], "crop_fraction": 1.0},
        zero_init_gain=False,
        **TINY,
    )
    model.head.kernel.assign(5 * np.random.default_rng(0).standard_normal((16, 6)))
    return model


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return saved_model.export_saved_model(model, tmp_path_factory.mktemp("export") / "model")


def pictures(count, height, width):
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype="uint8")


def softmax(logits):
    return np.asarray(keras.ops.softmax(logits))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (32, 51)])
def test_pixels_answer_as_the_keras_model(model, exported, count, size):
    # The short side is the input size and the crop is whole, so nothing is resampled.
    images = pictures(count, *size)
    expected = softmax(model(model.preprocess(images), training=False))
    loaded = tf.saved_model.load(str(exported))
    floats = loaded.signatures["serving_default"](images=tf.constant(images, tf.float32))
    integers = loaded.signatures["serving_uint8"](images=tf.constant(images))
    np.testing.assert_allclose(floats["probabilities"], expected, atol=1e-5)
    np.testing.assert_allclose(integers["probabilities"], expected, atol=1e-5)
    assert np.ptp(expected) > 0.1


def test_top_five(exported):
    loaded = tf.saved_model.load(str(exported))
    answer = loaded.predict(tf.constant(pictures(2, 40, 60)))
    order = np.argsort(-answer["probabilities"].numpy(), axis=-1)[:, :5]
    assert answer["labels"].numpy().astype(str).tolist() == np.array(LABELS)[order].tolist()
    np.testing.assert_allclose(
        answer["scores"], np.take_along_axis(answer["probabilities"].numpy(), order, -1)
    )


def test_bytes_of_different_sizes_in_one_batch(exported):
    loaded = tf.saved_model.load(str(exported))
    images = [pictures(1, 32, 32)[0], pictures(1, 57, 40)[0], pictures(1, 20, 90)[0]]
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    together = loaded.signatures["serving_bytes"](image_bytes=tf.constant(encoded))
    for row, image in zip(together["probabilities"], images, strict=True):
        alone = loaded.predict(tf.constant(image[None]))["probabilities"][0]
        np.testing.assert_allclose(row, alone, atol=1e-5)


def test_features(model, exported):
    images = pictures(2, 32, 32)
    trunk = keras.Model(model.inputs, model.get_layer("pool").output)
    expected = trunk(model.preprocess(images), training=False)
    loaded = tf.saved_model.load(str(exported))
    actual = loaded.signatures["features"](images=tf.constant(images, tf.float32))["features"]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def bytes_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_weights_as_constants(model, exported, tmp_path, monkeypatch):
    path = nf_zoo.export_saved_model(model, tmp_path / "constant", constants=True)
    loaded = tf.saved_model.load(str(path))
    assert not loaded.network.captured_inputs
    pixels = model.preprocess(pictures(2, 32, 32))
    outputs, features = loaded.network(tf.constant(pixels))
    np.testing.assert_allclose(outputs, model(pixels, training=False), atol=1e-5)
    assert features.shape == (2, model.get_layer("pool").output.shape[-1])
    # Once, though four signatures use them; the other export keeps its variables once too.
    assert bytes_of(path) < bytes_of(exported) + 0.5 * 4 * model.count_params()
    monkeypatch.setattr(saved_model, "MOST_CONSTANTS", 10)
    with pytest.raises(ValueError, match="constants=False"):
        nf_zoo.export_saved_model(model, tmp_path / "too-large", constants=True)
    assert not (tmp_path / "too-large").exists()


def test_fusions_survive_the_graph_optimizer(tmp_path):
    """Every convolution of a pre-activation network takes its bias, and the ReLU behind it."""
    script = (
        "import sys, tensorflow as tf, nf_zoo, tiny_networks\n"
        "model = tiny_networks.build('nf_resnet', depths=(3, 3))\n"
        "nf_zoo.export_saved_model(tiny_networks.fill(model, 'fusions'), sys.argv[1])\n"
        "tf.saved_model.load(sys.argv[1]).network(tf.zeros((1, 64, 64, 3)))\n"
    )
    told = {"TF_ENABLE_ONEDNN_OPTS": "1", "TF_CPP_MIN_LOG_LEVEL": "0"}
    told |= {"TF_CPP_VMODULE": "remapper=2", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = succeed(script, tmp_path / "model", **told)
    assert "remapper failed" not in done.stderr
    assert "BiasAdd and Relu" in done.stderr


def test_fresh_process_without_the_library(model, exported, tmp_path):
    images = pictures(3, 32, 32)
    np.save(tmp_path / "images.npy", images)
    script = (
        "import sys, json, numpy as np, tensorflow as tf\n"
        "images = tf.constant(np.load(sys.argv[2]))\n"
        "loaded = tf.saved_model.load(sys.argv[1])\n"
        "answer = loaded.predict(images)\n"
        "assert 'nf_zoo' not in sys.modules\n"
        "print(json.dumps(answer['probabilities'].numpy().tolist()))\n"
    )
    done = succeed(script, exported, tmp_path / "images.npy", cwd=tmp_path)
    expected = softmax(model(model.preprocess(images), training=False))
    answer = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(answer, expected, atol=1e-5)


@pytest.mark.fast
def test_metadata(model, exported):
    assert (exported / "assets.extra/labels.txt").read_text().split() == list(LABELS)
    record = json.loads((exported / "assets.extra/preprocessing.json").read_text())
    assert record["architecture"] == "nf_resnet10"
    assert nf_zoo.Preprocessing.from_dict(
        {k: v for k, v in record.items() if k != "architecture"}
    ) == (model.preprocessing)


def test_existing_folder_is_kept_unless_overwritten(model, exported, tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        saved_model.export_saved_model(model, target)
    with pytest.raises(FileExistsError, match=r"would be lost.*mine\.txt"):
        saved_model.export_saved_model(model, target, overwrite=True)
    assert (target / "mine.txt").read_text() == "keep"
    (target / "mine.txt").rename(target / "assets")  # a name that a SavedModel has too
    with pytest.raises(FileExistsError, match=r"would be lost.*assets"):
        saved_model.export_saved_model(model, target, overwrite=True)
    (target / "assets").unlink()
    for constants in (False, True):
        saved_model.export_saved_model(model, target, overwrite=True, constants=constants)
    assert (target / "saved_model.pb").exists()


def test_a_single_logit_is_the_probability_of_its_class(tmp_path):
    model = tiny_networks.build("nf_resnet", num_classes=1, preprocessing={"input_size": [32, 32]})
    tiny_networks.fill(model, "one")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), "uint8")
    loaded = tf.saved_model.load(str(nf_zoo.export_saved_model(model, tmp_path / "model")))
    found = loaded.predict(tf.constant(pixels))["probabilities"].numpy()
    logits = model.predict(model.preprocess(pixels), verbose=0)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=0.01)
    answers = [row[0].probability for row in model.decode_predictions(logits)]
    np.testing.assert_allclose(answers, found[:, 0], atol=0.01)


def test_an_output_that_has_two_names_has_both(tmp_path):
    inputs = keras.Input((8, 8, 3))
    one, two = keras.layers.Conv2D(2, 1)(inputs), keras.layers.Conv2D(3, 1)(inputs)
    model = keras.Model(inputs, {"b": one, "a": one, "c": two})
    loaded = tf.saved_model.load(str(nf_zoo.export_saved_model(model, tmp_path / "model")))
    shapes = loaded.signatures["serving_default"].structured_outputs
    assert {key: spec.shape[-1] for key, spec in shapes.items()} == {"a": 2, "b": 2, "c": 3}


def test_a_wrong_answer_writes_nothing(model, tmp_path, monkeypatch):
    true_answer = saved_model._answer

    def wrong(tf, model, outputs):
        return true_answer(tf, model, outputs * (1.0 if tf.executing_eagerly() else 2.0))

    monkeypatch.setattr(saved_model, "_answer", wrong)
    with pytest.raises(RuntimeError, match="nothing was written"):
        saved_model.export_saved_model(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"include_preprocessing": True}])
def test_other_graphs_export(options, tmp_path):
    model = build_model(
        "nf_resnet10",
        preprocessing={"input_size": [32, 32]},
        **{"num_classes": 3, **options},
        **TINY,
    )
    path = saved_model.export_saved_model(model, tmp_path / "model")
    loaded = tf.saved_model.load(str(path))
    answer = loaded.predict(tf.constant(pictures(2, 48, 48)))
    key, width = ("features", 16) if options.get("num_classes") == 0 else ("probabilities", 3)
    assert answer[key].shape == (2, width)


def test_models_of_one_channel_turn_pictures_gray(tmp_path):
    settings = Preprocessing(16, 1.0)
    options = {"input_shape": (None, None, 1), "num_classes": 2, "preprocessing": settings}
    model = build_model("nf_resnet10", **options, **TINY)
    saved_model.export_saved_model(model, tmp_path / "model")
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype="uint8")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    served = loaded.predict(tf.constant(pictures))["probabilities"]
    expected = tf.nn.softmax(model(model.preprocess(pictures)))
    np.testing.assert_allclose(served, expected, atol=1e-5)
    assert model.preprocess(pictures).shape == (2, 16, 16, 1)


def test_a_broken_picture_fails_no_batch(exported):
    loaded = tf.saved_model.load(str(exported))
    good = [FILES["transparency, of PNG, WebP and GIF"][name] for name in ("png RGBA", "webp")]
    bad = [FILES["TIFF"]["rgb"], good[0][:900], b"", b"<html></html>"]
    serve = loaded.signatures["serving_bytes"]
    answer = serve(image_bytes=tf.constant([bad[0], good[0], *bad[1:3], good[1], bad[3]]))
    assert answer["valid"].numpy().tolist() == [False, True, False, False, True, False]
    alone = serve(image_bytes=tf.constant(good))
    assert alone["valid"].numpy().all()
    for name in ("probabilities", "scores"):
        np.testing.assert_allclose(answer[name].numpy()[[1, 4]], alone[name], atol=1e-6)
        assert not answer[name].numpy()[[0, 2, 3, 5]].any()
    assert (answer["labels"].numpy()[[0, 2, 3, 5]] == b"").all()
    nothing = serve(image_bytes=tf.constant(bad))
    assert nothing["probabilities"].shape == (4, 6) and not nothing["valid"].numpy().any()


def test_features_of_encoded_pictures(tmp_path):
    model = build_model("nf_resnet10", num_classes=0, **TINY)
    path = nf_zoo.export_saved_model(model, tmp_path / "features")
    serve = tf.saved_model.load(str(path)).signatures["serving_bytes"]
    answer = serve(
        image_bytes=tf.constant([FILES["AVIF"]["avif"], encode(photograph(64, 48), "PNG")])
    )
    assert answer["valid"].numpy().tolist() == [False, True]
    expected = model(model.preprocess(photograph(64, 48)), training=False)
    np.testing.assert_allclose(answer["features"][1:], expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("kind", ["turned", "broken"])
def test_an_export_that_decodes_otherwise_is_not_written(model, tmp_path, monkeypatch, kind):
    def other(encoded):
        image = true(encoded) if kind == "turned" else tf.zeros((0, 0, 3), tf.uint8)
        return tf.transpose(image, (1, 0, 2))

    true = tensorflow_decoding.decode_if_possible
    monkeypatch.setattr(tensorflow_decoding, "decode_if_possible", other)
    with pytest.raises(RuntimeError, match="does not answer as the Keras model"):
        nf_zoo.export_saved_model(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_model_of_ones_own_may_have_the_preprocessing(tmp_path):
    network = tiny_networks.build("nf_resnet")
    model = keras.Model(network.input, keras.layers.Dense(3)(network.get_layer("pool").output))
    model.preprocessing = network.preprocessing
    path = nf_zoo.export_saved_model(model, tmp_path / "model")
    assert list(tf.saved_model.load(str(path)).signatures) == ["serving_default"]


def test_an_input_may_be_a_category_and_have_any_name(tmp_path):
    picture = keras.Input((8, 8, 3), name="my x")
    category = keras.Input((1,), dtype="int32", name="_y")
    parts = [picture, keras.layers.Embedding(10, 4)(category)]
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(part) for part in parts])
    model = keras.Model([picture, category], keras.layers.Dense(2)(joined))
    path = nf_zoo.export_saved_model(model, tmp_path / "model")
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    given = [np.ones((2, 8, 8, 3), "float32"), np.array([[9], [3]], "int32")]
    named = dict(zip(("my_x", "input_y"), map(tf.constant, given), strict=True))
    (found,) = serve(**named).values()
    np.testing.assert_allclose(found, model(given), rtol=1e-4, atol=1e-5)
