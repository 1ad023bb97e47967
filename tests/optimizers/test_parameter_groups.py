from __future__ import annotations

import pytest

import nf_zoo
from nf_zoo.models.classifier import variable_names
from nf_zoo.models.registry import FAMILIES, architectures, build_model

SMALL = {"depths": (1, 2, 1, 1)}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_variable_is_in_one_group(family):
    name = next(row.name for row in architectures().values() if row.family == family)
    fields = {} if family == "wide_resnet" else SMALL
    model = build_model(name, num_classes=3, **fields)
    groups = nf_zoo.parameter_groups(model, layer_decay=0.5, weight_decay=0.1)
    members = [id(variable) for group in groups for variable in group.variables]
    assert sorted(members) == sorted(id(variable) for variable in model.trainable_variables)
    depths = [group.depth for group in groups]
    assert depths == sorted(depths) and set(depths) == set(range(depths[-1] + 1))
    for group in groups:
        assert group.learning_rate_scale == 0.5 ** (depths[-1] - group.depth)
        assert {v.path.endswith("/kernel") for v in group.variables} == {group.weight_decay > 0}


def test_depth_follows_the_network():
    model = nf_zoo.NFRegNetB0(num_classes=3, **SMALL)
    names = variable_names(model)
    depth = {
        id(variable): group.depth
        for group in nf_zoo.parameter_groups(model)
        for variable in group.variables
    }
    order = [
        "stem/conv/kernel",
        "stage1/block1/conv1/gain",
        "stage2/block1/shortcut_conv/kernel",
        "stage2/block2/conv3/bias",
        "stage3/block1/attention/reduce/kernel",
        "stage4/block1/conv1/kernel",
        "final_conv/kernel",
        "head/bias",
    ]
    order = [name for name in order if name in names]
    assert len(order) >= 7
    assert [depth[id(names[name])] for name in order] == list(range(len(order)))
    by_stage = nf_zoo.parameter_groups(model, by_stage=True)
    assert [g.name for g in by_stage if g.weight_decay or "," not in g.name] == [
        "stem",
        "stage1",
        "stage2",
        "stage3",
        "stage4",
        "final",
        "head",
    ]


def test_the_head_is_known_by_identity():
    model = nf_zoo.WideResNet16_1(num_classes=3)
    groups = nf_zoo.parameter_groups(model, layer_decay=0.5)
    head = [group for group in groups if group.name.startswith("head")]
    assert {id(v) for group in head for v in group.variables} == {
        id(v) for v in model.head.trainable_variables
    }
    assert {group.learning_rate_scale for group in head} == {1.0}


def test_frozen_variables_are_left_out():
    model = nf_zoo.WideResNet16_1(num_classes=3)
    model.get_layer("stem_conv").trainable = False
    assert nf_zoo.parameter_groups(model)[0].name.startswith("stage1/block1")


@pytest.mark.parametrize(
    "options", [{"layer_decay": 0.0}, {"layer_decay": 1.5}, {"weight_decay": -1}]
)
def test_bad_input(options):
    model = nf_zoo.WideResNet16_1(num_classes=3)
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be .* Received"):
        nf_zoo.parameter_groups(model, **options)
