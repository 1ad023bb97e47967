"""ONNX files answer as the model, at every size and batch, and say how to be used."""

from __future__ import annotations

import json

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_networks

import nf_zoo
from nf_zoo.layers import DilatedAveragePool2D
from nf_zoo.models.classifier import build_model
from nf_zoo.pictures.predictions import class_names


def answers(path, inputs) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})


def gap(path, model, size=(47, 64), count=3) -> float:
    inputs = tiny_networks.images(count, size)[..., : model.input_shape[-1]]
    expected = keras.tree.flatten(model(inputs))
    found = answers(path, inputs)
    assert [x.shape for x in found] == [x.shape for x in expected]
    return max(
        tiny_networks.difference(a, np.asarray(b)) for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.fast
@pytest.mark.parametrize("label", tiny_networks.NETWORKS)
def test_every_family(label, build_filled, tmp_path):
    model = build_filled(label)
    path = nf_zoo.export_onnx(model, tmp_path / "model.onnx")
    assert gap(path, model) <= 1e-5 and gap(path, model, (33, 40), 1) <= 1e-5
    assert {node.op_type for node in onnx.load(path).graph.node} <= {
        *("Conv", "Gemm", "Add", "Mul", "Relu", "Sigmoid", "Gelu", "Transpose", "Identity"),
        *("MaxPool", "AveragePool", "GlobalAveragePool", "Flatten"),
    }


@pytest.mark.parametrize("label", ["nf_regnet", "nfnet", "nfnet_eca_paper", "regnety"])
def test_a_grouped_convolution_is_one_node(label, build_filled, tmp_path):
    model = build_filled(label)
    graph = onnx.load(nf_zoo.export_onnx(model, tmp_path / "model.onnx")).graph
    groups = {
        node.name: attribute.i
        for node in graph.node
        for attribute in node.attribute
        if attribute.name == "group" and attribute.i > 1
    }
    assert groups == {
        f"{block.name}_{conv.name}": conv.groups
        for block in model.blocks
        for conv in block.convs
        if conv.groups > 1
    }


@pytest.mark.parametrize(
    ("label", "options"),
    [
        ("nf_resnet", {"num_classes": 0, "labels": None}),
        ("nf_resnet", {"num_classes": 0, "labels": None, "pooling": "max"}),
        ("nfnet", {"features_only": True}),
        ("resnet_v2", {"features_only": True, "out_indices": (1, 2)}),
        ("nf_resnet", {"output_stride": 8, "padding": "symmetric"}),
        ("nfnet", {"output_stride": 8}),
        ("nf_resnet", {"padding": "reflect"}),
        ("nf_resnet", {"padding": "circular"}),
        ("nf_resnet", {"classifier_activation": "softmax", "activation": "mish"}),
        ("nf_resnet", {"activation": "leaky_relu"}),
        ("nf_resnet", {"activation": "elu"}),
        ("nf_resnet", {"input_shape": (None, None, 1)}),
        ("nf_resnet", {"input_shape": (40, 56, 3)}),
    ],
    ids=str,
)
def test_every_graph(label, options, build_filled, tmp_path):
    model = build_filled(label, **options)
    path = nf_zoo.export_onnx(model, tmp_path / "model.onnx")
    assert gap(path, model, (40, 56)) <= 1e-5


@pytest.mark.fast
def test_raw_pixels(build_filled, tmp_path, pictures):
    model = build_filled("nf_resnet", include_preprocessing=True)
    path = nf_zoo.export_onnx(model, tmp_path / "model.onnx")
    pixels = pictures.astype("float32")
    np.testing.assert_allclose(answers(path, pixels)[0], model(pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.fast
def test_what_the_file_says(build_filled, tmp_path):
    model = build_filled("nf_resnet", classifier_activation="softmax")
    loaded = onnx.load(nf_zoo.export_onnx(model, tmp_path / "model.onnx"))
    properties = {entry.key: entry.value for entry in loaded.metadata_props}
    assert json.loads(properties["labels"]) == class_names(model) == list(model.labels)
    assert nf_zoo.Preprocessing(**json.loads(properties["preprocessing"])) == model.preprocessing
    assert (properties["input"], properties["output"]) == ("normalized", "softmax")
    assert [output.name for output in loaded.graph.output] == ["softmax"]
    (entry,) = loaded.graph.input
    sides = [side.dim_param or side.dim_value for side in entry.type.tensor_type.shape.dim]
    assert sides == ["batch", "images_height", "images_width", 3]


@pytest.mark.fast
def test_keras_models_too(tmp_path):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.ZeroPadding2D(1)(inputs)
    x = keras.layers.MaxPooling2D(3, 2)(x)  # of negative values too, so zeros are zeros
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="silu")(x)
    y = keras.layers.AveragePooling2D(2, padding="same")(x)
    x = keras.layers.Concatenate()([y, keras.layers.Activation("tanh")(y)])
    model = keras.Model(inputs, keras.layers.GlobalMaxPooling2D()(x))
    path = nf_zoo.export_onnx(model, tmp_path / "model.onnx")
    negative = -1 - np.abs(tiny_networks.images(2, (21, 30)))
    np.testing.assert_allclose(answers(path, negative)[0], model(negative), rtol=1e-4, atol=1e-6)
    assert gap(path, model, (21, 30)) <= 1e-5


def test_what_it_cannot_hold_is_named(tmp_path):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.UnitNormalization(name="unit")(inputs))
    message = r"model\.export\(folder\) writes.*'unit' \(UnitNormalization\)"
    with pytest.raises(ValueError, match=message):
        nf_zoo.export_onnx(model, tmp_path / "model.onnx")
    name, fields = tiny_networks.NETWORKS["nf_resnet"]
    model = build_model(name, **{**fields, "activation": "celu", "num_classes": 2})
    with pytest.raises(ValueError, match="with activation='celu', which must be one of elu, expon"):
        nf_zoo.export_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
    # The advice is true.
    model.export(tmp_path / "advised", verbose=False)


@pytest.mark.fast
def test_a_layer_may_be_called_as_an_output_is(tmp_path):
    inputs = keras.Input((None, None, 3), name="features")
    x = keras.layers.GlobalAveragePooling2D(name="logits")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="features_1")(x))
    model = keras.Model(inputs, [model.output, keras.layers.Activation("tanh")(x)])
    assert gap(nf_zoo.export_onnx(model, tmp_path / "model.onnx"), model) <= 1e-5


