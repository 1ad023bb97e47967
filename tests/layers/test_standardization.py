"""The gradient of weight standardization, and kernels that are given to layers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf

from nf_zoo.layers import Conv2D, ScaledWSConv2D, ScaledWSDense, convolve, given_kernels

pytestmark = pytest.mark.fast


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def plainly_standardized(layer, kernel, gain):
    """The formula, for TensorFlow to differentiate op by op."""
    fan_in = int(np.prod(kernel.shape[:-1]))
    centerd = kernel - tf.reduce_mean(kernel, (0, 1, 2))
    variance = tf.reduce_mean(centerd**2, (0, 1, 2))
    if layer.eps_form == "floor":
        denominator = tf.maximum(fan_in * variance, layer.eps)
    else:
        denominator = fan_in * (variance + layer.eps)
    return layer.gamma * gain * centerd / tf.sqrt(denominator)


def layer_with_kernels_at_the_floor(eps_form):
    """Twelve filters in float64: the last of each six is constant, the one before it nearly."""
    layer = ScaledWSConv2D(12, 3, gamma=1.7, eps_form=eps_form, groups=2, dtype="float64")
    layer.build((None, None, None, 8))
    spread = np.tile([1.0, 0.1, 0.01, 0.003, 1e-4, 0.0], 2)
    layer.kernel.assign(0.5 + spread * normal((3, 3, 4, 12)))
    layer.gain.assign(np.linspace(-0.5, 2.0, 12))
    return layer


@pytest.mark.parametrize("in_graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("eps_form", ["floor", "added"])
def test_gradients_of_standardization_are_those_of_the_formula(eps_form, in_graph):
    layer = layer_with_kernels_at_the_floor(eps_form)
    sources = [layer.kernel.value, layer.gain.value]
    weights = tf.constant(normal((3, 3, 4, 12), 1), tf.float64)

    def derivatives(kernel_of):
        """The kernel, its gradient, and the gradient of a function of that gradient."""
        with tf.GradientTape() as outer:
            with tf.GradientTape() as tape:
                kernel = kernel_of()
                loss = tf.reduce_sum(weights * tf.sin(kernel))
            first = tape.gradient(loss, sources)
            penalty = tf.add_n([tf.reduce_sum(tf.sin(one)) for one in first])
        return [kernel, *first, *outer.gradient(penalty, sources)]

    wrapped = tf.function(derivatives) if in_graph else derivatives
    ours = wrapped(layer.effective_kernel)
    theirs = derivatives(lambda: plainly_standardized(layer, *map(tf.identity, sources)))
    for one, other in zip(ours, theirs, strict=True):
        scale = float(tf.reduce_max(tf.abs(other)))
        np.testing.assert_allclose(one / scale, other / scale, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("frozen", ["kernel", "gain"])
def test_standardization_of_a_frozen_weight(frozen):
    layer = layer_with_kernels_at_the_floor("floor")
    getattr(layer, frozen).trainable = False
    trained = [v.value for v in (layer.kernel, layer.gain) if v.trainable]
    gradients = []
    for kernel_of in (
        layer.effective_kernel,
        lambda: plainly_standardized(layer, layer.kernel.value, layer.gain.value),
    ):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(kernel_of()))
        gradients.append(tape.gradient(loss, trained)[0])
    assert len(trained) == 1
    np.testing.assert_allclose(*gradients, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer_class", [Conv2D, ScaledWSConv2D])
def test_given_kernels_hold_until_the_end(layer_class):
    x, layer, other = normal((1, 5, 5, 3)), layer_class(4, 3), layer_class(4, 3)
    own, others = layer(x), other(x)
    kernel = tf.constant(normal((3, 3, 3, 4), 1))
    with pytest.raises(KeyError), given_kernels({layer: kernel}):
        np.testing.assert_allclose(layer(x), convolve(x, kernel), atol=1e-6)
        np.testing.assert_array_equal(other(x), others)
        with given_kernels({other: kernel, layer: 2.0 * kernel}):
            np.testing.assert_array_equal(2.0 * other(x), layer(x))
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            loss = tf.reduce_sum(tf.sin(layer(x)) + tf.sin(other(x)))
        gradients = tape.gradient(loss, [kernel, layer.kernel.value, other.kernel.value])
        assert [gradient is None for gradient in gradients] == [False, True, False]
        raise KeyError
    np.testing.assert_array_equal(layer(x), own)


def test_given_kernels_are_of_one_thread():
    x, layer = normal((1, 5, 5, 3)), ScaledWSConv2D(4, 3)
    own = layer(x)
    with given_kernels({layer: tf.zeros((3, 3, 3, 4))}), ThreadPoolExecutor(1) as pool:
        np.testing.assert_array_equal(pool.submit(layer, x).result(), own)
        assert np.all(layer(x) == 0.0)


def test_kernels_are_given_to_convolutions():
    dense = keras.layers.Dense(1)
    with pytest.raises(TypeError, match=r"convolutions of .*Dense"), given_kernels({dense: 0}):
        pass


def test_many_shapes_are_no_cause_for_a_warning(monkeypatch):
    said = []
    monkeypatch.setattr(tf.get_logger(), "handle", said.append)
    for filters in range(3, 12):
        ScaledWSConv2D(filters, 3, gamma=1.125)(np.zeros((1, 4, 4, 2), "float32"))
    assert not [record.getMessage() for record in said]


@pytest.mark.parametrize("make", [lambda: ScaledWSConv2D(4, 1), lambda: ScaledWSDense(4)])
def test_a_kernel_of_one_value_for_each_output_is_refused(make):
    with pytest.raises(ValueError, match="The fan-in must be at least 2"):
        make().build((None, 8, 8, 1))
