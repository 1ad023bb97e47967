from __future__ import annotations

import numpy as np
import pytest

from nf_zoo import layers

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("size", [(1, 2), (2, 3), (7, 8), (8, 7)])
@pytest.mark.parametrize("strides", [1, 2])
def test_mirrored_borders_change_no_maximum(size, strides):
    images = -1 - np.random.default_rng(0).random((2, *size, 3), "float32")
    infinite = layers.MaxPool2D(3, strides, padding="symmetric")
    mirrored = layers.MaxPool2D(3, strides, padding="mirrored")
    np.testing.assert_array_equal(mirrored(images), infinite(images))
    assert mirrored.compute_output_shape(images.shape) == mirrored(images).shape


def test_unknown_padding():
    with pytest.raises(ValueError, match=r"'symmetric', 'mirrored', 'same' or 'valid'.*'edge'"):
        layers.MaxPool2D(padding="edge")
