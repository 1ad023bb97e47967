from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from nf_zoo.layers import GAMMA, ScaledActivation, gamma_of, primitives
from nf_zoo.models.norm_free import NormFreeBlock

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("name", sorted(GAMMA))
def test_gamma_by_integration_is_near_the_published_sampled_constant(name):
    assert gamma_of(name) == pytest.approx(GAMMA[name], rel=1e-3)


def test_integration_is_finer_than_the_sampled_constants():
    z = np.linspace(-12, 12, 1_000_001)
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    gelu = np.asarray(keras.activations.gelu(z, approximate=False), "float64")
    variance = np.sum(density * gelu**2) - np.sum(density * gelu) ** 2
    assert gamma_of("gelu") == pytest.approx(variance**-0.5, rel=1e-5)


def test_gamma_of_relu_is_exact():
    assert gamma_of("relu") == pytest.approx(np.sqrt(2 / (1 - 1 / np.pi)), rel=1e-6)


@pytest.mark.parametrize("name", ["tanh", "elu", "softplus", "hard_silu", "mish"])
def test_any_activation_gets_unit_variance(name):
    z = np.random.default_rng(0).standard_normal(400_000).astype("float32")
    assert np.var(np.asarray(ScaledActivation(name)(z))) == pytest.approx(1.0, abs=0.01)


def test_gamma_of_a_callable():
    assert gamma_of(lambda x: 3.0 * x) == pytest.approx(1 / 3, rel=1e-5)


def test_a_constant_activation_has_no_gamma():
    with pytest.raises(ValueError, match="no variance"):
        gamma_of(keras.ops.zeros_like)


def test_an_unknown_name_says_what_is_known():
    with pytest.raises(ValueError, match=r"relu.*Received: 'rleu'"):
        ScaledActivation("rleu")


def test_gelu_is_exact_and_its_approximation_has_its_own_name():
    x = np.linspace(-4, 4, 101, dtype="float32")
    exact = np.asarray(ScaledActivation("gelu", gamma=1.0)(x))
    tanh = np.asarray(ScaledActivation("gelu_tanh", gamma=1.0)(x))
    assert 1e-4 < np.abs(exact - tanh).max() < 1e-2
    np.testing.assert_allclose(exact, keras.ops.gelu(x, approximate=False), atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("mixed_bfloat16", 3e-2)])
@pytest.mark.parametrize(
    ("activation", "reference"),
    [("gelu", lambda z: tf.nn.gelu(z, approximate=False)), ("silu", tf.nn.silu)],
)
def test_gradients_from_the_input_alone(activation, reference, dtype, tolerance):
    layer = ScaledActivation(activation, gamma=1.5, dtype=dtype)
    z = tf.cast(np.linspace(-6, 6, 401), layer.compute_dtype)

    def derivatives(function, z):
        with tf.GradientTape() as outer:
            outer.watch(z)
            with tf.GradientTape() as inner:
                inner.watch(z)
                y = function(z)
            first = inner.gradient(y, z)
        return y, first, outer.gradient(first, z)

    found = derivatives(lambda z: layer(z, training=True), z)
    expected = derivatives(lambda z: 1.5 * reference(z), tf.cast(z, "float64"))
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(tf.cast(one, "float64"), two, rtol=tolerance, atol=tolerance)


def test_a_model_passes_on_that_it_trains_and_inference_has_no_gradient_of_its_own(monkeypatch):
    monkeypatch.setattr(primitives, "_has_onednn", lambda: True)  # else the 3 x 3 kernel has one
    block = NormFreeBlock(8, width=4, activation="gelu")
    block.build((None, 4, 4, 8))

    def gradients_of_their_own(training):
        traced = tf.function(lambda x: block(x, training=training)).get_concrete_function(
            tf.TensorSpec((1, 4, 4, 8))
        )
        names = [operation.type for operation in traced.graph.get_operations()]
        return sum("PartitionedCall" in name for name in names)

    # Of three activations, and of two kernels of one tap.
    assert gradients_of_their_own(True) == gradients_of_their_own(False) + 3 + 2


def test_config_round_trip():
    layer = ScaledActivation("silu", gamma=1.25)
    again = ScaledActivation.from_config(layer.get_config())
    assert (again.activation, again.gamma) == ("silu", 1.25)
    layer = ScaledActivation(keras.activations.mish)
    again = ScaledActivation.from_config(layer.get_config())
    assert again.gamma == layer.gamma
    np.testing.assert_array_equal(again(np.float32([1.0])), layer(np.float32([1.0])))
