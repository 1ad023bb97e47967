"""Folded networks compute what they were folded from, with nothing left that could have gone."""

from __future__ import annotations

import inspect
import json

import keras
import numpy as np
import pytest
import tiny_networks
from PIL import Image
from programs import succeed
from tiny_networks import difference

import nf_zoo
from nf_zoo import functional, layers
from nf_zoo.deploy.folded import FoldedModel
from nf_zoo.models.classifier import build_model, variable_names

SMALL = {**tiny_networks.SMALL, "num_classes": 3}
WIDE = ("nf", "bn", "skipinit", "skipinit_1/sqrt(d)", "divide_sqrt2", "fixup", "none")
PLAIN = (
    *(layers.Conv2D, layers.MaxPool2D, layers.DilatedAveragePool2D),
    *(layers.Rectifier, layers.ScaledActivation),
)


def filled(name: str, **options):
    return tiny_networks.fill(build_model(name, **options), "fold")


def gap(folded, model, size=(47, 64)) -> float:
    """The largest difference of any output, as a share of the largest expected value."""
    pictures = tiny_networks.images(2, size)
    found, expected = (keras.tree.flatten(m(pictures)) for m in (folded, model))
    assert len(found) == len(expected)
    return max(
        difference(np.asarray(a, "float32"), np.asarray(b, "float32"))
        for a, b in zip(found, expected, strict=True)
    )


def kinds(folded) -> set[str]:
    return {type(layer).__name__ for layer in folded.layers}


@pytest.mark.fast
@pytest.mark.parametrize("label", tiny_networks.NETWORKS)
def test_every_family(label):
    model = tiny_networks.filled(label, "fold")
    before = {name: keras.ops.convert_to_numpy(v) for name, v in variable_names(model).items()}
    folded = nf_zoo.fold(model)
    assert gap(folded, model) <= 1e-5 and gap(folded, model, (32, 33)) <= 1e-5
    for layer in folded.layers:
        own = type(layer).__module__.startswith("nf_zoo")
        assert not own or isinstance(layer, PLAIN) or layer.name in folded.remaining, layer
    assert (folded.name, folded.input_shape) == (model.name, model.input_shape)
    assert folded.output_shape == model.output_shape
    for name, variable in variable_names(model).items():
        np.testing.assert_array_equal(variable, before[name])


@pytest.mark.parametrize("label", tiny_networks.NETWORKS)
def test_what_remains(label):
    remaining = nf_zoo.fold(tiny_networks.filled(label, "fold")).remaining
    if label.endswith("paper"):
        assert remaining == {"pool": "one scale"}
    elif label == "fixup_resnet":
        assert set(remaining.values()) == {"one offset"} and len(remaining) == 3
    elif label in ("resnet_v2", "wide_resnet_bn"):
        assert remaining.pop("pool") == "per channel scale"
        assert set(remaining.values()) == {"per channel offset"}
        assert {name.split("_")[-2] for name in remaining} <= {"norm1", "norm"}
    else:
        assert remaining == {}


@pytest.mark.parametrize("scheme", WIDE)
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_wide_resnets(scheme, activation):
    model = filled("wide_resnet10_1", scheme=scheme, activation=activation, **SMALL)
    folded = nf_zoo.fold(model)
    assert gap(folded, model, (32, 32)) <= 1e-5
    if activation == "relu" and scheme not in ("bn", "fixup"):
        assert not [name for name in folded.remaining if name != "pool"]


