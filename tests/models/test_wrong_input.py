"""Input of other channels is refused, and the channels come last whatever Keras's setting."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_networks
from programs import printed_by

import nf_zoo
from nf_zoo import layers

REFUSALS = (ValueError, tf.errors.InvalidArgumentError)


def pixels(channels: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).random((2, size, size, channels), "float32")


@pytest.mark.parametrize("built_for", [1, 3, 6])
@pytest.mark.parametrize("label", list(tiny_networks.NETWORKS))
def test_models_take_their_own_channels_alone(label, built_for):
    # The stem tells the channels apart; what follows it has its own checks.
    short = {"depths": (1,), "widths": (16,), "input_shape": (None, None, built_for)}
    model = tiny_networks.build(label, **short)
    for given in {1, 2, 3, 4, 6, 9, 12} - {built_for}:
        with pytest.raises(REFUSALS):
            model(pixels(given))
    # TensorFlow traces anew with unknown channels once it has seen others: called in this order.
    model.predict(pixels(built_for), verbose=0)
    for given in (2 * built_for, 3 * built_for):
        with pytest.raises(REFUSALS):
            model.predict(pixels(given), verbose=0)
    assert model.predict(pixels(built_for), verbose=0).shape == (2, tiny_networks.CLASSES)


@pytest.mark.fast
@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Conv2D(6, 3),
        lambda: layers.ScaledWSConv2D(6, 3),
        lambda: layers.ScaledWSConv2D(6, 3, groups=3),
        lambda: layers.ScaledWSDepthwiseConv2D(3),
        lambda: layers.ScaledWSDense(6),
        lambda: layers.ChannelAffine(),
        lambda: layers.SqueezeExcite(2),
        lambda: layers.EfficientChannelAttention(),
    ],
    ids=[
        *("Conv2D", "ScaledWSConv2D", "grouped", "depthwise", "dense"),
        *("ChannelAffine", "SqueezeExcite", "ECA"),
    ],
)
def test_layers_take_their_own_channels_alone(make):
    layer = make()
    layer(pixels(3))
    for given in (1, 2, 6, 9):
        with pytest.raises(REFUSALS):
            layer(pixels(given))


@pytest.mark.fast
def test_a_model_that_normalizes_takes_its_own_channels_alone():
    model = tiny_networks.build("nf_resnet", include_preprocessing=True)
    for given in (1, 2, 6):
        with pytest.raises(REFUSALS):
            model(pixels(given))


CHANNELS_FIRST = """
import json, sys
import keras
keras.config.set_image_data_format("channels_first")
import numpy as np
import nf_zoo, tiny_networks
found = {{}}
images = tiny_networks.images(2)
def difference(actual, expected):
    return float(np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max())
for label in {labels}:
    expected = np.load(f"{folder}/{{label}}.npy")
    options = {{"include_preprocessing": True}} if label == "wide_resnet" else {{}}
    model = tiny_networks.fill(tiny_networks.build(label, **options), "first")
    model.save(f"{folder}/{{label}}_first.keras")
    found[label] = [
        difference(model(images), expected),
        difference(keras.saving.load_model(f"{folder}/{{label}}.keras")(images), expected),
        difference(nf_zoo.load_pretrained(f"{folder}/{{label}}")(images), expected),
        difference(nf_zoo.fold(model)(images), expected),
    ]
nf_zoo.fold(model).save("{folder}/folded.keras")
nf_zoo.export_saved_model(model, "{folder}/saved_model")
nf_zoo.export_onnx(model, "{folder}/model.onnx")
print(json.dumps(found, separators=(",", ":")))
"""


def test_channels_come_last_whatever_the_global_setting(tmp_path):
    """In building, saving, loading, folding and exporting, which compare with the model."""
    images = tiny_networks.images(2)
    for label in tiny_networks.NETWORKS:
        options = {"include_preprocessing": True} if label == "wide_resnet" else {}
        model = tiny_networks.fill(tiny_networks.build(label, **options), "first")
        np.save(tmp_path / f"{label}.npy", np.asarray(model(images)))
        model.save(tmp_path / f"{label}.keras")
        nf_zoo.save_pretrained(model, tmp_path / label)
    program = CHANNELS_FIRST.format(labels=list(tiny_networks.NETWORKS), folder=tmp_path)
    found = json.loads(printed_by(program, PYTHONPATH="tests"))
    assert max(max(row) for row in found.values()) < 1e-4, found
    # What was written under the other setting means the same here.
    for label in tiny_networks.NETWORKS:
        loaded = keras.saving.load_model(tmp_path / f"{label}_first.keras")
        expected = np.load(tmp_path / f"{label}.npy")
        assert tiny_networks.difference(np.asarray(loaded(images)), expected) < 1e-5, label
    folded = nf_zoo.load_pretrained(tmp_path / "folded.keras")
    assert tiny_networks.difference(np.asarray(folded(images)), expected) < 1e-4


@pytest.mark.parametrize("form", ["array", "tensor"])
def test_predict_warns_of_pictures_that_were_not_preprocessed(form):
    model = tiny_networks.build("nf_resnet")
    pixels = np.full((2, 32, 32, 3), 200.0, "float32")
    raw = keras.ops.convert_to_tensor(pixels) if form == "tensor" else pixels
    with pytest.warns(UserWarning, match=r"model\.preprocess.*values up to 200") as told:
        model.predict(raw, verbose=0)
    assert told[0].filename == __file__


@pytest.mark.parametrize("case", ["prepared", "the network prepares"])
def test_predict_does_not_warn_of_others(case, recwarn):
    inside = case == "the network prepares"
    model = tiny_networks.build("nf_resnet", include_preprocessing=inside)
    pixels = np.full((2, 32, 32, 3), 255, "uint8")
    model.predict(pixels.astype("float32") if inside else model.preprocess(pixels), verbose=0)
    batches = tf.data.Dataset.from_tensors(np.zeros((1, 32, 32, 3), "float32"))
    model.predict(batches, verbose=0)
    assert not [w for w in recwarn if "preprocess" in str(w.message)]
