from __future__ import annotations

import shutil
import zipfile
from argparse import Namespace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import nf_zoo
from nf_zoo.cli.publishing import _metrics
from nf_zoo.demonstration.subjects import Subject
from nf_zoo.deploy.formats import SUFFIXES, format_of
from nf_zoo.hub.errors import WeightsError
from nf_zoo.hub.opening import answers, open_model
from nf_zoo.hub.pretrained import load_pretrained


def test_every_form_keeps_its_labels(saved, model):
    for path in saved.values():
        assert open_model(str(path)).labels == model.labels


def test_a_name_is_a_name_and_a_path_is_a_path(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nf_resnet101").symlink_to(saved["tuned"])
    with pytest.raises(WeightsError, match="No weights are published for nf_resnet101"):
        open_model("nf_resnet101")
    assert open_model("./nf_resnet101").num_classes == 3


def test_a_name_wins_over_every_folder(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nf_resnet101").symlink_to(saved["saved_model"])
    with pytest.raises(WeightsError, match="No weights are published for nf_resnet101"):
        open_model("nf_resnet101")
    assert open_model(Path("nf_resnet101")).num_classes == 3
    (tmp_path / "nf_resnet50").mkdir()
    shutil.copy(saved["keras"], "nf_resnet50")
    (tmp_path / "nf_resnet50" / "report.json").write_text('{"accuracy": 0.5}')
    assert Subject(Path("nf_resnet50")).answer(np.zeros((8, 8, 3), "uint8")).predictions
    assert _metrics(Namespace(metrics=None, model="nf_resnet50")) is None
    assert _metrics(Namespace(metrics=None, model="./nf_resnet50")) == {"accuracy": 0.5}


def test_endings_may_be_capitals(exported, model, tmp_path):
    (path := tmp_path / "M.ONNX").write_bytes(exported["onnx"].read_bytes())
    assert open_model(str(path)).labels == model.labels
    assert format_of("m.TFLite").name == "litert"
    with pytest.raises(ValueError, match="the ending of ONNX files"):
        nf_zoo.export_saved_model(model, tmp_path / "x.ONNX")


@pytest.mark.fast
def test_no_such_file(tmp_path):
    with pytest.raises(WeightsError, match="no such model file or folder"):
        open_model(str(tmp_path / "model.keras"))


@pytest.mark.fast
def test_no_such_name():
    with pytest.raises(ValueError, match=r"Did you mean nf_resnet50.*no such file or folder"):
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
    with pytest.raises(ValueError, match=r"not one of nf_zoo.*load_model.*Received: Sequential"):
        open_model(str(tmp_path / "model.keras"))


def test_weights_alone(saved):
    with pytest.raises(WeightsError, match=r"must be called \*\.keras.*config\.json"):
        open_model(str(saved["pretrained"] / "model.safetensors"))


@pytest.mark.fast
def test_another_saved_model(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "module"))
    with pytest.raises(ValueError, match="must be a classifier that nf-zoo exported"):
        open_model(str(tmp_path / "module"))


def test_what_was_exported_cannot_be_trained(saved, exported):
    for path in (saved["saved_model"], *exported.values()):
        with pytest.raises(WeightsError, match="can only predict"):
            load_pretrained(str(path))


@pytest.mark.fast
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_that_are_no_export(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    with pytest.raises(FileNotFoundError, match=f"no such {SUFFIXES[suffix].title} file"):
        open_model(str(path))
    path.write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"must be an exported network.*Received: .*cannot"):
        open_model(str(path))


@pytest.mark.fast
def test_an_onnx_file_of_another_program(tmp_path):
    import onnx

    sides = [onnx.helper.make_tensor_value_info(name, 1, (1, 3)) for name in "xy"]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "other", sides[:1], sides[1:])
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "x.onnx")
    with pytest.raises(ValueError, match=r"must be an exported network of nf_zoo.*'labels'"):
        open_model(str(tmp_path / "x.onnx"))


@pytest.mark.fast
def test_metadata_as_large_as_a_bomb_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("nf_zoo.deploy.litert_file.MOST_METADATA", 1000)
    with zipfile.ZipFile(tmp_path / "x.tflite", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", " " * 1001)
    with pytest.raises(ValueError, match="larger than 1000 bytes"):
        open_model(str(tmp_path / "x.tflite"))


def test_features_in_a_file_are_no_classes(build_tiny, tmp_path):
    nf_zoo.export_onnx(build_tiny(num_classes=0, labels=None), tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="has no classifier"):
        answers(open_model(str(tmp_path / "x.onnx")), [np.zeros((16, 16, 3), "uint8")])
