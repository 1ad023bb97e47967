"""Eight bits: the answers hardly change, the size is a quarter, and layers can be spared."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter

import nf_zoo
from nf_zoo.deploy import litert_file, onnx_file, openvino_file
from nf_zoo.deploy.quantization import quantized_activations, quantized_kernel

WIDE = {"depths": (1, 1), "widths": (128, 256), "stem_width": 64}
FORMATS = {
    "onnx": (nf_zoo.export_onnx, onnx_file.runner),
    "tflite": (nf_zoo.export_litert, lambda path: litert_file.runner(path, ["logits"])),
    "xml": (nf_zoo.export_openvino, openvino_file.runner),
}


@pytest.fixture(scope="module")
def model(build_filled):
    return build_filled("nf_resnet_paper", **WIDE)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_quarter_of_the_size(suffix, model, pictures, tmp_path):
    export, runner = FORMATS[suffix]
    full = export(model, tmp_path / f"full.{suffix}")
    small = export(model, tmp_path / f"small.{suffix}", precision="int8", pictures=pictures)
    # NNCF leaves squeeze-excite in float32.
    of_weights, share = {"xml": ("bin", 0.5)}.get(suffix, (suffix, 0.35))
    sizes = [path.with_suffix(f".{of_weights}").stat().st_size for path in (full, small)]
    assert sizes[1] < share * sizes[0]
    inputs = model.preprocess(pictures[:8])
    expected, found = np.asarray(model(inputs)), runner(small)(inputs)[0]
    change = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
    assert 1e-4 < change < 0.1


@pytest.mark.parametrize("label", ["nf_regnet", "nfnet_eca_paper", "resnet_v2"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_kind_of_network(suffix, label, build_filled, pictures, tmp_path):
    # Exporting compares with the model; noise through grouped convolutions loses the most.
    export, _ = FORMATS[suffix]
    path = tmp_path / f"small.{suffix}"
    export(build_filled(label), path, precision="int8", pictures=pictures)
    assert path.stat().st_size


def test_the_report_is_what_quantizing_one_layer_does(model, pictures):
    errors = nf_zoo.quantization_report(model, pictures)
    folded = nf_zoo.fold(model)
    assert {e.name for e in errors} == {x.name for x in folded.layers if hasattr(x, "kernel")}
    assert [e.output_error for e in errors] == sorted(e.output_error for e in errors)[::-1]
    inputs = model.preprocess(pictures)
    by_name = {error.name: error for error in errors}
    # The classifier by hand.
    body = keras.Model(folded.inputs, folded.head.input)
    kernel, bias = folded.head.get_weights()
    features = np.asarray(quantized_activations(body(inputs)))
    change = features @ quantized_kernel(kernel) + bias - np.asarray(folded(inputs))
    size = np.sqrt(np.mean(np.square(folded(inputs))))
    expected = np.sqrt(np.mean(change**2)) / size
    assert by_name["head"].output_error == pytest.approx(expected, rel=1e-3)
    assert all(0 < error.weight_error < 0.02 for error in errors)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_layer_that_eight_bits_ruin_is_found_and_spared(suffix, pictures, tmp_path):
    """Large weights for a channel that is always 0 leave no steps to the others."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((48, 64, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="first")(inputs)
    second = keras.layers.Conv2D(16, 3, strides=2, activation="relu", name="second")
    x = keras.layers.GlobalAveragePooling2D()(second(x))
    model = keras.Model(inputs, keras.layers.Dense(5, name="third")(x))
    kernel, bias = model.get_layer("first").get_weights()
    kernel[..., 0], bias[0] = 0, -1
    model.get_layer("first").set_weights([kernel, bias])
    kernel, bias = second.get_weights()
    kernel[:, :, 0] = 1000
    second.set_weights([kernel, bias + 0.01])
    images = pictures.astype("float32") / 255
    worst, *others = nf_zoo.quantization_report(model, images)
    assert worst.name == "second" and worst.output_error > 0.5
    assert all(error.output_error < 0.02 for error in others)
    export, _ = FORMATS[suffix]
    path, options = tmp_path / f"model.{suffix}", {"precision": "int8", "pictures": images}
    with pytest.raises(RuntimeError, match="keep_float="):
        export(model, path, **options)
    assert list(tmp_path.iterdir()) == []
    assert export(model, path, keep_float=1, **options).is_file()


@pytest.mark.parametrize("keep", [["stage1_block1_conv2", "head"], 2])
def test_layers_kept_in_float(keep, model, pictures, tmp_path):
    names = keep
    if keep == 2:
        names = [error.name for error in nf_zoo.quantization_report(model, pictures)[:2]]
    options = {"precision": "int8", "pictures": pictures, "keep_float": keep}
    path = nf_zoo.export_onnx(model, tmp_path / "model.onnx", **options)
    graph = onnx.load(path).graph
    made_by = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            before = made_by.get(node.input[1])
            quantized = before is not None and before.op_type == "DequantizeLinear"
            assert quantized != (node.name in names), node.name
    path = nf_zoo.export_litert(model, tmp_path / "model.tflite", **options)
    interpreter = Interpreter(model_path=str(path))
    details = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    types = [
        details[operation["inputs"][1]]["dtype"]
        for operation in interpreter._get_ops_details()
        if operation["op_name"] in ("CONV_2D", "FULLY_CONNECTED")
    ]
    assert types.count(np.float32) == 2 and types.count(np.int8) == len(types) - 2


@pytest.mark.fast
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "files must be one of float32.*Received: 'int4'"),
        ({"precision": "int8"}, "int8 needs pictures"),
        ({"keep_float": 3}, "need precision='int8'"),
        ({"pictures": []}, "need precision='int8'"),
    ],
)
def test_options_that_do_not_go_together(suffix, options, message, model, tmp_path):
    with pytest.raises(ValueError, match=message):
        FORMATS[suffix][0](model, tmp_path / "out" / f"model.{suffix}", **options)
    assert list(tmp_path.iterdir()) == []


def test_unknown_layers_to_keep(model, pictures, tmp_path):
    options = {"precision": "int8", "pictures": pictures, "keep_float": ["haed"]}
    with pytest.raises(ValueError, match=r"must name layers with a kernel.*Received: haed"):
        nf_zoo.export_onnx(model, tmp_path / "model.onnx", **options)
    assert list(tmp_path.iterdir()) == []