@pytest.mark.parametrize("label", ["nf_resnet", "nfnet", "fixup_resnet", "resnet_v2"])
@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 0},
        {"num_classes": 0, "pooling": "max"},
        {"num_classes": 0, "pooling": None},
        {"num_classes": 0, "features_only": True},
        {"num_classes": 0, "features_only": True, "out_indices": (0,)},
        {"output_stride": 8},
        {"include_preprocessing": True},
        {"classifier_activation": "softmax"},
        {"input_shape": (None, None, 3), "drop_rate": 0.5, "stochastic_depth_rate": 0.5},
    ],
    ids=str,
)
def test_every_graph(label, options):
    name, fields = tiny_networks.NETWORKS[label]
    model = filled(name, **{"num_classes": 3, **fields, **options})
    folded = nf_zoo.fold(model)
    assert gap(folded, model) <= 1e-5
    assert isinstance(folded(tiny_networks.images()), list) == isinstance(
        model(tiny_networks.images()), list
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nf_resnet26", {"activation": "gelu", "gamma_in": "activation"}),
        ("nf_resnet26", {"activation": "leaky_relu", "gamma_in": "activation"}),
        ("nf_resnet26", {"activation": "mish"}),
        ("nf_resnet26", {"padding": "reflect"}),
        ("nf_resnet26", {"padding": "same", "shortcut": "strided"}),
        ("nf_resnet26", {"standardize": False, "rescale": False, "gamma_in": None}),
        ("nf_ecaresnet26", {"skip_gain": 0.3, "activation": "gelu_tanh"}),
        ("nf_seresnet26", {"block": "basic", "stem": "3x3", "alpha": 0.7}),
        ("nf_resnet26", {"input_shape": (None, None, 1)}),
        ("skipinit_resnet50", {"activation": "silu", "shortcut": "average_pool"}),
        ("fixup_resnet50", {"block": "basic", "activation": "silu"}),
        ("resnet26", {"block": "basic"}),
        ("resnetv2_50", {"activation_first": True}),
        ("resnetv2_50", {"activation": "silu", "stem": "3x3"}),
        ("resnetv2_50", {"variant": "paper"}),
    ],
    ids=str,
)
def test_every_variant(name, options):
    model = filled(name, **{**SMALL, "stem_width": 8, **options})
    folded = nf_zoo.fold(model)
    pictures = tiny_networks.images(2, (47, 64))[..., : model.input_shape[-1]]
    assert difference(np.asarray(folded(pictures)), np.asarray(model(pictures))) <= 1e-5


@pytest.mark.fast
@pytest.mark.parametrize("label", ["nf_resnet_paper", "nfnet_eca_paper", "resnet", "resnet_v2"])
def test_zero_and_negative_gains(label):
    model = tiny_networks.filled(label, "fold")
    for name, variable in variable_names(model).items():
        if name.endswith(("gain", "gamma")):
            value = np.array(keras.ops.convert_to_numpy(variable))
            value.flat[::2] = 0.0
            value.flat[1::4] *= -1
            variable.assign(value)
    folded = nf_zoo.fold(model)
    assert all(np.all(np.isfinite(weight)) for weight in folded.get_weights())
    assert gap(folded, model) <= 1e-5


@pytest.mark.fast
def test_tiny_factors_stay_in_range():
    model = tiny_networks.filled("nfnet_eca_paper", "fold")
    for name, variable in variable_names(model).items():
        if name.endswith("skip_gain/gain"):
            variable.assign(1e-30)
    folded = nf_zoo.fold(model)
    assert max(np.abs(weight).max() for weight in folded.get_weights()) < 1e4
    assert gap(folded, model) <= 1e-5
    assert set(folded.remaining.values()) == {"one scale"}
    assert len(folded.remaining) == 1 + len(model.blocks)


def test_many_halved_variances_stay_in_range():
    """Each of these merges divides by sqrt(2): all together by 2 ** 40."""
    fields = {"depths": (40, 40), "widths": (4, 4), "scheme": "divide_sqrt2"}
    model = filled("wide_resnet10_1", num_classes=3, **fields)
    folded = nf_zoo.fold(model)
    assert all(np.all(np.isfinite(weight)) for weight in folded.get_weights())
    assert 0 < len(folded.remaining) < 10
    assert gap(folded, model, (8, 8)) <= 1e-5


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("label", ["nf_resnet_paper", "nf_regnet", "nfnet", "resnet_v2"])
def test_half_precision(label, policy):
    model = tiny_networks.fill(tiny_networks.build(label, dtype=policy), "fold")
    folded = nf_zoo.fold(model)
    # Two orders of the same roundings differ by as much as either differs from float32.
    exact = tiny_networks.filled(label, "fold")(tiny_networks.images())
    found, own = (difference(np.asarray(m(tiny_networks.images())), exact) for m in (folded, model))
    assert found <= max(3 * own, 0.01)
    assert {layer.compute_dtype for layer in folded.layers if "conv" in layer.name} == {
        policy.removeprefix("mixed_")
    }
    assert all(weight.dtype == "float32" for weight in folded.weights)


