"""Recomputing the inside of the blocks changes memory, and nothing else."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tiny_networks

from nf_zoo.models.classifier import build_model

NETWORKS = {
    "norm_free": ("nfnet", {"variant": "paper", "skip_gain": 0.5}),
    "grouped": ("nf_regnet", {}),
    "bn_v1": ("resnet", {}),
    "bn_v2": ("wide_resnet_bn", {}),
    "skipinit": ("wide_resnet", {"scheme": "skipinit_1/sqrt(d)"}),
    "fixup": ("wide_resnet", {"scheme": "fixup"}),
}


def trained(kind: str, rematerialize: bool):
    label, fields = NETWORKS[kind]
    keras.utils.set_random_seed(1)
    model = tiny_networks.build(
        label,
        num_classes=3,
        rematerialize=rematerialize,
        stochastic_depth_rate=0.3,
        **fields,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss)
    x = np.random.default_rng(0).standard_normal((8, 32, 32, 3)).astype("float32")
    model.fit(x, np.arange(8) % 3, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize("kind", NETWORKS)
def test_training_is_the_same(kind):
    plain, recomputed = trained(kind, False), trained(kind, True)
    moved = 0
    for a, b in zip(plain.variables, recomputed.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=a.path)
        moved += "moving_mean" in a.path and bool(np.any(a))
    assert moved > 5 or not kind.startswith("bn")


def test_batch_normalization_keeps_the_precision():
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3))
    outputs = []
    for rematerialize in (False, True):
        keras.utils.set_random_seed(1)
        given = {"rematerialize": rematerialize, "dtype": "float64"}
        model = tiny_networks.build("wide_resnet_bn", num_classes=3, **given)
        outputs.append(model(x, training=True))
    np.testing.assert_allclose(*outputs, rtol=0, atol=1e-12)


def test_the_gradient_recomputes_the_branch(monkeypatch):
    from nf_zoo.models.residual_block import ResidualBlock

    calls = []
    halves = ResidualBlock.halves

    def counted(self, x, training=False):
        calls.append(self.name)
        return halves(self, x, training)

    monkeypatch.setattr(ResidualBlock, "halves", counted)
    counts = {}
    for rematerialize in (False, True):
        trained_model = build_model(
            "wide_resnet10_1", num_classes=3, rematerialize=rematerialize, zero_init_gain=False
        )
        calls.clear()
        x = np.zeros((2, 32, 32, 3), "float32")
        _step(trained_model, x)
        counts[rematerialize] = len(calls)
    assert counts == {False: 3, True: 6}


def _step(model, x):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x, training=True))
    tape.gradient(loss, [v.value for v in model.trainable_variables])


def test_frozen_batch_normalization_stays_as_it_is():
    """Recomputed or not: its pictures are normalized by moving statistics that do not move."""
    model = tiny_networks.build("wide_resnet_bn", num_classes=3, rematerialize=True)
    for layer in model.layers:
        layer.trainable = layer is model.head
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    x = 3 + 5 * np.random.default_rng(0).standard_normal((8, 32, 32, 3)).astype("float32")
    before = [np.array(variable) for variable in model.non_trainable_variables]
    loss = model.fit(x, np.arange(8) % 3, batch_size=8, verbose=0).history["loss"][0]
    for variable, value in zip(model.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)
    assert loss == pytest.approx(model.evaluate(x, np.arange(8) % 3, verbose=0), rel=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_it_trains_in_half_precision(kind, dtype):
    label, fields = NETWORKS[kind]
    model = tiny_networks.build(label, num_classes=3, rematerialize=True, dtype=dtype, **fields)
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype("float32")
    loss = model.fit(x, np.arange(4) % 3, verbose=0).history["loss"][0]
    assert np.isfinite(loss)
