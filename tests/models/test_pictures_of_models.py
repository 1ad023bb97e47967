"""Pictures fit the model they are prepared for: its size where it is fixed, its channels."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny_networks
from PIL import Image

import nf_zoo
from nf_zoo.pictures.preprocessing import Preprocessing

GRAY = np.random.default_rng(0).integers(0, 256, (40, 60), dtype="uint8")
COLOR = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype="uint8")


@pytest.mark.parametrize("shape", [(24, 32, 3), (24, None, 3), (None, None, 3)])
def test_a_fixed_size_is_the_size_of_the_pictures(shape):
    model = tiny_networks.build("nf_resnet", input_shape=shape, preprocessing=Preprocessing(48))
    height, width = (fixed or 48 for fixed in shape[:2])
    assert model.preprocess(COLOR).shape == (1, height, width, 3)
    assert model.preprocessing.input_size == (height, width)
    assert model(model.preprocess([COLOR, GRAY])).shape == (2, tiny_networks.CLASSES)
    assert type(model).from_config(model.get_config()).preprocessing == model.preprocessing


@pytest.mark.parametrize("raw", [False, True])
def test_a_model_of_one_channel_gets_gray(raw):
    settings = Preprocessing(40, 1.0)
    options = {"input_shape": (None, None, 1), "preprocessing": settings}
    model = tiny_networks.build("nf_resnet", include_preprocessing=raw, **options)
    square = COLOR[:, :40]
    found = model.preprocess(square)
    assert found.shape == (1, 40, 40, 1)
    luma = np.asarray(Image.fromarray(square).convert("L"), "float32")
    mean, std = np.mean(settings.mean), np.mean(settings.std)
    expected = luma if raw else (luma / 255 - mean) / std
    # Pillow rounds to whole levels of gray.
    assert np.abs(found[0, ..., 0] - expected).max() <= (1.01 if raw else 1.01 / 255 / std)
    assert model(found).shape == (1, tiny_networks.CLASSES)


def test_a_gray_picture_is_the_same_to_both_preparations():
    from nf_zoo.pictures import images

    pixels = np.repeat(GRAY[None, ..., None], 3, axis=-1)
    for form in ({"channels": 1}, {"channels": 1, "raw": True}, {"raw": True}, {}):
        one = images.as_input(pixels, Preprocessing(), **form)
        two = np.asarray(images.as_input(tf.constant(pixels, tf.float32), Preprocessing(), **form))
        np.testing.assert_allclose(one, two, atol=1e-4)
    gray = images.as_input(pixels, Preprocessing(), channels=1, raw=True)
    np.testing.assert_allclose(gray[0, ..., 0], GRAY, atol=1e-3)


def test_other_channels_are_nothing_that_pictures_give():
    model = tiny_networks.build("nf_resnet", input_shape=(None, None, 5))
    with pytest.raises(ValueError, match=r"make arrays for this model yourself.*takes 5"):
        model.preprocess(COLOR)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for label, level in (("dark", 40), ("light", 200)):
        (tmp_path / label).mkdir()
        for index in range(12):
            pixels = np.clip(level + rng.integers(-30, 30, (20, 24, 3)), 0, 255).astype("uint8")
            Image.fromarray(pixels).save(tmp_path / label / f"{index}.png")
    return tmp_path


def test_a_model_of_one_channel_is_fine_tuned_and_evaluated(folder):
    options = {"input_shape": (None, None, 1), "preprocessing": Preprocessing(16)}
    model = tiny_networks.build("wide_resnet", num_classes=2, **options)
    output = folder.with_name("run")
    result = nf_zoo.finetune(model, folder, epochs=9, warmup_epochs=0, verbose=0, output=output)
    assert result.model.input_shape[-1] == 1
    assert nf_zoo.evaluate(result.model, folder)["accuracy"] > 0.9
    # The SavedModel decodes in color and turns gray by itself.
    loaded = tf.saved_model.load(str(output / "saved_model"))
    served = loaded.predict(COLOR[None])
    logits = result.model.predict(result.model.preprocess(COLOR), verbose=0)
    probabilities = np.asarray(tf.nn.softmax(logits))
    np.testing.assert_allclose(served["probabilities"], probabilities, atol=5e-3)


def test_fine_tuning_leaves_frozen_what_the_user_froze(folder):
    model = tiny_networks.build("wide_resnet", preprocessing=Preprocessing(16))
    model.layers[1].trainable = False
    model.blocks[0].convs[1].trainable = False
    before = [np.asarray(v) for v in model.layers[1].weights + model.blocks[0].convs[1].weights]
    tuned = nf_zoo.finetune(model, folder, epochs=3, warmup_epochs=1, verbose=0).model
    after = tuned.layers[1].weights + tuned.blocks[0].convs[1].weights
    for one, two in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, two)
    kernels = [np.asarray(one.blocks[0].convs[0].kernel) for one in (tuned, model)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0
    assert not tuned.layers[1].trainable and tuned.blocks[0].convs[0].trainable


def test_a_fixed_size_cannot_be_fine_tuned_at_another(folder):
    model = tiny_networks.build("wide_resnet", input_shape=(16, 16, 3))
    with pytest.raises(ValueError, match=r"one input size only.*\(24, 24\)"):
        nf_zoo.finetune(model, folder, epochs=1, image_size=24, verbose=0)


def test_stages_are_those_of_the_maps_that_a_model_gives():
    model = tiny_networks.build("nf_resnet", num_classes=None, features_only=True)
    some = model.with_feature_maps((2, 0))
    assert list(some.stages) == [model.stages[2], model.stages[0]]
    for stage, shape in zip(some.stages, some.output_shape, strict=True):
        assert shape[-1] == stage.channels
    assert some.trunk_stages == model.stages
    assert [s.name for s in some.with_feature_maps((1,)).stages] == [model.stages[1].name]
