from __future__ import annotations

import keras
import numpy as np
import pytest

from nf_zoo.layers import ChannelAffine

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("scale", ["channels", "scalar", None])
@pytest.mark.parametrize("offset", ["channels", "scalar", None])
def test_it_scales_and_shifts(scale, offset):
    layer = ChannelAffine(scale, offset)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype("float32")
    np.testing.assert_array_equal(layer(x), x)
    values = [
        np.arange(2, 7, dtype="float32") if len(weight.shape) else np.float32(3)
        for weight in layer.weights
    ]
    layer.set_weights(values)
    factor = values[0] if scale else 1
    term = values[-1] if offset else 0
    np.testing.assert_allclose(layer(x), x * factor + term, rtol=1e-6)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -2, -3])
def test_another_axis(axis):
    """All axes are as long as the last, so that a vector would broadcast along any."""
    layer = ChannelAffine("channels", "channels", axis=axis)
    x = np.random.default_rng(0).standard_normal((4, 4, 4, 4)).astype("float32")
    layer(x)
    scale, offset = np.arange(1, 5, dtype="float32"), np.arange(5, 9, dtype="float32")
    layer.set_weights([scale, offset])
    expected = np.moveaxis(np.moveaxis(x, axis, -1) * scale + offset, -1, axis)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-6)
    assert ChannelAffine.from_config(layer.get_config()).axis == axis
    with pytest.raises(ValueError, match=rf"expected axis {axis} of input shape"):
        layer(np.zeros((5, 5, 5, 5), "float32"))


def test_another_word():
    with pytest.raises(ValueError, match=r"offset must be 'channels', 'scalar' or None.*'each'"):
        ChannelAffine(offset="each")
