"""The inputs of signal propagation, and how it is called."""

from __future__ import annotations

import inspect
import pydoc
from pathlib import Path

import keras
import numpy as np
import photographs
import pytest

import nf_zoo
from nf_zoo.models.classifier import build_model
from nf_zoo.signal_propagation.inputs import own_shape
from nf_zoo.signal_propagation.measure import signal_propagation


def small(**options):
    return build_model("wide_resnet10_1", num_classes=4, widths=(4, 8, 8), **options)


# --- the call ------------------------------------------------------------------------------------


@pytest.mark.fast
def test_the_package_has_the_signature_and_the_arguments_of_its_function():
    assert inspect.signature(nf_zoo.signal_propagation) == inspect.signature(signal_propagation)
    parameters = inspect.signature(nf_zoo.signal_propagation).parameters
    assert list(parameters)[:3] == ["model", "images_or_shape", "batch_size"]
    assert parameters["images_or_shape"].default is None
    text = pydoc.render_doc(nf_zoo.signal_propagation, renderer=pydoc.plaintext)
    description = text.partition("PACKAGE CONTENTS")[0]
    for name in parameters:
        assert f"{name}:" in description
    assert "*args" not in text
    assert list(inspect.signature(nf_zoo.diagnose).parameters) == [
        *("model", "images_or_shape", "batch_size", "batch_statistics", "seed")
    ]


# --- no shape ------------------------------------------------------------------------------------


def test_a_model_of_fixed_size_needs_no_shape():
    keras.utils.clear_session()
    model = keras.applications.ResNet50V2(weights=None)
    result = nf_zoo.signal_propagation(model, batch_size=1)
    assert len(result) == 16 and (result.pictures, result.inputs) == (1, "noise")


@pytest.mark.parametrize(
    ("input_shape", "shape"),
    [
        ((24, 40, 1), (24, 40, 1)),
        ((None, 32, 3), (64, 32, 3)),
        ((None, None, 3), (64, 64, 3)),
    ],
)
def test_no_shape_is_the_model_s_own(input_shape, shape):
    model = small(input_shape=input_shape)
    found = nf_zoo.signal_propagation(model, batch_size=2)
    expected = nf_zoo.signal_propagation(model, shape, batch_size=2)
    assert found.to_dict() == expected.to_dict()
    assert nf_zoo.diagnose(model, batch_size=2).signals.pictures == 2


@pytest.mark.fast
def test_free_channels_need_a_shape():
    with pytest.raises(ValueError, match=r"give the shape.*Received:.*\(None, 8, 8, None\)"):
        own_shape((None, 8, 8, None))


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    (root / "inner").mkdir()
    (root / ".hidden").mkdir()
    for index, place in enumerate(("a.png", "inner/b.png", "c.png", ".hidden/d.png", ".e.png")):
        photographs.photograph(40 + index, 50, index % 2).save(root / place)
    (root / "notes.txt").write_text("no picture")
    return root


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return small(preprocessing={"input_size": 16})


@pytest.mark.parametrize("as_path", [str, Path])
def test_files_and_folders_are_prepared_by_the_model(folder, model, as_path):
    files = [as_path(folder / name) for name in ("a.png", "c.png", "inner/b.png")]
    expected = nf_zoo.signal_propagation(model, model.preprocess([str(file) for file in files]))
    for source in (files, tuple(files), as_path(folder), [files[0], *files[1:]]):
        found = nf_zoo.signal_propagation(model, source, batch_size=2)
        assert (found.pictures, found.inputs) == (3, "images")
        variances = [block.variance for block in found]
        np.testing.assert_allclose(variances, [b.variance for b in expected], rtol=1e-5)
    one = nf_zoo.signal_propagation(model, files[0])
    assert one.pictures == 1
    assert nf_zoo.diagnose(model, files).signals.pictures == 3


@pytest.mark.parametrize(
    ("path", "error", "match"),
    [
        ("missing.png", FileNotFoundError, "no such picture or folder. Received: .*missing.png"),
        ("empty", ValueError, "no picture in the folder. Received: .*empty"),
        ("broken.png", ValueError, "broken.png is not a JPEG"),
    ],
)
def test_files_that_cannot_be_read(path, error, match, tmp_path, model):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(error, match=match):
        nf_zoo.signal_propagation(model, tmp_path / path)


def test_a_model_without_preprocessing_says_what_to_do_with_files(folder):
    layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)]
    with pytest.raises(
        TypeError,
        match=r"must have its own preprocess.*give images.*nf_zoo.preprocess.*Received: 1 files",
    ):
        nf_zoo.signal_propagation(keras.Sequential(layers), folder / "a.png")


def test_the_callback_reads_files_anew(folder, model):
    callback = nf_zoo.SignalPropagationCallback([str(folder / "a.png")], alarm_every=1)
    copy = keras.models.clone_model(model)
    copy.preprocess = model.preprocess
    copy.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = np.zeros((4, 16, 16, 3), "float32")
    copy.fit(images, np.arange(4), batch_size=2, verbose=0, callbacks=[callback])
    assert [result.pictures for _, result in callback.records] == [1, 1]
