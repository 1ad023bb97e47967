from __future__ import annotations

import numpy as np
import pytest

from nf_zoo.layers import EfficientChannelAttention, SqueezeExcite

pytestmark = pytest.mark.fast


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def images(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("gate_gain", [1.0, 2.0])
def test_squeeze_excite(gate_gain):
    x, layer = images(2, 3, 4, 8), SqueezeExcite(5, gate_gain=gate_gain)
    layer.build(x.shape)
    values = [0.3 * images(*variable.shape) for variable in layer.weights]
    for variable, value in zip(layer.weights, values, strict=True):
        variable.assign(value)
    w1, b1, w2, b2 = values
    gate = sigmoid(np.maximum(x.mean((1, 2)) @ w1 + b1, 0) @ w2 + b2)
    np.testing.assert_allclose(layer(x), gate_gain * gate[:, None, None] * x, atol=1e-5)


@pytest.mark.parametrize(("channels", "size"), [(16, 3), (256, 5), (1536, 5), (2048, 7)])
def test_eca_kernel_size_follows_the_channels(channels, size):
    layer = EfficientChannelAttention()
    layer.build((None, None, None, channels))
    assert tuple(layer.kernel.shape) == (size, 1, 1)


def test_eca_mixes_neighboring_channels_with_zero_padding():
    x, layer = images(2, 3, 4, 6), EfficientChannelAttention(gate_gain=2.0, kernel_size=3)
    layer.build(x.shape)
    taps = np.float32([0.5, -1.0, 2.0])
    layer.kernel.assign(taps[:, None, None])
    pooled = np.pad(x.mean((1, 2)), ((0, 0), (1, 1)))
    mixed = sum(tap * pooled[:, i : i + 6] for i, tap in enumerate(taps))
    np.testing.assert_allclose(layer(x), 2 * sigmoid(mixed)[:, None, None] * x, atol=1e-5)


def test_doubled_gates_keep_the_signal_at_their_midpoint():
    x = images(1, 2, 2, 8)
    layer = SqueezeExcite(4, gate_gain=2.0)
    layer.build(x.shape)
    layer.expand.kernel.assign(np.zeros((4, 8)))
    np.testing.assert_allclose(layer(x), x, atol=1e-6)


@pytest.mark.parametrize("layer", [SqueezeExcite(4, 2.0), EfficientChannelAttention(2.0, 5)])
def test_config_round_trip(layer):
    assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()