@pytest.mark.fast
@pytest.mark.parametrize("label", ["nf_regnet", "nfnet_eca_paper", "resnet_v2"])
def test_double_precision(label):
    model = tiny_networks.fill(tiny_networks.build(label, dtype="float64"), "fold")
    found, expected = (np.asarray(m(tiny_networks.images())) for m in (nf_zoo.fold(model), model))
    assert found.dtype == "float64"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.fast
@pytest.mark.parametrize("label", ["nf_resnet", "nfnet_eca_paper", "resnet_v2"])
def test_half_precision_on_demand(label):
    model = tiny_networks.filled(label, "fold")
    folded = nf_zoo.fold(model, dtype="mixed_bfloat16")
    kinds = {layer.name: layer.compute_dtype for layer in folded.layers}
    assert kinds.pop("head") == "float32" and kinds.pop("images") == "float32"
    assert set(kinds.values()) == {"bfloat16"}
    assert 1e-5 < gap(folded, model) < 0.05
    with pytest.raises(ValueError, match=r"dtype must be chosen when.*dtype='float32'"):
        nf_zoo.fold(folded, dtype="float32")


@pytest.mark.fast
@pytest.mark.slow
def test_what_it_knows_and_how_it_is_saved(tmp_path):
    labels = ("cat", "dog", "bird")
    preprocessing = nf_zoo.Preprocessing(40)
    name, fields = tiny_networks.NETWORKS["nfnet_eca_paper"]
    options = {"labels": labels, "preprocessing": preprocessing, "weights_tag": "mine", **fields}
    model = filled(name, model_name="pets", **options)
    folded = nf_zoo.fold(model)
    folded.save(tmp_path / "folded.keras")
    again = keras.models.load_model(tmp_path / "folded.keras")
    for each in (folded, again):
        assert isinstance(each, FoldedModel) and each.name == "pets"
        assert (each.labels, each.preprocessing) == (labels, preprocessing)
        assert (each.architecture, each.num_classes, each.weights_tag) == (name, 3, "mine")
        assert each.remaining == {"pool": "one scale"}
        assert each.folded_from["class"] == "ImageClassifier"
        origin = nf_zoo.create_model(
            each.folded_from["architecture"], **each.folded_from["options"]
        )
        assert variable_names(origin).keys() == variable_names(model).keys()
        pixels = each.preprocess([np.zeros((50, 60, 3), "uint8")])
        assert nf_zoo.decode_predictions(each.predict(pixels, verbose=0), labels=each)
    pictures = tiny_networks.images()
    np.testing.assert_array_equal(again(pictures), folded(pictures))


@pytest.mark.fast
def test_folding_twice_changes_nothing():
    folded = nf_zoo.fold(tiny_networks.filled("nf_resnet", "fold"))
    assert nf_zoo.fold(folded) is folded


@pytest.mark.fast
def test_a_clone_can_be_saved(tmp_path):
    clone = keras.models.clone_model(nf_zoo.fold(tiny_networks.build("nf_resnet")))
    clone.save(tmp_path / "clone.keras")
    assert isinstance(keras.saving.load_model(tmp_path / "clone.keras"), FoldedModel)


def test_training_is_refused(tmp_path):
    folded = nf_zoo.fold(tiny_networks.filled("nf_resnet", "fold"))
    folded.save(tmp_path / "folded.keras")
    for model in (folded, keras.models.load_model(tmp_path / "folded.keras")):
        assert model.trainable_variables == []
        model.compile("sgd", "mse")
        pictures, targets = tiny_networks.images(), np.zeros((2, 5), "float32")
        with pytest.raises(RuntimeError, match=r"cannot be trained.*ImageClassifier 'nf_resnet26'"):
            model.fit(pictures, targets)
        with pytest.raises(RuntimeError, match="cannot be trained"):
            model.train_on_batch(pictures, targets)
        with pytest.raises(RuntimeError, match="cannot be trained"):
            model.with_classifier(2)
        with pytest.raises(ValueError, match=r"model\.save"):
            nf_zoo.save_pretrained(model, tmp_path / "weights")
        assert np.isfinite(model.evaluate(pictures, targets, verbose=0))


