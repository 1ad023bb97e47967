from __future__ import annotations

import goldens
import keras
import numpy as np
import pytest
from programs import succeed

import nf_zoo
from nf_zoo.hub import factories
from nf_zoo.hub.description import build_blueprint, count_parameters
from nf_zoo.hub.errors import UnknownWeights, WeightsMismatch
from nf_zoo.hub.folder import save_pretrained
from nf_zoo.models.classifier import build_model, variable_names
from nf_zoo.models.registry import architectures

TINY = {"depths": (1, 1, 1, 1), "widths": (8, 8, 16, 16), "stem_width": 8}


@pytest.mark.fast
def test_every_architecture_has_a_factory_of_its_own():
    rows = architectures()
    assert len(factories.FACTORIES) == len(rows)
    assert set(factories.FACTORIES) <= set(dir(nf_zoo))
    assert nf_zoo.NFECAResNet50.__name__ == "NFECAResNet50"
    with pytest.raises(AttributeError, match="NFResNet51"):
        _ = nf_zoo.NFResNet51


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("nf_seresnet*", ["nf_seresnet26", "nf_seresnet50", "nf_seresnet101"]),
        ("*v2_50*", ["resnetv2_50", "resnetv2_50d"]),
        ("nothing*", []),
    ],
)
def test_list_models(pattern, expected):
    assert nf_zoo.list_models(pattern) == expected


def test_list_pretrained_puts_the_default_first():
    names = nf_zoo.list_models("resnet50.*", pretrained=True)
    assert names[0] == "resnet50.a1_in1k" and len(names) > 10
    assert "nf_resnet50.ra2_in1k" in nf_zoo.list_models(pretrained=True)


@pytest.mark.parametrize(
    ("name", "parameters", "giga"),
    [
        ("resnet18", 11689512, 1.814),
        ("nf_resnet50", 25557032, 4.089),
        ("resnet50", 25557032, 4.089),
    ],
)
def test_model_info_equals_published_sizes(name, parameters, giga):
    info = nf_zoo.model_info(name, input_size=(224, 224))
    assert info.parameters == parameters
    assert info.multiply_adds / 1e9 == pytest.approx(giga, abs=5e-4)


MILLIONS = {
    "nf_regnet_b1": 10.22,
    "nfnet_l0": 35.07,
    "eca_nfnet_l0": 24.14,
    "eca_nfnet_l1": 41.41,
    "eca_nfnet_l2": 56.72,
    "dm_nfnet_f0": 71.49,
    "dm_nfnet_f1": 132.63,
    "dm_nfnet_f2": 193.78,
    "dm_nfnet_f3": 254.92,
    "dm_nfnet_f4": 316.07,
    "dm_nfnet_f5": 377.21,
    "dm_nfnet_f6": 438.36,
}
"""param_count of timm's results-imagenet.csv."""


@pytest.mark.parametrize("name", MILLIONS)
def test_published_parameter_counts(name):
    assert round(nf_zoo.model_info(name).parameters / 1e6, 2) == MILLIONS[name]


PAPERS = (
    (71.5, 12.38),
    (132.6, 35.54),
    (193.8, 62.59),
    (254.9, 114.76),
    (316.1, 215.24),
    (377.2, 289.76),
    (438.4, 377.28),
)
"""Millions of parameters and billions of multiply-adds of F0 to F6, as DeepMind publishes them."""


@pytest.mark.parametrize("size", range(7))
def test_sizes_of_deepminds_networks(size):
    info = nf_zoo.model_info(f"nfnet_f{size}.haiku")
    parameters, giga = PAPERS[size]
    assert round(info.parameters / 1e6, 1) == parameters
    assert info.multiply_adds / 1e9 == pytest.approx(giga, rel=2e-3)
    assert info.config.padding == "same"


@pytest.mark.parametrize(
    ("name", "variant", "golden"),
    [
        ("nf_regnet_b0", "paper", "haiku/NF_RegNet_B0"),
        ("nf_regnet_b0", None, "timm/nf_regnet_b0"),
        ("nf_regnet_b1", None, "timm/nf_regnet_b1"),
        ("nfnet_f0", "paper", "haiku/NFNet_F0"),
        ("fixup_resnet50", None, "haiku/FixUp_ResNet_ResNet50"),
    ],
)
def test_blueprints_count_as_the_reference(name, variant, golden):
    blueprint = build_blueprint(name, variant=variant)
    assert count_parameters(blueprint) == goldens.record(*golden.split("/"))["param_count"]


