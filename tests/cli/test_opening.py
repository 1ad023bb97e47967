from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from nf_zoo.cli.opening import open_classifier, open_model
from nf_zoo.hub.errors import WeightsError


def test_every_form_keeps_its_labels(saved, model):
    for path in saved.values():
        assert open_model(str(path)).labels == model.labels


def test_a_name_is_a_name_and_a_path_is_a_path(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nf_resnet101").symlink_to(saved["tuned"])
    with pytest.raises(WeightsError, match="No weights are published for nf_resnet101"):
        open_model("nf_resnet101")
    assert open_model("./nf_resnet101").num_classes == 3


@pytest.mark.fast
def test_no_such_file(tmp_path):
    with pytest.raises(WeightsError, match="no such model file or folder"):
        open_model(str(tmp_path / "model.keras"))


@pytest.mark.fast
def test_no_such_name():
    with pytest.raises(ValueError, match=r"Did you mean nf_resnet50.* Nor is there a file"):
        open_model("nf_resnt50")


@pytest.mark.fast
def test_unknown_tag():
    with pytest.raises(WeightsError, match="Did you mean 'ra2_in1k'"):
        open_model("nf_resnet50.ra2")


@pytest.mark.fast
def test_empty_folder(tmp_path):
    with pytest.raises(WeightsError, match=r"holds no model.*with nothing"):
        open_model(str(tmp_path))


@pytest.mark.fast
@pytest.mark.parametrize("suffix", ["", ".partial"])
def test_unfinished_run(suffix, tmp_path):
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / "run.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"unfinished.*--output \S+/run --resume"):
        open_model(str(tmp_path / f"run{suffix}"))


def test_damaged_keras_file(saved, tmp_path):
    damaged = tmp_path / "model.keras"
    damaged.write_bytes(saved["keras"].read_bytes()[:500])
    with pytest.raises(WeightsError, match="cannot be read as a Keras model"):
        open_model(str(damaged))


def test_another_keras_model(tmp_path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"none of nf_zoo.*load_model.*Received: Sequential"):
        open_model(str(tmp_path / "model.keras"))


def test_weights_alone(saved):
    with pytest.raises(WeightsError, match=r"must be called \*\.keras.*config\.json"):
        open_model(str(saved["pretrained"] / "model.safetensors"))


@pytest.mark.fast
def test_another_saved_model(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "module"))
    with pytest.raises(ValueError, match="must be a classifier that nf-zoo exported"):
        open_model(str(tmp_path / "module"))


def test_a_saved_model_cannot_be_trained(saved):
    with pytest.raises(ValueError, match="can only predict"):
        open_classifier(str(saved["saved_model"]))
