from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

import nf_zoo
from nf_zoo.models.classifier import build_model, variable_names
from nf_zoo.models.registry import architectures

TINY = {"depths": (1, 2, 1, 1), "widths": (8, 16, 16, 16), "stem_width": 8}
NETWORKS = {
    "norm_free": ("nf_resnet10", {}),
    "paper": ("nf_resnet10", {"variant": "paper", "skip_gain": 0.3}),
    "squeeze_excite": ("nf_seresnet26", {"zero_init_gain": False}),
    "eca": ("nf_ecaresnet26", {"activation": "silu"}),
    "v1": ("resnet26", {"stochastic_depth_rate": 0.5}),
    "v2": ("resnetv2_50d", {"drop_rate": 0.5}),
}


def tiny(kind: str, **options):
    name, fields = NETWORKS[kind]
    model = build_model(name, **{"num_classes": 5, **TINY, **fields, **options})
    for index, variable in enumerate(variable_names(model).values()):
        draw = np.random.default_rng(index).standard_normal(tuple(variable.shape))
        variable.assign(np.abs(draw) + 0.5 if "variance" in variable.path else 0.5 * draw)
    return model


def images(channels=3, count=2):
    generator = np.random.default_rng(0)
    return generator.standard_normal((count, 33, 40, channels)).astype("float32")


def same(a, b):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("kind", NETWORKS)
def test_weights_survive_every_round_trip(kind, tmp_path):
    model = tiny(kind)
    expected = model(images(), training=False)

    model.save(tmp_path / "model.keras")
    same(keras.models.load_model(tmp_path / "model.keras")(images(), training=False), expected)

    model.save_weights(tmp_path / "model.weights.h5")
    fresh = type(model).from_config(model.get_config())
    assert not np.array_equal(fresh(images(), training=False), expected)
    fresh.load_weights(tmp_path / "model.weights.h5")
    same(fresh(images(), training=False), expected)

    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    same(clone(images(), training=False), expected)
    for ours, theirs in zip(model.layers, clone.layers, strict=True):
        assert ours.get_config() == theirs.get_config()


@pytest.mark.fast
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_block_merges_its_two_halves(kind):
    model = tiny(kind)
    for block in model.blocks:
        x = np.random.default_rng(1).standard_normal((2, 8, 9, block.input.shape[-1]))
        x = x.astype("float32")
        residual, shortcut = block.halves(x)
        gain = getattr(block, "skip_gain", None)
        scale = getattr(block, "alpha", 1.0) * (1.0 if gain is None else float(gain.gain))
        merged = np.asarray(residual) * scale + np.asarray(shortcut)
        if kind == "v1":
            merged = np.maximum(merged, 0)
        np.testing.assert_allclose(block(x, training=False), merged, rtol=2e-4, atol=2e-4)
        assert tuple(block.compute_output_shape(x.shape)) == residual.shape == shortcut.shape


@pytest.mark.parametrize("kind", NETWORKS)
def test_published_names_are_unique_and_in_house_style(kind):
    model = tiny(kind)
    names = variable_names(model)
    assert len(names) == len([v for v in model.variables if "seed" not in v.path])
    assert "stage2/block1/conv1/kernel" in names and "head/bias" in names
    assert names["stage2/block1/conv1/kernel"].shape[-1] in (4, 16)
    roots = {name.split("/")[0] for name in names}
    assert roots <= {"stem", "stage1", "stage2", "stage3", "stage4", "final_norm", "head"}


def test_only_weights_have_gradients_to_take():
    model = tiny("paper")
    assert {v.path.rpartition("/")[2] for v in model.trainable_variables} == {
        "kernel",
        "bias",
        "gain",
    }


def test_branches_are_silent_at_initialization():
    for options in ({}, {"variant": "paper"}):
        model = build_model("nf_resnet26", num_classes=2, **{**TINY, **options})
        block = model.blocks[1]
        x = np.random.default_rng(0).standard_normal((1, 8, 8, 8)).astype("float32")
        np.testing.assert_allclose(block(x), block.halves(x)[1], atol=1e-6)


