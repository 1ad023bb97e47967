"""Every Keras layer and operation that an ONNX file can hold, against Keras in ONNX Runtime."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import onnxruntime
import pytest
import tiny_networks
from keras import layers, ops

import nf_zoo
from nf_zoo.layers import primitives

CHANNELS = 4
FREE, FIXED = (None, None, CHANNELS), (9, 12, CHANNELS)
VECTOR = np.array([1.0, -2.0, 3.0, 0.5])


def redrawn(model):
    """The same model with every weight drawn anew."""
    for index, weight in enumerate(model.weights):
        draw = np.random.default_rng(index).standard_normal(weight.shape)
        weight.assign(0.5 + np.abs(draw) if "variance" in weight.path else 0.3 * draw + 0.1)
    return model


def model_of(build, shape=FREE):
    inputs = keras.Input(shape)
    return redrawn(keras.Model(inputs, build(inputs)))


def check(build, tmp_path, shape=FREE) -> None:
    model = model_of(build, shape)
    path = nf_zoo.export_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count, height, width in ((2, 21, 32), (3, 7, 10), (1, 24, 17)):
        size = (shape[0] or height, shape[1] or width)
        pixels = np.random.default_rng(0).standard_normal((count, *size, CHANNELS))
        pixels = pixels.astype("float32")
        (found,) = session.run(None, {session.get_inputs()[0].name: pixels})
        expected = np.asarray(model(pixels, training=False))
        assert found.shape == expected.shape
        assert tiny_networks.difference(found, expected) <= 1e-5


def maps(x):
    """Maps of both signs, whose layout in the file is not Keras's."""
    return layers.Conv2D(CHANNELS, 1)(x)


def rows(x):
    """(N, L, C)."""
    return layers.Reshape((-1, CHANNELS))(maps(x))


