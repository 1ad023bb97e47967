"""Whatever goes wrong in an export, what was there is there still, and nothing else is."""

from __future__ import annotations

import contextlib
import resource
import signal
import sys

import keras
import numpy as np
import pytest

import nf_zoo
from nf_zoo.deploy import exporting

EXPORTS = {
    "model": nf_zoo.export_saved_model,
    "model.onnx": nf_zoo.export_onnx,
    "model.tflite": nf_zoo.export_litert,
    "model.xml": nf_zoo.export_openvino,
}
pytestmark = pytest.mark.parametrize("name", EXPORTS)


@pytest.fixture(scope="module")
def model(build_filled):
    return build_filled("nf_resnet")


@pytest.fixture
def former(name, tmp_path):
    """Something that lies where the export is to go."""
    path = tmp_path / name
    if path.suffix:
        for file in files(path):
            file.write_text("keep")
    else:
        path.mkdir()
        (path / "saved_model.pb").write_text("keep")
    return path


def files(path) -> list:
    """Files of an export to that path."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def is_kept(former) -> bool:
    """Whether what lay there is all there still, and nothing else."""
    texts = [path if path.is_file() else path / "saved_model.pb" for path in files(former)]
    assert sorted(former.parent.iterdir()) == sorted(files(former))
    return {path.read_bytes() for path in texts} == {b"keep"}


def test_an_existing_path_is_kept_unless_overwritten(name, model, former, tmp_path):
    with pytest.raises(FileExistsError, match=r"overwrite=True \(--overwrite\)"):
        EXPORTS[name](model, former)
    assert is_kept(former)
    assert EXPORTS[name](model, former, overwrite=True) == former
    assert sorted(tmp_path.iterdir()) == sorted(files(former))
    written = [path / "saved_model.pb" if path.is_dir() else path for path in files(former)]
    assert b"keep" not in {path.read_bytes() for path in written}


@pytest.mark.fast
def test_a_folder_is_not_replaced_by_a_file_nor_the_other_way(name, model, tmp_path):
    path = tmp_path / name
    if path.suffix:
        path.mkdir()
    else:
        path.write_text("keep")
    with pytest.raises(FileExistsError, match="choose another path"):
        EXPORTS[name](model, path, overwrite=True)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.fast
def test_a_file_of_another_formats_name_is_refused(name, model, tmp_path):
    other = "model.tflite" if name != "model.tflite" else "model.onnx"
    with pytest.raises(ValueError, match=f"{other.partition('.')[2]} is the ending of .* files"):
        EXPORTS[name](model, tmp_path / other)
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def full_disk(size: int):
    """No file can grow beyond that many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk(name, model, former, tmp_path):
    with pytest.raises(Exception) as caught, full_disk(4000):
        EXPORTS[name](model, former, overwrite=True)
    said = str(caught.value).lower()
    assert "large" in said or "space" in said
    assert is_kept(former)


def test_a_wrong_answer(name, model, former, tmp_path, monkeypatch):
    check = exporting.check_answers
    monkeypatch.setattr(
        exporting,
        "check_answers",
        lambda expected, actual, tolerance: check(
            expected, [2 * np.asarray(x) for x in actual], tolerance
        ),
    )
    with pytest.raises(RuntimeError, match="nothing was written"):
        EXPORTS[name](model, former, overwrite=True)
    assert is_kept(former)


@keras.saving.register_keras_serializable("tests")
class Halving(keras.layers.Layer):
    def call(self, x):
        return x / 2


def test_a_layer_that_folding_does_not_know(name, model, tmp_path):
    pooled = Halving(name="half")(model.get_layer("pool").output)
    custom = keras.Model(model.inputs, keras.layers.Dense(2)(pooled))
    if name == "model":
        assert EXPORTS[name](custom, tmp_path / name).is_dir()
        return
    with pytest.raises(ValueError, match=r"allow_unfolded=True.*'half' \(Halving\)"):
        EXPORTS[name](custom, tmp_path / "out" / name)
    assert list(tmp_path.iterdir()) == []
    folded = nf_zoo.fold(custom, allow_unfolded=True)
    if name == "model.tflite":
        assert EXPORTS[name](folded, tmp_path / name).is_file()
    else:
        with pytest.raises(ValueError, match=r"model\.export\(folder\).*'half'"):
            EXPORTS[name](folded, tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features_only": True}, "ONNX or LiteRT files.*returns maps"),
        ({"input_shape": (None, None, 4)}, "3 channels or 1; ONNX and LiteRT"),
    ],
)
def test_what_a_savedmodel_cannot_be(name, options, message, build_filled, tmp_path):
    model = build_filled("nf_resnet", **options)
    if name == "model":
        with pytest.raises(ValueError, match=message):
            EXPORTS[name](model, tmp_path / name)
    else:
        assert EXPORTS[name](model, tmp_path / name).is_file()


@pytest.mark.fast
def test_a_missing_extra_is_one_line(name, model, tmp_path, monkeypatch):
    missing = {"model.onnx": "onnxruntime", "model": "tensorflow", "model.xml": "nncf"}
    monkeypatch.setitem(sys.modules, missing.get(name, "ai_edge_litert.interpreter"), None)
    with pytest.raises(ImportError, match="pip install") as caught:
        EXPORTS[name](model, tmp_path / name)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []
