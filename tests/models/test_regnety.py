"""RegNetY against what timm says of it, for the sizes without reference vectors too."""

from __future__ import annotations

import goldens
import pytest

import nf_zoo
from nf_zoo.hub.description import build_blueprint, count_parameters
from nf_zoo.models.registry import architectures

pytestmark = pytest.mark.fast

FACTS = goldens.record("timm", "regnety_facts")
NAMES = [name for name, row in architectures().items() if row.family == "regnety"]


def test_factories():
    assert [architectures()[name].factory for name in NAMES] == [
        f"RegNetY{name.removeprefix('regnety_')}" for name in NAMES
    ]
    assert nf_zoo.list_models("regnety_*") == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_size_is_timms(name):
    facts = FACTS[name]["architecture"]
    model = build_blueprint(name)
    assert count_parameters(model) == facts["parameters"]
    assert model.config.depths == tuple(facts["depths"])
    blocks = iter(model.blocks)
    for stage, depth in enumerate(facts["depths"]):
        for block in range(depth):
            layer = next(blocks)
            assert layer.filters == facts["widths"][stage]
            assert layer.width == facts["inner_widths"][stage]
            assert layer.groups == facts["groups"][stage]
            assert layer.attention.hidden == facts["squeeze_widths"][stage][block]


def test_group_width_divides_every_stage():
    with pytest.raises(ValueError, match=r"group_width must be a divisor of 104.*Received"):
        nf_zoo.RegNetY004(group_width=16)


def test_the_last_norm_of_a_branch_starts_at_zero():
    model = nf_zoo.create_model("regnety_002", num_classes=2)
    for block in model.blocks:
        assert not block.norms[-1].gamma.numpy().any()
        assert block.attention.gate_gain == 1.0