LAYERS = {
    "nearest": lambda x: layers.UpSampling2D((2, 3))(maps(x)),
    "bilinear": lambda x: layers.UpSampling2D((2, 3), interpolation="bilinear")(maps(x)),
    "larger": lambda x: layers.Resizing(31, 52)(maps(x)),
    "smaller": lambda x: layers.Resizing(13, 20)(maps(x)),
    "larger nearest": lambda x: layers.Resizing(31, 52, "nearest")(maps(x)),
    "smaller nearest": lambda x: layers.Resizing(13, 20, "nearest")(maps(x)),
    "depthwise": lambda x: layers.DepthwiseConv2D((3, 2), 1, "same", activation="relu")(x),
    "depthwise strides": lambda x: layers.DepthwiseConv2D(3, 2, "same", depth_multiplier=2)(x),
    "depthwise valid": lambda x: layers.DepthwiseConv2D(3, 2, depth_multiplier=3)(x),
    "depthwise dilated": lambda x: layers.DepthwiseConv2D((3, 2), 1, "same", dilation_rate=2)(x),
    "separable": lambda x: layers.SeparableConv2D(6, (3, 5), 1, "same", activation="tanh")(x),
    "separable strides": lambda x: layers.SeparableConv2D(6, 3, 2, depth_multiplier=2)(x),
    "separable plain": lambda x: layers.SeparableConv2D(6, 3, use_bias=False)(x),
    "strides": lambda x: layers.Conv2D(6, (3, 2), (2, 1), "same")(x),
    "dilations": lambda x: layers.Conv2D(6, (3, 2), 1, "same", dilation_rate=(2, 3))(x),
    "convolution softmax": lambda x: layers.Conv2D(6, 3, activation="softmax")(x),
    "max pooling": lambda x: layers.MaxPooling2D((2, 3), (1, 2), "same")(x),
    "zeros before max pooling": lambda x: layers.MaxPooling2D(3, 2, "same")(
        layers.ZeroPadding2D(1)(layers.ReLU()(maps(x)))
    ),
    "average pooling": lambda x: layers.AveragePooling2D((2, 3), (1, 2), "same")(x),
    "average": lambda x: layers.Average()([x, maps(x), maps(x)]),
    "add": lambda x: layers.Add()([x, maps(x), maps(x)]),
    "subtract": lambda x: layers.Subtract()([x, maps(x)]),
    "multiply": lambda x: layers.Multiply()([x, maps(x)]),
    "maximum": lambda x: layers.Maximum()([x, maps(x)]),
    "minimum": lambda x: layers.Minimum()([x, maps(x)]),
    "merge of ranks": lambda x: layers.Multiply()([x, layers.GlobalAveragePooling2D()(x)]),
    "concatenate rows": lambda x: layers.Concatenate(1)([x, maps(x)]),
    "layer norm": lambda x: layers.LayerNormalization()(maps(x)),
    "layer norm rows": lambda x: layers.LayerNormalization()(rows(x)),
    "layer norm flat": lambda x: layers.LayerNormalization()(
        layers.GlobalAveragePooling2D()(maps(x))
    ),
    "layer norm of bias": lambda x: layers.LayerNormalization(scale=False)(maps(x)),
    "softmax": lambda x: layers.Softmax()(x),
    "softmax of rows": lambda x: layers.Softmax(axis=1)(x),
    "cropping": lambda x: layers.Cropping2D(((1, 0), (2, 3)))(layers.ZeroPadding2D(2)(x)),
    "dense maps": lambda x: layers.Dense(7, activation="softmax")(x),
    "dense rows": lambda x: layers.Dense(7, activation="softmax")(rows(x)),
    "leaky relu": lambda x: layers.LeakyReLU(0.1)(x),
    "elu": lambda x: layers.ELU(0.7)(x),
    "relu6": lambda x: layers.ReLU(6)(10 * maps(x)),
    "relu6 activation": lambda x: layers.Activation("relu6")(10 * maps(x)),
    "relu slope": lambda x: layers.ReLU(negative_slope=0.3)(x),
    "prelu": lambda x: layers.PReLU(shared_axes=(1, 2))(x),
    "normalization": lambda x: layers.Normalization(mean=VECTOR, variance=VECTOR**2)(x),
    "batch norm axis": lambda x: layers.BatchNormalization(axis=3)(layers.ReLU()(x)),
}
FIXED_LAYERS = {
    "flatten": lambda x: layers.Dense(3)(layers.Flatten()(maps(x))),
    "flatten rows": lambda x: layers.Dense(3)(layers.Flatten()(rows(x))),
    "reshape": lambda x: layers.Reshape((6, 18, 4))(maps(x)),
    "reshape rest": lambda x: layers.Dense(3)(layers.Reshape((-1, 2))(maps(x))),
    "reshape rank 5": lambda x: layers.Reshape((3, 3, 12, 4))(maps(x)),
    "permute": lambda x: layers.Permute((2, 3, 1))(maps(x)),
    "permute rows": lambda x: layers.Permute((2, 1))(rows(x)),
    "layer norm all": lambda x: layers.LayerNormalization([1, 2, 3])(maps(x)),
    "prelu of pixels": lambda x: layers.PReLU()(maps(x)),
    "rescaling of pixels": lambda x: layers.Rescaling(
        np.arange(1, 109.0).reshape(9, 12, 1), offset=VECTOR
    )(maps(x)),
    "batch norm rows": lambda x: layers.BatchNormalization(axis=1)(maps(x)),
    "affine rows": lambda x: nf_zoo.layers.ChannelAffine("channels", "channels", 1)(maps(x)),
}
OPERATIONS = {
    "h * 2": lambda h: h * 2.0,
    "2 * h": lambda h: 2 * h,
    "h + 1": lambda h: h + 1.0,
    "h - 1": lambda h: h - 1,
    "1 - h": lambda h: 1.0 - h,
    "h / 2": lambda h: h / 2,
    "2 / h": lambda h: 2 / (h * h + 1),
    "-h": lambda h: -h,
    "h ** 2": lambda h: h**2,
    "maximum": lambda h: ops.maximum(h, 0.0),
    "minimum": lambda h: ops.minimum(0.1, h),
    "per channel": lambda h: h * VECTOR + ops.convert_to_tensor(VECTOR, "float32"),
    "per column": lambda h: h * np.arange(12 * 4.0).reshape(12, 4),
    "per pixel": lambda h: h - np.arange(9 * 12.0).reshape(9, 12, 1),
    "tensors": lambda h: h * (h + 1) - ops.maximum(h, -h) / 3,
    "gate": lambda h: h * ops.mean(h, axis=(1, 2), keepdims=True),
    "other rank": lambda h: h + ops.mean(h, axis=(0, 1, 2)),
    "relu": ops.relu,
    "relu6": lambda h: ops.relu6(9 * h),
    "gelu": ops.gelu,
    "gelu exact": lambda h: ops.gelu(h, approximate=False),
    "silu": ops.silu,
    "sigmoid": ops.sigmoid,
    "softmax": ops.softmax,
    "square": ops.square,
    "absolute": ops.abs,
    "exponential": ops.exp,
    "mean": lambda h: ops.mean(h, axis=(1, 2)),
    "mean of rows": lambda h: ops.mean(h, axis=1),
    "maximum of channels": lambda h: ops.max(h, axis=-1),
    "sum kept": lambda h: ops.sum(h, axis=[-1], keepdims=True),
    "concatenate": lambda h: ops.concatenate([h, 2 * h], axis=-1),
    "resize": lambda h: ops.image.resize(h, (31, 52)),
    "resize nearest": lambda h: ops.image.resize(h, (31, 52), interpolation="nearest"),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_layer(kind, tmp_path):
    check(LAYERS[kind], tmp_path)


@pytest.mark.fast
@pytest.mark.parametrize("kind", FIXED_LAYERS)
def test_layer_of_fixed_sides(kind, tmp_path):
    check(FIXED_LAYERS[kind], tmp_path, FIXED)


@pytest.mark.parametrize("kind", OPERATIONS)
def test_operation(kind, tmp_path):
    check(lambda x: OPERATIONS[kind](maps(x)), tmp_path, FIXED)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, (2, 5)])