@pytest.mark.parametrize("label", ["nfnet_eca_paper", "nf_regnet", "fixup_resnet"])
def test_the_oldest_opset(label, build_filled, tmp_path):
    options = {"activation": "gelu_tanh"} if label == "fixup_resnet" else {}
    model = build_filled(label, **options)
    path = nf_zoo.export_onnx(model, tmp_path / "model.onnx", opset=13)
    assert [entry.version for entry in onnx.load(path).opset_import] == [13]
    assert onnx.load(path).ir_version <= 7
    assert gap(path, model) <= 1e-5


@pytest.mark.fast
def test_what_is_newer_than_the_oldest_opset(tmp_path):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, activation="mish")(inputs)
    x = keras.layers.Resizing(20, 30)(x)
    x = keras.layers.Resizing(9, 7, interpolation="nearest")(x)
    x = keras.ops.gelu(x, approximate=False) + keras.ops.gelu(x)
    x = [op(x, axis=[1, 2]) for op in (keras.ops.mean, keras.ops.max, keras.ops.sum)]
    model = keras.Model(inputs, keras.layers.Concatenate()(x))
    for opset in (13, 18):
        path = nf_zoo.export_onnx(model, tmp_path / f"{opset}.onnx", opset=opset)
        assert gap(path, model) <= 1e-5


@pytest.mark.parametrize("opset", [13, 20])
def test_dilated_poolings(opset, build_filled, tmp_path):
    inputs = keras.Input((None, None, 3))
    maps = [DilatedAveragePool2D(d)(keras.layers.ReLU()(inputs)) for d in (1, 2, 5, 60)]
    model = keras.Model(inputs, maps)
    path = nf_zoo.export_onnx(model, tmp_path / "pools.onnx", opset=opset)
    assert gap(path, model) <= 1e-6 and gap(path, model, (5, 3)) <= 1e-6
    deep = {"depths": (1,) * 4, "widths": (16,) * 4, "output_stride": 8}
    model = build_filled("nfnet", **deep)
    pools = [x.dilation for x in model._flatten_layers() if isinstance(x, DilatedAveragePool2D)]
    assert max(pools) > 1
    assert gap(nf_zoo.export_onnx(model, tmp_path / "net.onnx", opset=opset), model) <= 1e-5


@pytest.mark.parametrize(("kind", "first"), [("norm", 17), ("circular", 19)])
def test_what_an_old_opset_lacks_is_named(kind, first, build_filled, tmp_path):
    if kind == "circular":
        model = build_filled("nf_resnet", padding="circular")
    else:
        inputs = keras.Input((8,))
        model = keras.Model(inputs, keras.layers.LayerNormalization()(inputs))
    message = rf"with opset={first - 1}: it.* needs? {first}"
    with pytest.raises(ValueError, match=message):
        nf_zoo.export_onnx(model, tmp_path / "model.onnx", opset=first - 1)
    assert nf_zoo.export_onnx(model, tmp_path / "model.onnx", opset=first).is_file()


@pytest.mark.fast
@pytest.mark.parametrize("opset", [12, 21, "13", None])
def test_opsets_that_do_not_exist(opset, build_filled, tmp_path):
    with pytest.raises(ValueError, match=f"opset must be 13 to 20. Received: {opset!r}"):
        nf_zoo.export_onnx(build_filled("nf_resnet"), tmp_path / "model.onnx", opset=opset)
    assert list(tmp_path.iterdir()) == []
