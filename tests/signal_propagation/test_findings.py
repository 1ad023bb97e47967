"""Diagnosis tells trained weights from fresh ones, and advises only what is not there."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import photographs
import pytest
import tiny_networks

import nf_zoo
from nf_zoo.models.classifier import build_model
from nf_zoo.signal_propagation.model_inspection import is_trained

SHIPPED = sorted(
    path.name for path in (Path(__file__).parents[2] / "weights").iterdir() if path.is_dir()
)
NOISE = (8, 32, 32, 3)
ADVICE = re.compile(r"beta|standardi|BatchNorm|skip gain|SkipInit|normalizer|gamma|initialize the")


def pictures():
    return [photographs.PHOTOGRAPHS[i % 2][60 * i : 60 * i + 64, 100:164] for i in range(6)]


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_is_advised_for_a_shipped_checkpoint(name):
    model = nf_zoo.create_model(name, pretrained=True)
    for source in (NOISE, model.preprocess(pictures())):
        diagnosis = nf_zoo.diagnose(model, source)
        assert diagnosis.trained and "trained" in repr(diagnosis)
        assert {finding.kind for finding in diagnosis} <= {"dead branch"}
        assert not any(ADVICE.search(str(finding)) for finding in diagnosis)
        assert not diagnosis.signals.unit_gains
    fresh = model.from_config(model.get_config())
    # The configuration remembers the tag; the weights are others.
    diagnosis = nf_zoo.diagnose(fresh, NOISE)
    assert not diagnosis.trained and not diagnosis and "trained" not in repr(diagnosis)


@pytest.mark.fast
def test_a_branch_that_training_has_shut_is_a_fact_without_advice():
    model = nf_zoo.create_model("wide_resnet16_4.cifar10_skipinit", pretrained=True)
    (finding,) = nf_zoo.diagnose(model, model.preprocess(pictures()))
    assert (finding.kind, finding.where) == ("dead branch", "stage1_block1")
    assert re.search(r"at most \de-0[3-5]", finding.evidence)
    assert "Look for" not in finding.remedy


@pytest.mark.fast
def test_trained_weights_that_are_not_finite():
    model = tiny_networks.filled("wide_resnet", "a")
    kernel = model.get_layer("stage2_block1").convs[0].kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    (finding,) = nf_zoo.diagnose(model, NOISE)
    assert (finding.kind, finding.where) == ("exploding", "stage2_block1")
    assert "diverged" in finding.remedy and not ADVICE.search(str(finding))


# --- trained or fresh ----------------------------------------------------------------------------


@pytest.mark.parametrize("label", tiny_networks.NETWORKS)
def test_fresh_and_trained_networks_of_every_family(label):
    model = tiny_networks.build(label)
    assert not is_trained(model)
    images = tiny_networks.images(8, (16, 16))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss)
    model.fit(images, np.arange(8) % 5, batch_size=2, epochs=1, verbose=0)
    assert is_trained(model)


def test_a_trained_head_does_not_make_the_body_trained():
    model = tiny_networks.build("resnet")
    for variable in model.head.weights:
        variable.assign(np.full(variable.shape, 0.3))
    assert not is_trained(model)


def test_foreign_models():
    model = keras.applications.MobileNetV2((32, 32, 3), weights=None, include_top=False, alpha=0.35)
    assert not is_trained(model) and not nf_zoo.diagnose(model, batch_size=2).trained
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(layer.moving_mean + 0.1)
            layer.moving_variance.assign(layer.moving_variance * 1.1)
            layer.beta.assign(layer.beta + 0.1)
    diagnosis = nf_zoo.diagnose(model, batch_size=2)
    assert diagnosis.trained and not any(ADVICE.search(str(finding)) for finding in diagnosis)


@pytest.mark.fast
def test_with_kernels_alone_their_deviation_decides():
    layers = [keras.Input((32,)), *(keras.layers.Dense(32, use_bias=False) for _ in range(3))]
    model = keras.Sequential(layers)
    assert not is_trained(model)
    for layer in model.layers[:2]:
        layer.kernel.assign(3.0 * layer.kernel)
    assert is_trained(model)
    model.layers[0].kernel.assign(np.full((32, 32), np.nan))
    assert is_trained(model)


# --- advice --------------------------------------------------------------------------------------

DEEP = {"variant": "paper", "stem": "3x3", "depths": (60, 60), "widths": (32, 64), "stem_width": 16}


def found(kind, **fields):
    keras.utils.set_random_seed(0)
    model = build_model("nf_resnet50", num_classes=0, **{**DEEP, **fields})
    return next(f for f in nf_zoo.diagnose(model, NOISE) if f.kind == kind)


def advice(kind, **fields):
    return found(kind, **fields).remedy


def test_advice_is_what_the_network_lacks():
    exploding = found("exploding", rescale=False)
    assert exploding.remedy == (
        "Multiply the input of every branch by beta = 1 / sqrt(expected variance)."
    )
    rate = float(re.search(r"factor of (\S+) per block", exploding.evidence)[1])
    assert rate == pytest.approx(1 + 0.2**2, abs=0.005)  # alpha is 0.2
    shallow = {"depths": (12, 12)}
    assert "Standardize the kernels" in advice("mean shift", standardize=False, **shallow)
    assert advice("vanishing", gamma_in=None, **shallow) == (
        "Multiply the activations, or the kernels after them, by the activation's gamma."
    )


def test_a_network_that_has_all_of_it_is_not_told_to_get_it():
    model = build_model("nf_resnet26", num_classes=0)
    bias = model.get_layer("stage2_block1").convs[-1].bias
    bias.assign(np.full(bias.shape, 100.0))
    (finding,) = nf_zoo.diagnose(model, NOISE)
    assert finding.kind == "mean shift"
    assert finding.remedy.startswith("The usual remedies are present (standardized kernels): check")


def test_skip_gains_are_not_advised_where_they_are():
    fields = {"depths": (66, 66, 66), "widths": (4, 8, 8), "num_classes": 0}
    for scheme, has in (("none", False), ("skipinit", True)):
        keras.utils.set_random_seed(0)
        model = build_model("wide_resnet16_1", scheme=scheme, **fields)
        for block in model.blocks if has else ():
            block.skip_gain.gain.assign(1.0)
        finding = nf_zoo.diagnose(model, NOISE).findings[0]
        assert finding.kind == "exploding" and "BatchNorm" in finding.remedy
        assert ("skip gain" in finding.remedy) != has