@pytest.mark.fast
@pytest.mark.slow
def test_pooled_features_are_the_same():
    for label in ("nfnet_eca_paper", "fixup_resnet", "resnet_v2", "skipinit_resnet"):
        model = tiny_networks.filled(label, "fold")
        pooled = [
            keras.Model(m.inputs, m.get_layer("pool").output) for m in (nf_zoo.fold(model), model)
        ]
        assert gap(*pooled) <= 1e-5


@pytest.mark.fast
def test_a_head_of_ones_own():
    trunk = tiny_networks.filled("nf_resnet_paper", "fold")
    x = keras.layers.Dropout(0.3)(trunk.get_layer("pool").output)
    x = keras.layers.Dense(7, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    model = keras.Model(trunk.inputs, [keras.layers.Dense(2)(x), trunk.output])
    folded = nf_zoo.fold(model)
    assert gap(folded, model) <= 1e-5 and folded.architecture is None
    assert kinds(folded).isdisjoint({"BatchNormalization", "Dropout"})


@pytest.mark.fast
@pytest.mark.parametrize("sequential", [True, False])
def test_a_network_inside_another(sequential):
    trunk = tiny_networks.fill(tiny_networks.build("nfnet", num_classes=0), "fold")
    inputs = keras.Input((None, None, 3))
    if sequential:
        model = keras.Sequential([inputs, keras.layers.Rescaling(0.5), trunk])
        model.add(keras.layers.Dense(4))
    else:
        both = keras.ops.concatenate([trunk(inputs), trunk(inputs * 0.5)], -1)
        model = keras.Model(inputs, {"classes": keras.layers.Dense(4)(both)})
    folded = nf_zoo.fold(model)
    assert gap(folded, model) <= 1e-5
    assert isinstance(folded(tiny_networks.images()), dict) != sequential


@pytest.mark.fast
@pytest.mark.slow
def test_keras_networks():
    model = keras.applications.MobileNetV2((64, 64, 3), 0.35, weights=None, classes=4)
    for index, variable in enumerate(model.weights):
        draw = np.random.default_rng(index).standard_normal(variable.shape)
        variable.assign(0.2 * draw + ("gamma" in variable.path or "variance" in variable.path))
        if "variance" in variable.path:
            variable.assign(np.abs(variable) + 0.1)
    folded = nf_zoo.fold(model)
    assert gap(folded, model, (64, 64)) <= 1e-5


def tripled(x, power):
    return 3 * x**power


KEPT = {
    "depthwise": lambda x: keras.layers.DepthwiseConv2D(3, 2, "same", depth_multiplier=2)(x),
    "separable": lambda x: keras.layers.SeparableConv2D(6, 3, activation="relu")(x),
    "transposed": lambda x: keras.layers.Conv2DTranspose(6, 3, 2)(x),
    "upsampling": lambda x: keras.layers.UpSampling2D(2)(x),
    "layer norm": lambda x: keras.layers.LayerNormalization()(x),
    "dense maps": lambda x: keras.layers.Dense(6, activation="silu")(x),
    "lambda": lambda x: keras.layers.Lambda(tripled, arguments={"power": 2})(x),
    "constants": lambda x: keras.ops.maximum(1.0 - x * np.arange(4.0) / 2, 0.0) - 0.5,
    "several outputs": lambda x: keras.layers.Concatenate()(keras.ops.split(x, 2, -1)[::-1]),
    "pixel statistics": lambda x: adapted(keras.layers.Normalization(axis=(1, 2, 3)), x),
}


def adapted(layer, x):
    layer.build(x.shape)
    layer.adapt(3 + 2 * np.random.default_rng(0).standard_normal((9, *x.shape[1:])))
    return layer(x)


@pytest.mark.fast
@pytest.mark.parametrize("kind", KEPT)
def test_what_stands_between_convolutions_stays(kind):
    """Nothing moves through it, and it comes out as it went in."""
    inputs = keras.Input((20, 24, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs))
    x = keras.layers.BatchNormalization()(KEPT[kind](x))
    model = keras.Model(inputs, keras.layers.Conv2D(5, 3, padding="same")(x))
    for index, weight in enumerate(model.trainable_weights):
        weight.assign(np.random.default_rng(index).standard_normal(weight.shape))
    folded = nf_zoo.fold(model)
    assert gap(folded, model, (20, 24)) <= 1e-5
    assert "BatchNormalization" not in kinds(folded)


STANDARDIZED = {
    "depthwise": lambda: nf_zoo.layers.ScaledWSDepthwiseConv2D(3, 2, gamma=1.7, strides=2),
    "depthwise symmetric": lambda: nf_zoo.layers.ScaledWSDepthwiseConv2D(
        (5, 3), strides=2, padding="symmetric"
    ),
    "depthwise reflect": lambda: nf_zoo.layers.ScaledWSDepthwiseConv2D(3, padding="reflect"),
    "not square": lambda: nf_zoo.layers.ScaledWSConv2D(6, (1, 7), padding="symmetric"),
    "not square grouped": lambda: nf_zoo.layers.ScaledWSConv2D(6, (3, 1), strides=2, groups=2),
    "dense maps": lambda: nf_zoo.layers.ScaledWSDense(6, gamma=1.7),
}


@pytest.mark.fast
@pytest.mark.parametrize("kind", STANDARDIZED)
def test_standardized_layers_become_plain_ones(kind):
    """Norms on both sides go into them."""
    inputs = keras.Input((20, 24, 4))
    own = {"moving_mean_initializer": "random_normal", "gamma_initializer": "random_normal"}
    x = keras.layers.BatchNormalization(center=False)(inputs)
    x = keras.layers.BatchNormalization(**own)(STANDARDIZED[kind]()(x))
    model = keras.Model(inputs, x)
    for index, weight in enumerate(model.trainable_weights):
        weight.assign(np.random.default_rng(index).standard_normal(weight.shape))
    folded = nf_zoo.fold(model)
    pixels = np.random.default_rng(0).standard_normal((2, 20, 24, 4)).astype("float32")
    expected = np.asarray(model(pixels))
    assert np.abs(folded(pixels) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert kinds(folded) <= {"InputLayer", "ZeroPadding2D", "Conv2D", "DepthwiseConv2D", "Dense"}
    assert folded.remaining == {}


@pytest.mark.fast
@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.BatchNormalization(axis=3, moving_mean_initializer="random_normal"),
        keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0]),
        keras.layers.Normalization(axis=None, mean=1.0, variance=4.0, invert=True),
        keras.layers.Rescaling([1.0, 2.0, 3.0], offset=0.5),
    ],
    ids=lambda layer: layer.name,
)
def test_affine_layers_go_into_the_convolution(layer):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3)(layer(inputs)))
    folded = nf_zoo.fold(model)
    assert gap(folded, model) <= 1e-5
    assert kinds(folded) == {"InputLayer", "Conv2D"} and folded.remaining == {}


