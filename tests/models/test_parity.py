"""Every network against the outputs of the published code, at an even and an uneven size."""

from __future__ import annotations

import goldens
import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_networks

from nf_zoo.models.classifier import build_model

TIMM = [
    "nf_resnet26",
    "nf_resnet50",
    "nf_resnet101",
    "nf_seresnet50",
    "nf_ecaresnet50",
    "nf_regnet_b0",
    "nf_regnet_b1",
    "nfnet_f0",
    "nfnet_l0",
    "eca_nfnet_l0",
    "dm_nfnet_f0",
    "test_nfnet",
    "resnet18",
    "resnet26",
    "resnet50",
    "resnet101",
    "resnetv2_18",
    "resnetv2_34",
    "resnetv2_50",
    "resnetv2_50d",
    "regnety_004",
    "regnety_016",
    "regnety_032",
]
PAPER = {
    "NF_ResNet_ResNet50": "nf_resnet50",
    "NF_ResNet_ResNet50_SE": "nf_seresnet50",
    "NF_RegNet_B0": "nf_regnet_b0",
    "NFNet_F0": "nfnet_f0",
    "SkipInit_ResNet_ResNet50": "skipinit_resnet50",
    "FixUp_ResNet_ResNet50": "fixup_resnet50",
    "ResNet_ResNet50": "resnetv2_50",
}
CASES = [("timm", name) for name in TIMM] + [("haiku", name) for name in PAPER]
SMALLEST = ("test_nfnet", "resnet18", "FixUp_ResNet_ResNet50")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            case, marks=[pytest.mark.fast] if case[1] in SMALLEST else [], id="-".join(case)
        )
        for case in CASES
    ],
)
def network(request):
    """A network filled as the published one was, what records it, and its function."""
    source, golden = request.param
    variant = {"haiku": "paper"}.get(source)
    with tiny_networks.undrawn():
        model = build_model(PAPER.get(golden, golden), variant=variant)
    goldens.fill(model, source, golden)
    taps = [block.output for block in model.blocks]
    probe = keras.Model(model.inputs, [model.output, model.get_layer("pool").output, *taps])
    # Traced once, for pictures of both sizes.
    signature = [tf.TensorSpec((None, None, None, 3))]
    return model, source, golden, tf.function(probe, input_signature=signature)


def test_parameter_count(network):
    model, source, golden, _ = network
    count = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert count == goldens.record(source, golden)["param_count"]


@pytest.mark.parametrize("size", goldens.SIZES, ids=lambda size: "x".join(map(str, size)))
def test_outputs(network, size):
    _, source, golden, probe = network
    logits, features, *blocks = (np.asarray(output) for output in probe(goldens.images(size)))
    expected = goldens.outputs(source, golden, size)

    assert np.abs(logits - expected["logits"]).max() <= 2e-5 * np.abs(expected["logits"]).max()
    assert np.abs(features - expected["pooled"]).max() <= 2e-5 * np.abs(expected["pooled"]).max()
    means = np.array([np.mean(b, dtype="float64") for b in blocks])
    variances = np.array([np.var(b, dtype="float64") for b in blocks])
    np.testing.assert_allclose(variances, expected["block_var"], rtol=1e-4)
    spread = np.sqrt(expected["block_var"])
    assert np.all(np.abs(means - expected["block_mean"]) <= 1e-4 * spread)
