"""LiteRT files answer as the model, in one size and in others, and say how to be used."""

from __future__ import annotations

import json
import zipfile

import keras
import numpy as np
import pytest
import tiny_networks
from ai_edge_litert.interpreter import Interpreter

import nf_zoo
from nf_zoo.deploy import litert_file
from nf_zoo.deploy.exporting import output_names
from nf_zoo.deploy.litert_file import runner

FAMILIES = (
    *("nf_resnet", "nf_regnet", "nfnet_eca_paper", "fixup_resnet"),
    *("resnet", "resnet_v2", "regnety"),
)


def gap(path, model, size=(40, 56), count=1) -> float:
    inputs = tiny_networks.images(count, size)
    found, expected = runner(path, output_names(model))(inputs), keras.tree.flatten(model(inputs))
    assert [x.shape for x in found] == [x.shape for x in expected]
    return max(
        tiny_networks.difference(a, np.asarray(b)) for a, b in zip(found, expected, strict=True)
    )


def operations(path) -> list[str]:
    interpreter = Interpreter(model_path=str(path))
    return [operation["op_name"] for operation in interpreter._get_ops_details()]


@pytest.mark.parametrize("label", FAMILIES)
def test_every_family(label, build_filled, tmp_path):
    model = build_filled(label)
    path = nf_zoo.export_litert(model, tmp_path / "model.tflite")
    assert gap(path, model) <= 1e-5 and gap(path, model, (47, 33), 3) <= 1e-5
    convolutions = sum(isinstance(x, keras.layers.Conv2D) for x in nf_zoo.fold(model).layers)
    grouped = sum(conv.groups > 1 for block in model.blocks for conv in block.convs)
    assert operations(path).count("CONV_2D") == convolutions + grouped


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16", "float64"])
def test_models_of_other_precisions_are_written_in_float32(
    policy, precision, build_filled, tmp_path
):
    model = build_filled("nf_resnet_paper", dtype=policy)
    path = nf_zoo.export_litert(model, tmp_path / "model.tflite", precision=precision)
    single = build_filled("nf_resnet_paper")
    assert gap(path, single) <= 0.02 and "float16" not in "".join(operations(path)).lower()


def test_what_the_converter_cannot_do_is_one_line(build_filled, tmp_path, monkeypatch):
    def convert(*_):
        raise LookupError("many\nlines")

    model = build_filled("nf_resnet")
    monkeypatch.setattr(litert_file, "_converted", convert)
    with pytest.raises(ValueError, match="Received: LookupError: many lines"):
        nf_zoo.export_litert(model, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"features_only": True}, {"output_stride": 8}], ids=str)
def test_other_graphs(options, build_filled, tmp_path):
    model = build_filled("nfnet", **options)
    assert gap(nf_zoo.export_litert(model, tmp_path / "model.tflite"), model) <= 1e-5


def test_half_the_size(build_filled, tmp_path):
    wide = {"depths": (1,), "widths": (128,), "stem_width": 64}
    model = build_filled("nf_resnet", **wide)
    full = nf_zoo.export_litert(model, tmp_path / "full.tflite")
    half = nf_zoo.export_litert(model, tmp_path / "half.tflite", precision="float16")
    assert half.stat().st_size < 0.6 * full.stat().st_size
    assert 1e-6 < gap(half, model) < 5e-3


@pytest.mark.fast
@pytest.mark.slow
def test_what_the_file_says(build_filled, tmp_path):
    model = build_filled("nf_resnet")
    path = nf_zoo.export_litert(model, tmp_path / "model.tflite")
    with zipfile.ZipFile(path) as archive:
        record = json.loads(archive.read("metadata.json"))
        assert archive.read("labels.txt").decode().split() == list(model.labels)
    assert nf_zoo.Preprocessing(**record["preprocessing"]) == model.preprocessing
    assert record["labels"] == list(model.labels) and record["output"] == "logits"


def test_a_file_of_any_name(build_filled, tmp_path):
    for name in ("network", "model"):
        path = nf_zoo.export_litert(build_filled("nf_resnet"), tmp_path / name)
        assert path.is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "network"]