RATE, FACTOR = {"rate": 0.3}, {"factor": 0.3}
OPTIONS = {
    **dict.fromkeys(("Dropout", "SpatialDropout2D", "AlphaDropout", "GaussianDropout"), RATE),
    **dict.fromkeys(("RandomBrightness", "RandomContrast", "RandomRotation"), FACTOR),
    **dict.fromkeys(("RandomColorDegeneration", "RandomHue", "RandomSaturation"), FACTOR),
    "RandomSharpness": FACTOR,
    "GaussianNoise": {"stddev": 0.3},
    "RandomPosterization": {"factor": 3},
    "RandomShear": {"x_factor": 0.2},
    "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
    "RandomZoom": {"height_factor": 0.2},
}


@pytest.mark.parametrize("kind", functional.TRAINING)
def test_a_layer_that_does_something_in_training_alone_is_gone(kind):
    """Also where it was called with ``training=True``: a model that predicts overrules it."""
    inputs = keras.Input((24, 24, 3))
    pixels = 0.5 + 0.1 * tiny_networks.images(2, (24, 24))
    layer = kind(**OPTIONS.get(kind.__name__, {}))
    takes_training = "training" in inspect.signature(layer.call).parameters
    for call in ({}, {"training": True}) if takes_training else ({},):
        x = layer(inputs, **call)
        model = keras.Model(inputs, keras.layers.Conv2D(4, 3)(x))
        folded = nf_zoo.fold(model)
        assert kinds(folded) == {"InputLayer", "Conv2D"}
        np.testing.assert_allclose(folded(pixels), model.predict(pixels, verbose=0), atol=1e-5)