def test_a_blueprint_has_the_names_of_the_model_and_leaves_nothing_behind():
    options = {**TINY, "variant": "paper", "stochastic_depth_rate": 0.1, "num_classes": 3}
    model = build_model("nf_resnet10", **options)
    blueprint = build_blueprint("nf_resnet10", **options)
    shapes = {name: tuple(v.shape) for name, v in variable_names(model).items()}
    assert {name: tuple(v.shape) for name, v in variable_names(blueprint).items()} == shapes
    assert blueprint.multiply_adds(64, 64) == model.multiply_adds(64, 64)
    with pytest.raises(ValueError, match="variant must be"):
        build_blueprint("nf_resnet10", variant="none such")
    # Keras would now initialize whatever a blueprint had left in its list.
    with keras.StatelessScope():
        pass
    assert all(v._value is None for v in blueprint.trainable_variables)


SCRIPT = """
import resource, nf_zoo, keras
from nf_zoo.hub.description import build_blueprint
build_blueprint("nfnet_f0")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(nf_zoo.model_info("nfnet_f6").parameters)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_the_largest_network_is_described_without_its_weights():
    parameters, kibibytes = map(int, succeed(SCRIPT).stdout.split())
    assert kibibytes * 1024 < 4 * parameters / 8


def test_model_info_of_one_checkpoint():
    info = nf_zoo.model_info("resnet18.a3_in1k")
    assert [record.tag for record in info.weights] == ["a3_in1k"]
    assert info.input_size == (224, 224)
    with pytest.raises(UnknownWeights):
        nf_zoo.model_info("resnet18.a9_in1k")


def test_a_tag_without_weights_still_prepares_pictures_as_its_checkpoint():
    model = nf_zoo.create_model("resnetv2_18.ra4_e3600_r224_in1k", pretrained=False)
    assert model.preprocessing.mean == (0.5, 0.5, 0.5)
    assert model.preprocessing.input_size == (288, 288)
    assert model.weights_tag is None


def test_the_name_of_a_checkpoint_means_its_weights():
    by_name = nf_zoo.create_model("wide_resnet16_1.cifar10")
    asked_for = nf_zoo.create_model("wide_resnet16_1", pretrained="cifar10")
    assert by_name.weights_tag == "cifar10" and by_name.labels == asked_for.labels
    for mine, theirs in zip(by_name.get_weights(), asked_for.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_fresh_weights_of_a_checkpoints_network_are_said_and_have_no_labels(caplog):
    fresh = nf_zoo.create_model("nf_resnet26.tiny_imagenet", pretrained=False)
    assert "pretrained=False builds its network with fresh weights" in caplog.text
    assert (fresh.labels, fresh.weights_tag, fresh.num_classes) == (None, None, 200)
    assert fresh.config.widths == nf_zoo.model_info("nf_resnet26.tiny_imagenet").config.widths


@pytest.mark.fast
@pytest.mark.parametrize(
    ("habit", "value", "here"),
    [
        ("weights", "imagenet", "pretrained=True"),
        ("include_top", False, "num_classes=0"),
        ("classes", 5, "num_classes="),
        ("in_chans", 1, r"input_shape=\(None, None, channels\)"),
        ("drop_path_rate", 0.1, "stochastic_depth_rate="),
        ("global_pool", "avg", "pooling="),
    ],
)
def test_habits_of_elsewhere_are_told_what_to_write(habit, value, here):
    with pytest.raises(TypeError, match=f"Instead of {habit}= write {here}"):
        nf_zoo.NFResNet50(**{habit: value})


def test_unknown_names_offer_near_ones():
    with pytest.raises(ValueError, match=r"nf_resnet50.*Received: 'nf_resnet5'"):
        nf_zoo.create_model("nf_resnet5")
    with pytest.raises(UnknownWeights, match="ra2_in1k"):
        nf_zoo.create_model("nf_resnet50.ra_in1k")


def test_paper_variants_have_no_published_weights():
    with pytest.raises(UnknownWeights, match="'paper' variant"):
        nf_zoo.NFResNet50(pretrained=True, variant="paper")


def test_a_folder_prescribes_what_the_caller_does_not_say(tmp_path):
    model = nf_zoo.create_model(
        "nf_resnet10",
        labels=("a", "b", "c"),
        classifier_activation="softmax",
        include_preprocessing=True,
        **TINY,
    )
    for variable in variable_names(model).values():
        variable.assign(keras.random.normal(variable.shape))
    save_pretrained(model, tmp_path / "model")
    again = nf_zoo.NFResNet10(pretrained=tmp_path / "model")
    assert again.labels == ("a", "b", "c") and again.include_preprocessing
    assert again.classifier_activation == "softmax"
    assert again.weights_tag == "./model" and model.weights_tag is None
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(again(images), model(images))

    head = nf_zoo.NFResNet10(pretrained=tmp_path / "model", num_classes=2)
    assert head.labels is None and head.output_shape == (None, 2)
    for name, variable in variable_names(head).items():
        if not name.startswith("head/"):
            np.testing.assert_array_equal(variable, variable_names(model)[name])


def test_factory_arguments_reach_the_model():
    model = nf_zoo.NFResNet10(
        num_classes=4,
        input_shape=(32, 32, 1),
        name="mine",
        drop_rate=0.1,
        activation="silu",
        **TINY,
    )
    assert model.name == "mine" and model.input_shape == (None, 32, 32, 1)
    assert model.config.activation == "silu" and model.get_layer("dropout").rate == 0.1


def test_none_leaves_an_option_to_the_checkpoint():
    plain = nf_zoo.create_model("wide_resnet16_1.cifar10")
    left = dict.fromkeys(
        ("preprocessing", "labels", "input_shape", "include_preprocessing", "dtype")
    )
    none = nf_zoo.create_model("wide_resnet16_1.cifar10", **left)
    assert none.preprocessing == plain.preprocessing and none.labels == plain.labels
    assert none.options() == plain.options()


@pytest.mark.parametrize("options", [{"features_only": True}, {"pooling": None}])
def test_a_checkpoint_of_maps_gets_a_classifier(options, tmp_path):
    saved = build_model("nf_resnet10", **TINY, num_classes=0, **options)
    save_pretrained(saved, tmp_path / "maps")
    for asked in ({"num_classes": 3}, {"labels": ("a", "b", "c")}):
        model = nf_zoo.create_model("nf_resnet10", pretrained=tmp_path / "maps", **asked)
        assert model.output_shape == (None, 3)
    pooled = {"features_only": False, "pooling": "avg"}
    model = nf_zoo.create_model("nf_resnet10", pretrained=tmp_path / "maps", **pooled)
    assert model.output_shape == (None, 16)
    same = nf_zoo.create_model("nf_resnet10", pretrained=tmp_path / "maps")
    assert same.options() == saved.options()


@pytest.mark.parametrize("indices", [(1, 2), (3,), (0,)])
def test_a_backbone_of_some_maps_loads_by_its_factory(indices, tmp_path):
    options = {"features_only": True, "out_indices": indices}
    saved = build_model("nf_resnet10", **TINY, num_classes=0, **options)
    save_pretrained(saved, tmp_path / "maps")
    for asked in ({}, {"features_only": True}, options):
        model = nf_zoo.create_model("nf_resnet10", pretrained=tmp_path / "maps", **asked)
        assert model.options() == saved.options()
        for mine, theirs in zip(model.get_weights(), saved.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    saved.save(tmp_path / "maps.keras")
    assert nf_zoo.load_pretrained(tmp_path / "maps.keras").options() == saved.options()


def test_weights_of_the_plain_network_are_refused_for_a_variant(tmp_path):
    save_pretrained(build_model("nf_resnet10", **TINY, num_classes=2), tmp_path / "plain")
    with pytest.raises(WeightsMismatch, match=r"'paper' variant of nf_resnet10.*Leave variant out"):
        nf_zoo.create_model("nf_resnet10", tmp_path / "plain", variant="paper")
    paper = build_model("nf_resnet10", **TINY, num_classes=2, variant="paper")
    save_pretrained(paper, tmp_path / "paper")
    model = nf_zoo.create_model("nf_resnet10", tmp_path / "paper", variant="paper")
    assert model.options() == paper.options()


def test_an_index_brings_its_description(tmp_path):
    model = build_model("nf_resnet10", **TINY, labels=("a", "b"))
    save_pretrained(model, tmp_path / "shards", max_shard_size=2000)
    index = tmp_path / "shards" / "model.safetensors.index.json"
    assert nf_zoo.create_model("nf_resnet10", pretrained=index).labels == ("a", "b")


def test_double_precision_is_kept(tmp_path):
    model = build_model("nf_resnet10", **TINY, num_classes=2, dtype="float64")
    save_pretrained(model, tmp_path / "double")
    loaded = nf_zoo.create_model("nf_resnet10", pretrained=tmp_path / "double", dtype="float64")
    for mine, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
