from __future__ import annotations

import keras
import numpy as np
import pytest

import nf_zoo
from nf_zoo.models.classifier import build_model, variable_names

NETWORKS = {
    "nf_resnet26": {"widths": (8, 16, 24, 32), "stem_width": 8},
    "nf_regnet_b0": {"depths": (1, 2, 1, 1), "width_factor": 0.25},
    "test_nfnet": {},
    "skipinit_resnet50": {"depths": (1, 2, 1, 1), "widths": (8, 16, 24, 32), "stem_width": 8},
    "fixup_resnet50": {"depths": (1, 2, 1, 1), "widths": (8, 16, 24, 32), "stem_width": 8},
    "resnet26": {"widths": (8, 16, 24, 32), "stem_width": 8},
    "resnetv2_50d": {"depths": (1, 2, 1, 1), "widths": (8, 16, 24, 32), "stem_width": 8},
}


def images(side=64):
    return np.random.default_rng(0).standard_normal((2, side, side, 3)).astype("float32")


def filled(model):
    """Weights that silence no branch."""
    for index, (name, variable) in enumerate(variable_names(model).items()):
        draw = 0.3 * np.random.default_rng(index).standard_normal(tuple(variable.shape))
        variable.assign(np.abs(draw) + 0.5 if name.endswith(("gamma", "variance")) else draw)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_one_map_per_stride(name):
    model = build_model(name, features_only=True, **NETWORKS[name])
    assert [stage.stride for stage in model.stages] == [2, 4, 8, 16, 32]
    maps = model(images())
    for stage, feature in zip(model.stages, maps, strict=True):
        side = 64 // stage.stride
        assert feature.shape == (2, side, side, stage.channels)


@pytest.mark.parametrize("name", ["nf_resnet26", "fixup_resnet50", "resnetv2_50d"])
def test_maps_are_those_of_the_classifier(name):
    model = filled(build_model(name, num_classes=3, **NETWORKS[name]))
    maps = model.with_feature_maps()
    outputs = maps(images())
    pooled = keras.ops.mean(outputs[-1], (1, 2))
    np.testing.assert_allclose(model.with_classifier(0)(images()), pooled, rtol=1e-5, atol=1e-5)
    inside = keras.Model(model.inputs, model.get_layer("stage2_block2").output)(images())
    if name == "nf_resnet26":
        inside = keras.ops.relu(inside)
    np.testing.assert_allclose(outputs[2], inside, rtol=1e-5, atol=1e-6)


def test_only_what_the_maps_need_is_kept(tmp_path):
    model = filled(build_model("nf_resnet26", num_classes=3, **NETWORKS["nf_resnet26"]))
    maps = model.with_feature_maps((1, 2))
    assert not [name for name in variable_names(maps) if name.startswith(("stage3", "head"))]
    maps.save(tmp_path / "maps.keras")
    again = keras.models.load_model(tmp_path / "maps.keras")
    nf_zoo.save_pretrained(maps, tmp_path / "maps")
    loaded = nf_zoo.load_pretrained(tmp_path / "maps")
    for other in (again, loaded):
        for mine, theirs in zip(maps(images()), other(images()), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_features_of_pretrained_weights(tmp_path):
    fields = NETWORKS["nf_resnet26"]
    model = filled(build_model("nf_resnet26", num_classes=3, **fields))
    nf_zoo.save_pretrained(model, tmp_path / "model")
    maps = nf_zoo.create_model(
        "nf_resnet26", tmp_path / "model", features_only=True, out_indices=(-1,), **fields
    )
    expected = model.with_classifier(0, pooling=None)(images())
    np.testing.assert_array_equal(maps(images()), expected)
    assert maps.weights_tag is not None


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["nf_resnet26", "skipinit_resnet50", "resnet26", "resnetv2_50d"])
def test_dilation_computes_the_same_maps_more_densely(name, output_stride):
    """With symmetric padding every (32 / output_stride)-th pixel of the last map is unchanged."""
    options = {**NETWORKS[name], "padding": "symmetric", "num_classes": 0, "pooling": None}
    model = filled(build_model(name, **options))
    dense = build_model(name, output_stride=output_stride, **options)
    dense.set_weights(model.get_weights())
    assert model.stages[-1].stride == 32 and dense.stages[-1].stride == output_stride
    step = 32 // output_stride
    for side in (64, 75):
        expected, found = np.asarray(model(images(side))), np.asarray(dense(images(side)))
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(found[:, ::step, ::step], expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["nf_regnet_b0", "test_nfnet"])
def test_dilated_groups_keep_the_weights_and_the_size(name):
    fields = NETWORKS[name]
    model = filled(build_model(name, num_classes=3, **fields))
    dense = build_model(name, num_classes=3, output_stride=8, **fields)
    dense.set_weights(model.get_weights())
    maps = dense.with_feature_maps((2, 3, 4))(images())
    assert [m.shape[1] for m in maps] == [8, 8, 8]
    assert np.all(np.isfinite(dense(images())))


def test_poolings():
    fields = NETWORKS["nf_resnet26"]
    last = filled(build_model("nf_resnet26", num_classes=0, pooling=None, **fields))
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        pooled = build_model("nf_resnet26", num_classes=0, pooling=pooling, **fields)
        pooled.set_weights(last.get_weights())
        expected = reduce(np.asarray(last(images())), axis=(1, 2))
        np.testing.assert_allclose(pooled(images()), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.fast
def test_a_map_may_be_asked_for_twice():
    model = filled(build_model("nf_resnet26", num_classes=3, **NETWORKS["nf_resnet26"]))
    first, second, last = model.with_feature_maps((1, -4, 4))(images())
    np.testing.assert_array_equal(first, second)
    assert last.shape[1] < first.shape[1]


@pytest.mark.fast
def test_numbers_of_numpy_are_numbers(tmp_path):
    fields = {"depths": np.array([1, 1]), "widths": (np.int64(8), 16), "stem_width": np.int32(8)}
    fields |= {"stochastic_depth_rate": np.float64(0.5), "rematerialize": np.bool_(True)}
    model = build_model(
        "nf_resnet26",
        num_classes=0,
        features_only=True,
        out_indices=np.array([1, 2]),
        input_shape=(np.int64(32), None, np.int64(3)),
        **fields,
    )
    assert [stage.name for stage in model.stages] == ["stage1", "stage2"]
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").config == model.config


@pytest.mark.fast
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"features_only": True, "num_classes": 3}, "maps, not classes.*num_classes=3"),
        ({"features_only": True, "out_indices": (7,)}, r"indices of the 5 maps.*\(7,\)"),
        ({"features_only": True, "out_indices": ()}, r"indices of the 5 maps"),
        ({"features_only": True, "out_indices": 3}, r"indices of the 5 maps.*Received: 3"),
        ({"input_shape": 224}, r"must be \(height, width, channels\).*Received: 224"),
        ({"out_indices": (1,)}, "requires features_only=True"),
        ({"pooling": None}, "pooling=None requires num_classes=0.*num_classes=1000"),
        ({"pooling": "sum"}, "pooling must be one of.*'sum'"),
        ({"output_stride": 4}, r"output_stride must be one of \(32, 16, 8\).*output_stride=4"),
    ],
)
def test_bad_input_names_the_option(options, match):
    with pytest.raises(ValueError, match=match):
        build_model("nf_resnet26", **{**NETWORKS["nf_resnet26"], **options})
