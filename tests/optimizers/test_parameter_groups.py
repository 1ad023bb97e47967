from __future__ import annotations

import keras
import numpy as np
import pytest
import tiny_networks

import nf_zoo
from nf_zoo.models.classifier import build_model, variable_names
from nf_zoo.models.registry import FAMILIES, architectures

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


def test_frozen_parts_keep_their_depth():
    model = nf_zoo.NFRegNetB0(num_classes=3, **SMALL)

    def scales():
        groups = nf_zoo.parameter_groups(model, layer_decay=0.5)
        return {id(v): g.learning_rate_scale for g in groups for v in g.variables}

    before = scales()
    for name in ("stem_conv", "stage2_block1", "stage2_block2"):
        model.get_layer(name).trainable = False
    after = scales()
    assert 0 < len(after) < len(before)
    assert all(before[key] == scale for key, scale in after.items())


LAYERS = keras.layers


def around(make: str, network):
    """A model around a network, and the layers before and after it."""
    before, after = LAYERS.Conv2D(3, 1, name="before"), LAYERS.Dense(2, name="after")
    if make == "sequential":
        return keras.Sequential([LAYERS.Input((32, 32, 5)), before, network, after])
    images, numbers = LAYERS.Input((32, 32, 5)), LAYERS.Input((4,))
    # A side branch, longer than what leads to the network.
    branch = LAYERS.Dense(3, name="side2")(LAYERS.Dense(3, name="side1")(numbers))
    features = keras.Sequential([before, network])(images)
    return keras.Model([images, numbers], after(LAYERS.Concatenate()([features, branch])))


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("make", ["sequential", "functional"])
def test_a_model_around_a_network_has_a_new_head(make, classes):
    network = tiny_networks.build("nf_resnet", num_classes=classes)
    network(np.zeros((1, 32, 32, 3)))  # a call outside the model changes nothing
    keras.Sequential([LAYERS.Conv2D(3, 1, name="elsewhere"), network]).build((1, 32, 32, 3))
    model = around(make, network)
    groups = nf_zoo.parameter_groups(model, layer_decay=0.5, weight_decay=0.1)
    members = [id(variable) for group in groups for variable in group.variables]
    assert sorted(members) == sorted(id(variable) for variable in model.trainable_variables)
    depth = {v.path: group.depth for group in groups for v in group.variables}
    deepest = max(depth.values())
    for path, value in depth.items():
        for layer in ("after", "side1", "side2"):
            assert value == deepest or f"{layer}/" not in path
        assert value == 0 or "before/" not in path
    by_name = {group.name: group for group in groups}
    alone = nf_zoo.parameter_groups(network)
    assert by_name["head"].learning_rate_scale == 1.0 and by_name["head"].weight_decay == 0.1
    assert by_name["head, not decayed"].weight_decay == 0.0
    assert set(by_name) == {group.name for group in alone} | {"head", "head, not decayed"}
    inside = {v.path for group in alone for v in group.variables if "head" not in group.name}
    assert max(depth[path] for path in inside) == deepest - 1
    optimizer = nf_zoo.GroupedOptimizer(keras.optimizers.SGD(0.1), groups)
    optimizer.build(model.trainable_variables)


def test_a_subclassed_model_around_a_network_has_a_new_head():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.network = tiny_networks.build("nf_resnet", num_classes=0)
            self.out = LAYERS.Dense(2)

        def call(self, inputs):
            return self.out(self.network(inputs))

    model = Model()
    model(np.zeros((1, 32, 32, 3)))
    groups = nf_zoo.parameter_groups(model, layer_decay=0.5)
    assert [v is model.out.kernel for v in groups[-2].variables] == [True]
    assert groups[-2].learning_rate_scale == 1.0 > groups[-3].learning_rate_scale


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: keras.Sequential([LAYERS.Input((3,)), LAYERS.Dense(3)]), "0 networks"),
        (lambda: 3, "int with 0 networks"),
        (lambda: keras.Sequential([LAYERS.Dense(3)]), "not built"),
        (lambda: _two_networks(), "2 networks"),
    ],
)
def test_models_not_around_one_network_are_named(make, word):
    with pytest.raises(ValueError, match=f"Received: .*{word}"):
        nf_zoo.parameter_groups(make())


def _two_networks():
    inputs = LAYERS.Input((32, 32, 3))
    pair = [tiny_networks.build("nf_resnet", model_name=name) for name in ("one", "other")]
    return keras.Model(inputs, LAYERS.Average()([network(inputs) for network in pair]))


@pytest.mark.parametrize(
    "options", [{"layer_decay": 0.0}, {"layer_decay": 1.5}, {"weight_decay": -1}]
)
def test_bad_input(options):
    model = nf_zoo.WideResNet16_1(num_classes=3)
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be .* Received"):
        nf_zoo.parameter_groups(model, **options)