@pytest.mark.fast
def test_names_of_nested_models():
    body = tiny_networks.build("nf_resnet", num_classes=0)
    inner = keras.Sequential([body, keras.layers.Dense(4, name="dense")], name="inner")
    inputs = keras.Input((None, None, 3))
    joined = keras.layers.Add(name="add")([inner(inputs), inner(-inputs)])
    model = keras.Model(inputs, keras.layers.Dense(3, name="dense")(joined))
    folded = nf_zoo.fold(model)
    names = [layer.name for layer in folded.layers]
    assert len(set(names)) == len(names)
    assert {"inner_dense", "inner_dense_2", "dense", f"inner_{body.name}_stem_conv"} <= set(names)
    assert gap(folded, model) <= 1e-5


@keras.saving.register_keras_serializable("tests")
class Doubling(keras.layers.Layer):
    def call(self, x):
        return 2 * x


@pytest.mark.fast
def test_unknown_layers_are_named_or_kept():
    trunk = tiny_networks.filled("nf_resnet", "fold")
    x = Doubling(name="twice")(trunk.get_layer("stage1_block1").output)
    model = keras.Model(trunk.inputs, Doubling(name="again")(keras.layers.Conv2D(4, 3)(x)))
    with pytest.raises(ValueError, match=r"allow_unfolded=True.*'twice' \(Doubling\), 'again'"):
        nf_zoo.fold(model)
    folded = nf_zoo.fold(model, allow_unfolded=True)
    assert gap(folded, model) <= 1e-5
    assert set(folded.remaining) == {"twice", "again"}


def test_a_layer_around_a_network_is_named():
    trunk = tiny_networks.filled("nf_resnet", "fold")
    inputs = keras.Input((2, 32, 32, 3))
    model = keras.Model(inputs, keras.layers.TimeDistributed(trunk, name="frames")(inputs))
    folded = nf_zoo.fold(model)
    assert "folding does not know" in folded.remaining["frames"]
    pictures = np.stack([tiny_networks.images(2, (32, 32))] * 2)
    np.testing.assert_allclose(folded(pictures), model(pictures), atol=1e-5)


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantized_layers_are_named(tmp_path):
    model = tiny_networks.build("nf_resnet_paper")
    folded = nf_zoo.fold(model)
    folded.quantize("int8")
    with pytest.raises(ValueError, match=r"precision='int8'.*quantized layers .*'head'"):
        nf_zoo.fold(folded)
    model.quantize("int8")
    for refused in (
        lambda: nf_zoo.fold(model),
        lambda: nf_zoo.export_onnx(model, tmp_path / "model.onnx"),
        lambda: nf_zoo.export_saved_model(model, tmp_path / "saved_model"),
    ):
        with pytest.raises(ValueError, match=r"precision='int8'.*quantized layers .*'head'"):
            refused()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fast
def test_lora_is_folded_in():
    model = tiny_networks.filled("nf_resnet", "lora")
    model.head.enable_lora(2)
    model.head.lora_kernel_b.assign(np.ones(model.head.lora_kernel_b.shape))
    pixels = tiny_networks.images(1)
    assert difference(np.asarray(nf_zoo.fold(model)(pixels)), np.asarray(model(pixels))) < 1e-5


