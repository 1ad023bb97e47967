from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import nf_zoo
from training.normalization import FusedBatchNormalization, fuse_batch_normalization


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).normal(3.0, 2.0, shape).astype("float32")


def trained(layer_class, x, dtype):
    """Outputs, the gradients of a loss, and the moving statistics after one step of training."""
    layer = layer_class(momentum=0.9, epsilon=1e-5, dtype=dtype)
    layer.build(x.shape)
    for seed, variable in enumerate((layer.gamma, layer.beta)):
        variable.assign(pictures(*variable.shape, seed=seed))
    x = tf.cast(x, layer.compute_dtype)
    weights = tf.cast(pictures(*x.shape, seed=7), x.dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        loss = tf.reduce_sum(tf.cast(y * weights, "float32"))
    gradients = tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])
    values = [y, *gradients, layer.moving_mean.value, layer.moving_variance.value]
    return [np.asarray(tf.cast(value, "float32")) for value in values]


def operations(layer, shape, **arguments):
    traced = tf.function(lambda x: layer(x, **arguments)).get_concrete_function(
        tf.TensorSpec(shape, layer.compute_dtype)
    )
    return [operation.type for operation in traced.graph.get_operations()]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 5e-5), ("mixed_bfloat16", 2e-2), ("mixed_float16", 2e-3)]
)
@pytest.mark.parametrize("shape", [(8, 5, 7, 3), (1, 1, 1, 4), (2, 1, 1, 3)])
def test_it_is_keras_layer(dtype, tolerance, shape):
    rounded = keras.dtype_policies.get(dtype).compute_dtype
    x = np.asarray(tf.cast(tf.cast(pictures(*shape), rounded), "float32"))
    expected = trained(keras.layers.BatchNormalization, x, "float64")
    found = trained(FusedBatchNormalization, x, dtype)
    for one, two in zip(found, expected, strict=True):
        scale = max(np.abs(two).max(), 1.0)
        np.testing.assert_allclose(one / scale, two / scale, rtol=0, atol=tolerance)


@pytest.mark.fast
@pytest.mark.parametrize("shape", [(8, 4, 4, 3), (None, None, None, 3)])
def test_training_takes_one_operation(shape):
    layer = FusedBatchNormalization(dtype="mixed_bfloat16")
    found = operations(layer, shape, training=True)
    assert "FusedBatchNormV3" in found and "SquaredDifference" not in found
    assert "FusedBatchNormV3" not in operations(layer, shape, training=False)


@pytest.mark.fast
@pytest.mark.parametrize(
    "arguments",
    [
        {"synchronized": True},
        {"scale": False},
        {"center": False},
        {"axis": 1},
        {"dtype": "float64"},
    ],
    ids=str,
)
def test_what_cannot_be_fused_is_left_to_keras(arguments):
    layer = FusedBatchNormalization(**arguments)
    assert "FusedBatchNormV3" not in operations(layer, (8, 4, 4, 4), training=True)
    x, kerass = pictures(8, 4, 4, 4), keras.layers.BatchNormalization(**arguments)
    np.testing.assert_array_equal(layer(x, training=True), kerass(x, training=True))
    np.testing.assert_array_equal(layer.moving_variance, kerass.moving_variance)


@pytest.mark.fast
def test_vectors_and_frozen_layers_are_left_to_keras():
    layer = FusedBatchNormalization()
    assert "FusedBatchNormV3" not in operations(layer, (8, 4), training=True)
    layer, x = FusedBatchNormalization(trainable=False), pictures(8, 4, 4, 4)
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(4))


@pytest.mark.parametrize(
    ("name", "fields"),
    [("wide_resnet10_1", {"scheme": "bn"}), ("resnet18", {"widths": [8, 8, 16, 16]})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_network_steps_as_it_did(name, fields, tmp_path):
    networks = []
    for fused in (False, True):
        keras.utils.set_random_seed(0)
        model = nf_zoo.create_model(name, num_classes=4, **fields)
        if fused:
            fuse_batch_normalization(model)
        networks.append(model)
    x = pictures(8, 32, 32, 3)
    with tf.GradientTape(persistent=True) as tape:
        outputs = [model(x, training=True) for model in networks]
        losses = [tf.reduce_sum(y**2) for y in outputs]
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-4)
    one, two = (
        tape.gradient(loss, [v.value for v in model.trainable_variables])
        for loss, model in zip(losses, networks, strict=True)
    )
    for index, (a, b) in enumerate(zip(one, two, strict=True)):
        np.testing.assert_allclose(b, a, atol=1e-4 * np.abs(a).max() + 1e-6, err_msg=str(index))
    for a, b in zip(*(model.non_trainable_variables for model in networks), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    count = operations(networks[1], (8, 32, 32, 3), training=True).count("FusedBatchNormV3")
    norms = [v for v in networks[1].variables if v.name == "moving_mean"]
    assert count == len(norms) > 3
    nf_zoo.save_pretrained(networks[1], tmp_path / "model")
    loaded = nf_zoo.load_pretrained(tmp_path / "model")
    np.testing.assert_allclose(loaded(x), networks[1](x), atol=1e-5)
