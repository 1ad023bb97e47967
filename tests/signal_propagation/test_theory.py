"""The theory column agrees with the measurement, or is empty and says why."""

from __future__ import annotations

import csv

import keras
import numpy as np
import photographs
import pytest
import tiny_networks

import nf_zoo
from nf_zoo.models.classifier import build_model
from nf_zoo.signal_propagation import theory

NETWORKS = {
    "nf_resnet50": ("nf_resnet50", {}),
    "nf_resnet26": ("nf_resnet26", {}),
    "nf_resnet14": ("nf_resnet14", {}),
    "nf_regnet_b0": ("nf_regnet_b0", {}),
    "nfnet_l0": ("nfnet_l0", {}),
    "test_nfnet": ("test_nfnet", {}),
    "nf_resnet50_paper": ("nf_resnet50", {"variant": "paper"}),
    "nf_regnet_b0_paper": ("nf_regnet_b0", {"variant": "paper"}),
    "wide": ("wide_resnet16_4", {}),
    "wide_pooled": ("wide_resnet16_4", {"shortcut": "average_pool"}),
    "dilated": ("nf_resnet26", {"output_stride": 8}),
    "dilated_bn": ("resnetv2_18", {"output_stride": 8}),
    "bn_pooled": ("wide_resnet16_4", {"scheme": "bn", "shortcut": "average_pool"}),
    "resnetv2_50d": ("resnetv2_50d", {}),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_on_noise_it_agrees_in_every_block(network):
    name, fields = NETWORKS[network]
    keras.utils.set_random_seed(0)
    model = build_model(name, num_classes=0, **fields)
    for unit_gains in (True, False):
        result = nf_zoo.signal_propagation(model, (8, 64, 64, 3), unit_gains=unit_gains)
        assert not result.no_theory and "No theory" not in repr(result)
        rows = [block for block in result if block.predicted_variance is not None]
        assert len(rows) > len(result) / 2
        ratios = [block.variance / block.predicted_variance for block in rows]
        np.testing.assert_allclose(ratios, 1, atol=0.2)


@pytest.mark.fast
def test_what_is_measured_is_the_pooling_alone():
    """A block ten times too loud stands out against theory, in a network with pooled shortcuts."""
    keras.utils.set_random_seed(0)
    model = build_model("nf_resnet26", num_classes=0)
    conv = model.get_layer("stage2_block1").shortcut_conv
    conv.gamma = conv.gamma * 10**0.5
    result = nf_zoo.signal_propagation(model, (8, 64, 64, 3), unit_gains=True)
    ratios = [block.variance / block.predicted_variance for block in result]
    np.testing.assert_allclose(ratios[:2], 1, atol=0.2)
    assert ratios[2] > 8


def photos(size=32):
    return np.stack(
        [np.asarray(photographs.photograph(size, size, i), "float32") / 128 - 1 for i in (0, 1)]
    )


def empty(model, source, **options):
    result = nf_zoo.signal_propagation(model, source, **options)
    assert all(block.predicted_variance is None for block in result)
    assert repr(result).endswith(f"No theory: {result.no_theory}.")
    assert result.to_dict()["no_theory"] == result.no_theory
    return result.no_theory


def test_where_it_says_nothing_it_says_why(tmp_path):
    noise = (2, 32, 32, 3)
    model = tiny_networks.build("nf_resnet", stem_width=4)
    assert "these are pictures" in empty(model, photos())
    assert "trained" in empty(tiny_networks.filled("nf_resnet", "a"), noise)
    assert "trained" in empty(tiny_networks.filled("wide_resnet_bn", "a"), noise)
    assert "by the batch" in empty(
        tiny_networks.build("wide_resnet_bn"), noise, batch_statistics=False
    )
    assert "none for these blocks" in empty(tiny_networks.build("resnet"), noise)
    assert "none for these blocks" in empty(
        tiny_networks.build("nf_resnet", standardize=False), noise
    )
    assert "another model" in empty(keras.models.clone_model(model), noise)
    result = nf_zoo.signal_propagation(model, photos())
    with result.to_csv(tmp_path / "spp.csv").open() as file:
        assert {row["predicted_variance"] for row in csv.DictReader(file)} == {""}
    assert b"theory" not in result.plot(tmp_path / "spp.svg").read_bytes()


def test_a_max_pooled_stem_is_reckoned_with_only_where_relu_and_a_projection_follow():
    """ReLU's gamma gives back the variance a 3x3 maximum takes; an identity does not."""
    for fields in ({"activation": "silu"}, {"stem_width": 256}):
        model = build_model("nf_resnet26", num_classes=0, **fields)
        assert theory.predicted_variances(model) == [None] * 8


@pytest.mark.fast
def test_batch_norm_has_a_theory_on_pictures_too():
    keras.utils.set_random_seed(0)
    model = build_model("wide_resnet16_4", scheme="bn", shortcut="average_pool", num_classes=0)
    ratios = [b.variance / b.predicted_variance for b in nf_zoo.signal_propagation(model, photos())]
    np.testing.assert_allclose(ratios, 1, atol=0.25)


def test_the_record_before_the_training_alone_has_a_theory():
    keras.utils.set_random_seed(0)
    model = tiny_networks.build("wide_resnet")
    callback = nf_zoo.SignalPropagationCallback((2, 16, 16, 3), alarm_every=0)
    model.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    images = np.random.default_rng(0).standard_normal((16, 16, 16, 3)).astype("float32")
    model.fit(images, np.arange(16) % 5, batch_size=2, verbose=0, callbacks=[callback])
    before, after = (result for _, result in callback.records)
    assert not before.no_theory and before[0].predicted_variance
    assert "trained" in after.no_theory and after[0].predicted_variance is None