@pytest.mark.fast
def test_a_model_without_a_graph_is_refused():
    with pytest.raises(ValueError, match=r"functional or Sequential.*Subclassed 'mine'"):
        nf_zoo.fold(Subclassed(name="mine"))


def test_the_command_takes_a_folded_file(tmp_path):
    name, fields = tiny_networks.NETWORKS["nfnet"]
    model = filled(name, labels=("cat", "dog"), preprocessing={"input_size": [32, 32]}, **fields)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype="uint8")
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    nf_zoo.fold(model).save(tmp_path / "folded.keras")
    script = "from nf_zoo.cli import main; raise SystemExit(main())"
    done = succeed(script, "predict", "folded.keras", "picture.png", "--json", cwd=tmp_path)
    said = json.loads(done.stdout)[0]["predictions"]
    logits = model.predict(model.preprocess(tmp_path / "picture.png"), verbose=0)
    decoded = nf_zoo.decode_predictions(logits, labels=model)[0]
    for found, expected in zip(said, decoded, strict=True):
        assert found["name"] == expected.name
        assert found["probability"] == pytest.approx(expected.probability, abs=1e-4)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_sum_that_repeats_a_channel(channels):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.ReLU()(keras.layers.Conv2D(4, 3, padding="same")(inputs))
    x = keras.layers.BatchNormalization(gamma_initializer="uniform", beta_initializer="uniform")(x)
    y = keras.layers.Conv2D(channels, 3, padding="same")(inputs)
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1)(keras.layers.Add()([x, y])))
    pixels = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(nf_zoo.fold(model)(pixels), model(pixels), atol=1e-5)


@pytest.mark.fast
def test_a_nested_model_finds_its_inputs_by_name():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    inner = keras.Model([b, a], keras.layers.Subtract()([b, a]))
    x, y, z = (keras.Input((4,), name=name) for name in "xyz")
    model = keras.Model([x, y, z], inner({"a": x, "b": y, "more": z}))
    given = [np.full((1, 4), value, "float32") for value in (1, 2, 3)]
    np.testing.assert_allclose(nf_zoo.fold(model)(given), model(given))


@pytest.mark.fast
def test_whole_numbers_enter_a_nested_model_as_floats():
    inputs = keras.Input((2, 2, 3))
    inner = keras.Model(inputs, (inputs - 128) / 64)
    pixels = keras.Input((2, 2, 3), dtype="uint8")
    model = keras.Model(pixels, inner(keras.layers.Reshape((2, 2, 3))(pixels)))
    given = np.full((1, 2, 2, 3), 100, "uint8")
    np.testing.assert_allclose(nf_zoo.fold(model)(given), model(given))


@pytest.mark.fast
def test_floats_enter_a_nested_model_of_whole_numbers_as_keras_cuts_them():
    inputs = keras.Input((2, 2, 3), dtype="uint8")
    inner = keras.Model(inputs, keras.layers.Rescaling(1 / 64)(inputs))
    pixels = keras.Input((2, 2, 3))
    model = keras.Model(pixels, inner(keras.layers.Reshape((2, 2, 3))(pixels)))
    given = np.full((1, 2, 2, 3), 100.7, "float32")
    np.testing.assert_allclose(nf_zoo.fold(model)(given), model(given))


@pytest.mark.fast
@pytest.mark.parametrize("channels", [1, 3])
def test_depthwise_kernels_with_strides_and_dilation_stay(channels, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((16, 16, channels)),
            keras.layers.DepthwiseConv2D(3, strides=2, dilation_rate=2, padding="same"),
            keras.layers.BatchNormalization(),
        ]
    )
    given = np.random.default_rng(0).standard_normal((2, 16, 16, channels)).astype("float32")
    np.testing.assert_allclose(nf_zoo.fold(model)(given), model(given), atol=1e-5)
    free = nf_zoo.normalizer_free(model)
    assert free(given).shape == model(given).shape
    with pytest.raises(ValueError, match="with strides and a dilation"):
        nf_zoo.export_onnx(model, tmp_path / "model.onnx")
