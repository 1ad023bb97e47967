"""Names of variables are of the model alone, wherever it was made."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tiny_networks

import nf_zoo
from nf_zoo.models.classifier import variable_names


@pytest.mark.parametrize("label", list(tiny_networks.NETWORKS))
def test_names_do_not_hold_the_scope_a_model_was_made_in(label, tmp_path):
    plain = tiny_networks.filled(label, "names")
    with keras.name_scope("outer"), keras.name_scope("head"):
        scoped = tiny_networks.filled(label, "names")
    assert scoped.layers[1].weights[0].path.startswith("outer/head/")
    assert list(variable_names(scoped)) == list(variable_names(plain))
    loaded = nf_zoo.load_pretrained(nf_zoo.save_pretrained(scoped, tmp_path / "folder"))
    pixels = tiny_networks.images(1)
    np.testing.assert_array_equal(loaded(pixels), plain(pixels))


class Holder(keras.layers.Layer):
    """Makes its network when it is built, as layers do."""

    def build(self, input_shape):
        self.network = nf_zoo.create_model("wide_resnet16_1.cifar10")
        self.built = True

    def call(self, x):
        return self.network(x)


def test_pretrained_weights_load_inside_a_layers_build():
    pixels = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype("float32")
    expected = nf_zoo.create_model("wide_resnet16_1.cifar10")(pixels)
    np.testing.assert_allclose(Holder()(pixels), expected, rtol=1e-6)
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, Holder(name="holder")(inputs))
    np.testing.assert_allclose(model(pixels), expected, rtol=1e-6)