def test_preprocessing_inside_the_graph():
    outside, inside = tiny("norm_free"), tiny("norm_free", include_preprocessing=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype="uint8")
    recipe = outside.preprocessing
    normalized = (pixels / 255.0 - recipe.mean) / recipe.std
    np.testing.assert_allclose(
        inside(pixels.astype("float32")),
        outside(normalized.astype("float32")),
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_graph_that_normalizes_keeps_its_mean(tmp_path):
    model = tiny("norm_free", include_preprocessing=True)
    model.preprocessing = dataclasses.replace(model.preprocessing, crop_fraction=1.0)
    with pytest.raises(ValueError, match=r"with_classifier.*mean=\(0\.1, 0\.2, 0\.3\)"):
        model.preprocessing = nf_zoo.Preprocessing(mean=(0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match="each of the 5 classes"):
        model.labels = ("one",)
    model.labels = range(5)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.labels == ("0", "1", "2", "3", "4") and again.preprocessing.crop_fraction == 1.0


def test_a_linear_activation_gives_logits():
    model = tiny("norm_free", classifier_activation="linear")
    assert model.classifier_activation is None
    same(model(images()), tiny("norm_free")(images()))


def test_preprocess_is_what_the_model_takes():
    model = tiny("v2", preprocessing={"input_size": (32, 32), "mean": (0.5,) * 3})
    assert model.preprocess(np.zeros((50, 60, 3), "uint8")).shape == (1, 32, 32, 3)
    assert nf_zoo.preprocess(np.zeros((50, 60, 3), "uint8"), model).min() < -1


def test_pooled_features_and_softmax():
    assert tiny("norm_free", num_classes=0).output_shape == (None, 16)
    probabilities = tiny("norm_free", classifier_activation="softmax")(images())
    np.testing.assert_allclose(np.sum(probabilities, -1), 1, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 6])
def test_other_channels(channels):
    model = tiny("v1", input_shape=(None, None, channels), include_preprocessing=True)
    assert model(images(channels)).shape == (2, 5)


def test_with_classifier_keeps_the_body():
    model = tiny("eca", drop_rate=0.2)
    other = model.with_classifier(2, labels=("cat", "dog"), preprocessing={"input_size": 48})
    assert other.labels == ("cat", "dog") and other.preprocessing.input_size == (48, 48)
    assert other.config == model.config and other.output_shape == (None, 2)
    mine, theirs = variable_names(model), variable_names(other)
    for name in mine:
        if not name.startswith("head/"):
            same(mine[name], theirs[name])
    with pytest.raises(ValueError, match=r"must leave the body as it is: stage1/block1.*'widths'"):
        model.with_classifier(2, widths=(16, 16, 16, 16))


def test_with_classifier_returns_features_too():
    model = tiny("v2")
    pooled = model.with_classifier(0)
    assert pooled.head is None
    for other in (model.with_feature_maps(), model.with_classifier(0, pooling=None)):
        assert other.with_classifier(0).output_shape == pooled.output_shape


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("kind", ["norm_free", "v2"])
def test_mixed_precision_trains_and_saves(kind, policy, tmp_path):
    name, fields = NETWORKS[kind]
    model = build_model(name, num_classes=3, dtype=policy, **{**TINY, **fields})
    assert keras.config.dtype_policy().name == "float32"
    assert model.blocks[0].compute_dtype == policy.removeprefix("mixed_")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss)
    history = model.fit(images(count=8), np.arange(8) % 3, epochs=4, verbose=0).history
    assert np.all(np.isfinite(history["loss"]))
    assert model(images()).dtype == "float32"
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.blocks[0].compute_dtype == policy.removeprefix("mixed_")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"depths": (1, 1)}, ValueError, r"widths must be one per stage, 2 .*Received"),
        ({"depths": (1, 0, 1, 1)}, ValueError, r"depths must be .*Received: depths=\(1, 0, 1, 1\)"),
        ({"padding": "zero"}, ValueError, r"padding must be one of .*'zero'"),
        ({"drop_rate": 1.5}, ValueError, r"drop_rate must be a probability .*1\.5"),
        ({"dropout": 0.1}, TypeError, r"no field dropout.*drop_rate"),
        ({"variant": "papre"}, ValueError, r"variant must be None or 'paper'.*'papre'"),
        ({"activation": "rleu"}, ValueError, r"Unknown activation.*'rleu'"),
        ({"num_classes": -1}, ValueError, r"num_classes .*Received: -1"),
        ({"labels": ("a",)}, ValueError, r"labels must name each of the 5 .*1 labels"),
        ({"labels": ("a\nb", *"cdef")}, ValueError, r"text of one line.*Received: a\\nb"),
        ({"labels": "abcde"}, ValueError, r"labels must be a list.*Received: 'abcde'"),
        ({"classifier_activation": "relu"}, ValueError, r"None for logits.*Received: 'relu'"),
        ({"input_shape": (32, 32)}, ValueError, r"input_shape must be .*\(32, 32\)"),
    ],
)
def test_bad_input_fails_at_construction(options, error, match):
    with pytest.raises(error, match=match):
        build_model("nf_resnet10", **{"num_classes": 5, **TINY, **options})


