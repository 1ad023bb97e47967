"""Grad-CAM against the gradient that TensorFlow takes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_networks

import nf_zoo
from nf_zoo.models.grad_cam import grad_cam

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("label", ["nf_resnet", "fixup_resnet", "resnet", "nfnet"])
@pytest.mark.slow
def test_the_map_is_that_of_the_gradient(label):
    model = tiny_networks.filled(label, "grad_cam")
    images, classes = tiny_networks.images(2), [1, 0]
    both = keras.Model(model.inputs, [model.get_layer("pool").input, model.output])
    with tf.GradientTape() as tape:
        maps, logits = both(tf.constant(images))
        chosen = tf.reduce_sum(tf.gather(logits, classes, batch_dims=1))
    weights = tf.reduce_mean(tape.gradient(chosen, maps), axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(maps * weights, axis=-1)).numpy()
    heat /= np.maximum(heat.max(axis=(1, 2), keepdims=True), 1e-12)
    found = grad_cam(model, images, classes)
    np.testing.assert_allclose(found, heat, atol=1e-3)
    assert found.max() == pytest.approx(1) and found.min() < 0.9


@pytest.mark.parametrize("label", ["nf_resnet_paper", "nfnet_eca_paper", "resnet_v2"])
@pytest.mark.slow
def test_the_map_of_a_folded_network_is_the_same(label):
    model = tiny_networks.filled(label, "grad_cam")
    found, expected = (
        grad_cam(one, tiny_networks.images(2), [1, 0]) for one in (nf_zoo.fold(model), model)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_features_speak_for_no_class():
    with pytest.raises(ValueError, match="needs a model with a classifier"):
        grad_cam(tiny_networks.build("nf_resnet", num_classes=0), tiny_networks.images(1), [0])