def test_transposed_convolution(size, padding, tmp_path):
    def build(x):
        results = []
        for strides, more in itertools.product((1, 2, (3, 2)), (None, 0, 1)):
            # TensorFlow refuses the others itself.
            if more is not None and (strides == 1 or (padding == "same" and size not in (1, 3))):
                continue
            options = {"output_padding": more, "activation": "relu"}
            y = layers.Conv2DTranspose(5, size, strides, padding, **options)(x)
            results.append(layers.GlobalAveragePooling2D()(y * y))
            results.append(layers.Flatten()(y))
        # On a CPU without oneDNN, TensorFlow refuses dilated ones too.
        for dilation in (2, (2, 3)) if primitives._has_onednn() else ():
            options = {"dilation_rate": dilation, "use_bias": False}
            results.append(layers.Conv2DTranspose(5, size, 1, padding, **options)(x))
            results[-1] = layers.Flatten()(results[-1])
        return layers.Concatenate()(results)

    check(build, tmp_path, FIXED)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.UpSampling2D(interpolation="bicubic"), "UpSampling2D with interpolation='bicubic'"),
        (layers.Resizing(5, 5, antialias=True), "Resizing with antialias=True"),
        (layers.Resizing(5, 5, crop_to_aspect_ratio=True), "with crop_to_aspect_ratio=True"),
        (layers.Softmax((1, 2)), r"Softmax with axis=\(1, 2\)"),
        (layers.LayerNormalization(1), r"LayerNormalization with axis=\[1\]"),
        (layers.LayerNormalization(center=False, scale=False), "with center=False and scale=False"),
        (layers.ReLU(threshold=0.3), "ReLU with threshold"),
        (layers.Activation("celu"), "Activation with activation='celu', which must be one of elu"),
        (layers.Flatten(data_format="channels_first"), "Flatten with data_format"),
        (layers.Lambda(lambda x: x + 1), "Lambda"),
    ],
    ids=lambda value: None if isinstance(value, str) else value.name,
)
def test_options_without_a_counterpart(layer, reason, tmp_path):
    with pytest.raises(ValueError, match=rf"Received: '{layer.name}' \(.*{reason}"):
        nf_zoo.export_onnx(model_of(layer, FIXED), tmp_path / "out" / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fast
def test_everything_unknown_is_named_at_once_and_first(tmp_path):
    inputs = keras.Input(FIXED)
    x = layers.UnitNormalization(name="unit")(layers.CenterCrop(8, 8, name="center")(inputs))
    mask = ops.greater(x, 0.0)
    first, second = ops.split(layers.Softmax(name="masked")(x, mask=mask), 2, axis=-1)
    model = keras.Model(inputs, first * layers.ReLU(threshold=1, name="above")(second))
    options = {"precision": "int8", "pictures": "no such folder"}
    with pytest.raises(ValueError, match=r"model\.export\(folder\)") as caught:
        nf_zoo.export_onnx(model, tmp_path / "out" / "model.onnx", **options)
    for part in (
        *("'center' (CenterCrop)", "'unit' (UnitNormalization)", "(Greater)"),
        *("'masked' (Softmax called with more than its inputs)", "(Split with several outputs)"),
        "'above' (ReLU with threshold)",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []
    if keras.backend.backend() != "tensorflow":
        return
    # The advice is true.
    model.export(tmp_path / "advised", verbose=False)
    assert nf_zoo.export_saved_model(model, tmp_path / "folded").is_dir()
