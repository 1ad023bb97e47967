"""Fields that cannot be are refused when the network is made, by name, in every family."""

from __future__ import annotations

import pytest
import tiny_networks

from nf_zoo.models.registry import FAMILIES, architecture

pytestmark = pytest.mark.fast

LABELS = list(tiny_networks.NETWORKS)
GROUPED = ["nf_regnet", "nfnet", "nfnet_eca_paper"]


def refusal(label: str, **fields) -> str:
    """The message that the network of that label fails with."""
    with pytest.raises((ValueError, TypeError)) as caught:
        tiny_networks.build(label, **fields)
    return str(caught.value)


def test_every_family_is_tried():
    assert tiny_networks.families() == set(FAMILIES)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("depths", [(1,), (1, 2, 1)])
def test_depths_of_the_wrong_length(label, depths):
    message = refusal(label, depths=depths)
    assert f"one per stage, {len(depths)}" in message and f"depths={depths}" in message
    assert "Received: widths=" in message


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("field", ["depths", "widths"])
@pytest.mark.parametrize("value", [(), (1, 0, 1, 1), (1, -2, 1, 1), (1, 2.5, 1, 1), 4, "1234"])
def test_stages_are_positive_integers(label, field, value):
    message = refusal(label, **{field: value})
    assert message.startswith(f"{field} must be a sequence of positive integers")
    assert f"Received: {field}={value!r}" in message


@pytest.mark.parametrize("label", LABELS)
def test_an_unknown_field(label):
    message = refusal(label, widhts=(8, 8, 8, 8))
    config = type(architecture(tiny_networks.NETWORKS[label][0]).config).__name__
    assert message.startswith(f"{config} has no field widhts. Fields: ")
    assert "widths" in message.partition("Fields: ")[2].partition("Received")[0]
    assert "Received: " in message and "'widhts': (8, 8, 8, 8)" in message


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("field", ["drop_rate", "stochastic_depth_rate"])
@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_rates_are_probabilities(label, field, value):
    message = refusal(label, **{field: value})
    assert message == f"{field} must be a probability in [0, 1). Received: {field}={value}"


@pytest.mark.parametrize("label", LABELS)
def test_an_unknown_choice(label):
    message = refusal(label, padding="zero")
    assert message.startswith("padding must be one of ('symmetric', 'same', ")
    assert message.endswith("Received: padding='zero'")


@pytest.mark.parametrize("label", LABELS)
def test_an_unknown_activation(label):
    message = refusal(label, activation="rleu")
    assert "activation" in message and "relu" in message and "'rleu'" in message


@pytest.mark.parametrize("label", ["nf_resnet", "nf_resnet_paper", "nf_regnet", "nfnet"])
def test_an_activation_must_have_a_name_and_a_gamma(label):
    """One without a published gamma is integrated; a callable could not be saved."""
    tiny_networks.build(label, activation="softplus")
    message = refusal(label, activation=abs)
    assert message.startswith("activation must be a name, so that the record can be saved")


@pytest.mark.parametrize("label", GROUPED)
def test_a_group_width_that_is_too_large(label):
    message = refusal(label, group_width=4096)
    assert message.startswith("group_width must be at most ")
    assert message.endswith("Received: group_width=4096")


CASES = {
    "depths, a truth value": ("resnet", "depths", (True, 1)),
    "group_width, not dividing the inner width": ("nfnet", "group_width", 3),
    "group_width, zero": ("nfnet", "group_width", 0),
    "group_width, negative": ("nf_regnet", "group_width", -4),
    "group_width, a fraction": ("nf_regnet", "group_width", 2.5),
    "bottleneck_ratio, no channel left": ("nf_resnet", "bottleneck_ratio", 0.01),
    "bottleneck_ratio of SkipInit": ("skipinit_resnet", "bottleneck_ratio", 0),
    "bottleneck_ratio of Fixup": ("fixup_resnet", "bottleneck_ratio", 0),
    "bottleneck_ratio of BN": ("resnet", "bottleneck_ratio", 0),
    "stem_width, zero": ("nf_resnet", "stem_width", 0),
    "stem_width, text": ("resnet", "stem_width", "8"),
    "stem_width too small to halve": ("resnet_v2", "stem_width", 1),
    "stem_widths, zero": ("nfnet", "stem_widths", (4, 4, 0, 8)),
    "stem_widths, a number": ("nfnet", "stem_widths", 4),
    "width_factor": ("nf_regnet", "width_factor", 0),
    "expansion": ("nf_regnet", "expansion", 0),
    "final_ratio": ("nfnet", "final_ratio", 0),
    "attention_ratio": ("nf_resnet_paper", "attention_ratio", -1),
    "alpha": ("nf_resnet", "alpha", "0.2"),
    "eps": ("nf_resnet", "eps", -1.0),
    "eps of BN": ("resnet", "eps", -1.0),
    "momentum": ("resnet", "momentum", 2.0),
    "drop_rate, text": ("skipinit_resnet", "drop_rate", "0.1"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_message_names_the_field(case):
    label, field, value = CASES[case]
    assert f"Received: {field}={value!r}" in refusal(label, **{field: value})