def test_rows_differ_from_one_another():
    configs = [(row.family, row.config) for row in architectures().values()]
    assert len(set(configs)) == len(configs)


@pytest.mark.parametrize("name", ["nf_resnet152", "nf_resnet200", "nf_resnet288", "nf_resnet600"])
def test_depths_of_the_paper(name):
    depths = {"152": 3 + 8 + 36 + 3, "200": 3 + 24 + 36 + 3, "288": 96, "600": 200}
    size = name.removeprefix("nf_resnet")
    assert sum(architectures()[name].config.depths) == depths[size]


@pytest.mark.parametrize(("last", "rates"), [(True, [0, 0.1, 0.2, 0.3, 0.4]), (False, None)])
def test_stochastic_depth_grows_with_depth(last, rates):
    model = build_model(
        "nf_resnet10",
        num_classes=2,
        stochastic_depth_rate=0.4,
        stochastic_depth_last=last,
        stochastic_depth_rescale=False,
        **TINY,
    )
    expected = rates or [0, 0.08, 0.16, 0.24, 0.32]
    layers = [block.stochastic_depth for block in model.blocks]
    assert [layer.rate for layer in layers] == pytest.approx(expected)
    assert not any(layer.rescale for layer in layers)


@pytest.mark.parametrize("labels", [{0: "cat", 1: "dog"}, {"cat", "dog"}, iter(["cat", "dog"])])
def test_class_names_have_an_order(labels):
    with pytest.raises(ValueError, match="labels must be a list of class names, in the order"):
        build_model("wide_resnet10_1", labels=labels)


def test_maps_are_chosen_by_a_range():
    model = build_model("wide_resnet10_1", widths=(4, 4, 8), num_classes=0)
    assert len(model.with_feature_maps(range(3)).outputs) == 3


@pytest.mark.parametrize("options", [{"features_only": True}, {"pooling": None}])
def test_a_network_without_pooled_features_gets_a_classifier(options):
    model = build_model("wide_resnet10_1", widths=(4, 4, 8), num_classes=0, **options)
    fitted = model.with_classifier(7, dtype="float32")
    assert fitted.output_shape == (None, 7) and fitted.get_layer("pool") is not None
    maps = np.ones((1, 16, 16, 3), "float32")
    np.testing.assert_array_equal(fitted.layers[1](maps), model.layers[1](maps))
