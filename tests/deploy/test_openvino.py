"""OpenVINO files answer as the model, in a process without nf_zoo, and say how to be used."""

from __future__ import annotations

import json

import keras
import numpy as np
import openvino
import pytest
import tiny_networks
from programs import succeed

import nf_zoo

FAMILIES = ("nf_resnet", "nf_regnet", "nfnet_eca_paper", "fixup_resnet", "resnet_v2", "regnety")
PROGRAM = """
import sys
sys.modules["nf_zoo"] = None
import numpy as np, openvino
images, *files = sys.argv[1:]
for file in files:
    network = openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for name, array in np.load(images).items():
        np.savez(f"{file}.{name}.npz", *network(array).values())
"""
IMAGES = {"three": tiny_networks.images(3), "one": tiny_networks.images(1, (33, 40))}


def gaps(models: dict) -> dict:
    """File -> largest differences from its model, as another process runs it."""
    folder = next(iter(models)).parent
    np.savez(folder / "images.npz", **IMAGES)
    succeed(PROGRAM, folder / "images.npz", *models)
    return {file: max(gap(file, name, models[file]) for name in IMAGES) for file in models}


def gap(file, name: str, model) -> float:
    with np.load(f"{file}.{name}.npz") as found:
        expected = [np.asarray(x) for x in keras.tree.flatten(model(IMAGES[name]))]
        assert [x.shape for x in found.values()] == [x.shape for x in expected]
        pairs = zip(found.values(), expected, strict=True)
        return max(tiny_networks.difference(a, b) for a, b in pairs)


def test_every_family(build_filled, tmp_path):
    models = {tmp_path / f"{label}.xml": build_filled(label) for label in FAMILIES}
    models[tmp_path / "maps.xml"] = build_filled("nfnet", features_only=True)
    for path, model in models.items():
        nf_zoo.export_openvino(model, path)
    assert max(gaps(models).values()) <= 1e-5


def test_half_the_size(build_filled, tmp_path):
    wide = {"depths": (1,), "widths": (128,), "stem_width": 64}
    model = build_filled("nf_resnet", **wide)
    full = nf_zoo.export_openvino(model, tmp_path / "full.xml")
    half = nf_zoo.export_openvino(model, tmp_path / "half.xml", precision="float16")
    sizes = [path.with_suffix(".bin").stat().st_size for path in (full, half)]
    assert sizes[1] < 0.6 * sizes[0]
    found = gaps({full: model, half: model})
    assert found[full] <= 1e-5 and 1e-6 < found[half] < 5e-3


@pytest.mark.fast
@pytest.mark.slow
def test_what_the_file_says(build_filled, tmp_path):
    labels = ("a b", "größer", "<\"&'>", "c", "d", "e")
    model = build_filled("nf_resnet", classifier_activation="softmax", labels=labels)
    path = nf_zoo.export_openvino(model, tmp_path / "model.xml")
    network = openvino.Core().read_model(path)
    names = ("labels", "preprocessing", "input", "output")
    said = {name: network.get_rt_info(["framework", name]).astype(str) for name in names}
    assert json.loads(said["labels"]) == list(labels)
    assert nf_zoo.Preprocessing(**json.loads(said["preprocessing"])) == model.preprocessing
    assert (said["input"], said["output"]) == ("normalized", "softmax")
    assert network.input("images").partial_shape.to_string() == "[?,?,?,3]"
    assert network.output("softmax").partial_shape.to_string() == "[?,6]"


def test_layers_kept_in_float(build_filled, pictures, tmp_path):
    model, keep = build_filled("nf_resnet"), ["stage1_block1_conv2", "head"]
    options = {"precision": "int8", "pictures": pictures, "keep_float": keep}
    path = nf_zoo.export_openvino(model, tmp_path / "model.xml", **options)
    types = {}
    for operation in openvino.Core().read_model(path).get_ops():
        if operation.get_type_name() in ("Convolution", "MatMul"):
            kernel = operation.input_value(1).get_node()
            name = operation.get_friendly_name().removesuffix("/WithoutBiases")
            types[name] = "float" if kernel.get_type_name() in ("Constant", "Convert") else "int8"
    assert {name for name, kind in types.items() if kind == "float"} == set(keep)
    assert len(types) > 6


def test_the_last_layer_may_be_kept_without_a_bias(pictures, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((48, 64, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="first")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(5, use_bias=False, name="last")(x))
    options = {"precision": "int8", "pictures": pictures / 255}
    for keep in ("last", "first"):
        path = nf_zoo.export_openvino(model, tmp_path / f"{keep}.xml", keep_float=keep, **options)
        network = openvino.Core().read_model(path)
        (product,) = (op for op in network.get_ops() if op.get_type_name() == "MatMul")
        is_float = product.input_value(1).get_node().get_type_name() == "Constant"
        assert is_float == (keep == "last")


@pytest.mark.fast
def test_the_name_must_end_in_xml(build_filled, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.xml.*Received: .*model$"):
        nf_zoo.export_openvino(build_filled("nf_resnet"), tmp_path / "model")
    (tmp_path / "model.bin").write_text("of another program")
    with pytest.raises(FileExistsError, match=r"overwrite=True.*model\.bin"):
        nf_zoo.export_openvino(build_filled("nf_resnet"), tmp_path / "model.xml")
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]
