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
        ({"precision": "int8", "pictures": [], "keep_float": -1}, "keep_float must be a number"),
        ({"precision": "int8", "pictures": [], "keep_float": [2]}, "keep_float must be a number"),
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


@pytest.mark.parametrize("opset", [13, 20])
def test_a_symmetric_file_has_no_zero_points(opset, model, pictures, tmp_path):
    options = {"precision": "int8", "pictures": pictures, "symmetric": True, "opset": opset}
    path = nf_zoo.export_onnx(model, tmp_path / "model.onnx", **options)
    network = onnx.load(path)
    assert [entry.version for entry in network.opset_import if not entry.domain] == [opset]
    constants = {x.name: onnx.numpy_helper.to_array(x) for x in network.graph.initializer}
    zeros = [
        constants[node.input[2]]
        for node in network.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert len(zeros) > 20
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    inputs = model.preprocess(pictures[:8])
    expected, found = np.asarray(model(inputs)), onnx_file.runner(path)(inputs)[0]
    assert np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)) < 0.15


@pytest.mark.parametrize("label", ["nf_resnet_paper", "nf_regnet", "nfnet_eca_paper"])
def test_a_file_of_integers_alone(label, build_filled, pictures, tmp_path):
    model = build_filled(label)
    options = {"precision": "int8", "pictures": pictures, "full_integer": True}
    path = nf_zoo.export_litert(model, tmp_path / "model.tflite", **options)
    interpreter = Interpreter(model_path=str(path))
    assert {x["dtype"] for x in interpreter.get_tensor_details()} <= {np.int8, np.int32}
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert given["dtype"] == made["dtype"] == np.int8
    # As a program in another language would do it.
    inputs = model.preprocess(pictures[:1])
    scale, zero = given["quantization"]
    interpreter.allocate_tensors()
    steps = np.clip(np.rint(inputs / scale + zero), -128, 127).astype("int8")
    interpreter.set_tensor(given["index"], steps)
    interpreter.invoke()
    scale, zero = made["quantization"]
    found = scale * (interpreter.get_tensor(made["index"]).astype("float32") - zero)
    expected = np.asarray(model(inputs))
    assert np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)) < 0.3


@pytest.mark.fast
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"full_integer": True}, "need precision='int8': full_integer"),
        ({"full_integer": "no"}, "full_integer must be True or False"),
        (
            {"full_integer": True, "precision": "int8", "keep_float": 1, "pictures": []},
            "leave out keep_float",
        ),
    ],
)
def test_options_of_integers_alone(options, message, model, tmp_path):
    with pytest.raises(ValueError, match=message):
        nf_zoo.export_litert(model, tmp_path / "model.tflite", **options)
    assert list(tmp_path.iterdir()) == []
