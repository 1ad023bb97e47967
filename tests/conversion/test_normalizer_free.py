from __future__ import annotations

import functools
import json

import batch_norm_networks as networks
import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_networks
from PIL import Image
from programs import succeed

import nf_zoo
from nf_zoo.models.norm_free import variance_ledger

LAYERS = keras.layers
ALPHA = 0.2


def converted(model, **options):
    """The network without norms; the original did not change."""
    weights, config = model.get_weights(), model.to_json()
    result = nf_zoo.normalizer_free(model, **options)
    assert model.to_json() == config
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not networks.norms_of(result)
    assert not {id(x) for x in result.variables} & {id(x) for x in model.variables}
    return result


def kinds(model) -> list[str]:
    return [type(layer).__name__ for layer in model.layers[1:]]


def normed(x, layer, activation="relu", name=None):
    x = LAYERS.BatchNormalization(name=name and f"{name}_norm")(layer(x))
    return LAYERS.Activation(activation, name=name)(x) if activation else x


def convolution(filters, size=3, **options):
    return LAYERS.Conv2D(filters, size, padding="same", use_bias=False, **options)


def preactivated(depths=(3, 3), width=32, side=16):
    """A pre-activation network, each stage of which begins with a projection."""
    x = inputs = LAYERS.Input((side, side, 3))
    x = convolution(width)(x)
    for stage, depth in enumerate(depths, start=1):
        for block in range(1, depth + 1):
            skip = x
            x = LAYERS.Activation("relu")(LAYERS.BatchNormalization()(x))
            skip = LAYERS.Conv2D(stage * width, 1)(x) if block == 1 else skip
            x = normed(x, convolution(width * stage))
            x = LAYERS.Conv2D(width * stage, 3, padding="same")(x)
            x = LAYERS.Add(name=f"sum{stage}_{block}")([skip, x])
    x = LAYERS.Activation("relu")(LAYERS.BatchNormalization()(x))
    return keras.Model(inputs, LAYERS.Dense(4)(LAYERS.GlobalAveragePooling2D()(x)))


def postactivated(depth=4, width=32):
    x = inputs = LAYERS.Input((16, 16, 3))
    x = normed(x, convolution(width))
    for block in range(depth):
        branch = normed(normed(x, convolution(width)), convolution(width), None)
        skip = normed(x, convolution(width, 1), None) if block == 0 else x
        x = LAYERS.ReLU()(LAYERS.Add(name=f"sum{block}")([skip, branch]))
    return keras.Model(inputs, LAYERS.Dense(4)(LAYERS.GlobalAveragePooling2D()(x)))


def inverted(depth=3, activation="silu"):
    """Depthwise convolutions and gates, as in EfficientNet."""
    x = inputs = LAYERS.Input((16, 16, 3))
    x = normed(x, convolution(16), activation)
    for block in range(depth):
        branch = normed(x, convolution(64, 1), activation)
        depthwise = LAYERS.DepthwiseConv2D(3, padding="same", use_bias=False)
        branch = normed(branch, depthwise, activation)
        gate = LAYERS.GlobalAveragePooling2D(keepdims=True)(branch)
        gate = LAYERS.Conv2D(4, 1, activation=activation)(gate)
        gate = LAYERS.Conv2D(64, 1, activation="sigmoid", name=f"gate{block}")(gate)
        branch = LAYERS.Multiply(name=f"gated{block}")([branch, gate])
        branch = normed(branch, convolution(16, 1), None)
        x = LAYERS.Add(name=f"sum{block}")([x, LAYERS.Dropout(0.2)(branch)])
    return keras.Model(inputs, LAYERS.Dense(4)(LAYERS.GlobalAveragePooling2D()(x)))


def dense_blocks(growth=12):
    x = inputs = LAYERS.Input((16, 16, 3))
    x = convolution(24)(x)
    for stage in range(2):
        for layer in range(4):
            new = LAYERS.Activation("relu")(LAYERS.BatchNormalization()(x))
            new = normed(new, convolution(4 * growth, 1))
            x = LAYERS.Concatenate(name=f"join{stage}_{layer}")([x, convolution(growth)(new)])
        x = LAYERS.Activation("relu")(LAYERS.BatchNormalization()(x))
        x = LAYERS.AveragePooling2D(2, name=f"pool{stage}")(convolution(24, 1)(x))
    x = LAYERS.Activation("relu")(LAYERS.BatchNormalization()(x))
    return keras.Model(inputs, LAYERS.Dense(4)(LAYERS.GlobalAveragePooling2D()(x)))


def several_ways(kind="Add", depth=3):
    """Sums of a tensor and all that is made from it, the branches with a factor of their own."""
    x = inputs = LAYERS.Input((16, 16, 3))
    x = normed(x, convolution(32), None)
    for block in range(depth):
        active = LAYERS.ReLU()(x)
        ways = [normed(active, convolution(32), None), normed(active, convolution(32), None)]
        ways[0] = LAYERS.Rescaling(0.1)(ways[0])
        ways = ways if kind == "Add" else ways[:1]
        x = getattr(LAYERS, kind)(name=f"sum{block}")([x, *ways])
    x = LAYERS.BatchNormalization(name="last")(x)
    return keras.Model(inputs, LAYERS.Dense(4)(LAYERS.GlobalAveragePooling2D()(x)))


def without_sums(depth=3):
    x = inputs = LAYERS.Input((16, 16, 3))
    for block in range(depth):
        x = LAYERS.MaxPooling2D(2)(normed(x, convolution(32)) if block else x)
    x = LAYERS.GlobalAveragePooling2D()(normed(x, convolution(64)))
    return keras.Model(inputs, LAYERS.Dense(4)(LAYERS.Dense(64, activation="relu")(x)))


TINY = {
    "several ways": several_ways,
    "differences": lambda: several_ways("Subtract"),
    "means": lambda: several_ways("Average", 2),
    "without sums": without_sums,
    "preactivated": preactivated,
    "postactivated": postactivated,
    "inverted": inverted,
    "dense blocks": dense_blocks,
    "unet": networks.unet,
}


def follows_its_ledger(result, factor, **options):
    signals = nf_zoo.signal_propagation(result, batch_size=8, seed=3, **options)
    assert signals.no_theory == "" and len(signals) > 0
    for row in signals:
        assert row.predicted_variance / factor < row.variance < row.predicted_variance * factor
    return signals


@pytest.mark.fast
@pytest.mark.parametrize("label", TINY)
def test_every_kind_of_network_follows_its_ledger(label):
    result = converted(TINY[label]())
    follows_its_ledger(result, 1.6)
    assert not nf_zoo.diagnose(result, batch_size=8)


@pytest.mark.fast
def test_a_preactivation_network_becomes_that_of_the_paper():
    """The factors and variances are those of the paper's ledger, down to the last."""
    result = converted(preactivated(), alpha=ALPHA)
    assert "Conv2D" not in kinds(result)
    ledger = variance_ledger((3, 3), ALPHA)
    names = [f"sum{stage}_{block}" for stage in (1, 2) for block in (1, 2, 3)]
    found = [result.ledger[name] for name in names]
    np.testing.assert_allclose(found, [row.after for row in ledger], rtol=1e-9)
    factors = [x.scale for x in result.layers if isinstance(x, LAYERS.Rescaling)]
    betas = [row.beta for row in ledger[1:]] + [ledger[-1].after ** -0.5]
    assert sorted(factors) == pytest.approx(sorted([ALPHA] * 6 + betas))
    for layer in result.layers:
        if isinstance(layer, nf_zoo.layers.ScaledActivation):
            assert layer.gamma == nf_zoo.layers.GAMMA["relu"]
        if isinstance(layer, nf_zoo.layers.ScaledWSConv2D):
            assert layer.gamma == 1.0 or (layer.kernel_size == 3 and 1.0 < layer.gamma < 1.1)


def one(*parts, shape=(8, 8, 16)):
    """A chain of layers and a norm at its end."""
    return keras.Sequential([LAYERS.Input(shape), *parts, LAYERS.BatchNormalization(name="norm")])


BEFORE_A_NORM = {
    "convolution": (lambda: LAYERS.Conv2D(6, (1, 3), 2), ["ScaledWSConv2D"]),
    "grouped": (lambda: LAYERS.Conv2D(8, 3, groups=2), ["ScaledWSConv2D"]),
    "dilated": (lambda: LAYERS.Conv2D(8, 3, dilation_rate=2), ["ScaledWSConv2D"]),
    "ours": (lambda: nf_zoo.layers.Conv2D(8, 3, padding="reflect"), ["ScaledWSConv2D"]),
    "activated": (
        lambda: LAYERS.Conv2D(64, 3, activation="relu"),
        ["ScaledWSConv2D", "ScaledActivation"],
    ),
    "depthwise": (lambda: LAYERS.DepthwiseConv2D(3, 2), ["ScaledWSDepthwiseConv2D"]),
    "separable": (
        lambda: LAYERS.SeparableConv2D(6, 3, depth_multiplier=2),
        ["ScaledWSDepthwiseConv2D", "ScaledWSConv2D"],
    ),
    "dense": (lambda: LAYERS.Dense(6), ["ScaledWSDense"]),
    "transposed": (lambda: LAYERS.Conv2DTranspose(6, 2, 2), ["Conv2DTranspose", "ChannelAffine"]),
    "uneven steps": (lambda: LAYERS.Conv2D(6, 3, (1, 2)), ["Conv2D", "ChannelAffine"]),
    "constrained": (
        lambda: LAYERS.Conv2D(6, 3, kernel_constraint="max_norm"),
        ["Conv2D", "ChannelAffine"],
    ),
    "single weights": (
        lambda: LAYERS.DepthwiseConv2D(1, name="one"),
        ["DepthwiseConv2D", "ChannelAffine"],
    ),
}


@pytest.mark.fast
@pytest.mark.parametrize("case", BEFORE_A_NORM)
def test_what_a_layer_before_a_norm_becomes(case):
    layer, expected = BEFORE_A_NORM[case]
    layer = layer()
    result = converted(one(layer))
    assert kinds(result) == expected
    assert layer.name in [x.name for x in result.layers]
    x = np.random.default_rng(5).standard_normal((16, 8, 8, 16)).astype("float32")
    assert 0.6 < np.var(np.asarray(result(x)), (0, 1, 2)).mean() < 1.6
    # What every channel of a norm could learn can be learned still.
    last = result.layers[-1] if case != "activated" else result.layers[-2]
    assert {"gain", "bias"} <= {v.name for v in last.variables} or expected[-1] == "ChannelAffine"


@pytest.mark.fast
def test_regularizers_come_along():
    layer = LAYERS.SeparableConv2D(
        6, 3, depthwise_regularizer="l2", pointwise_regularizer=keras.regularizers.L1(0.5)
    )
    result = converted(one(layer))
    assert len(result.losses) == 2
    assert isinstance(result.layers[-1].kernel_regularizer, keras.regularizers.L1)


@pytest.mark.fast
def test_a_gate_is_doubled_and_stays_plain():
    result = converted(inverted())
    for block in range(3):
        factor = result.get_layer(f"gated{block}_gate_gain")
        assert factor.scale == 2.0 and type(result.get_layer(f"gate{block}")) is LAYERS.Conv2D
    ours = keras.Sequential(
        [LAYERS.Input((8, 8, 4)), convolution(8), nf_zoo.layers.SqueezeExcite(2, name="gate")]
    )
    ours.add(convolution(8))
    ours.add(LAYERS.BatchNormalization())
    assert converted(ours).get_layer("gate").gate_gain == 2.0


@pytest.mark.fast
def test_activations_of_every_spelling_get_their_gamma():
    inputs = LAYERS.Input((8, 8, 16))
    shared = LAYERS.ReLU()
    spellings = [
        LAYERS.ReLU(),
        LAYERS.ReLU(6.0),
        LAYERS.Activation("gelu"),
        LAYERS.LeakyReLU(0.3),
        keras.ops.silu,
        *[shared] * 2,
    ]
    ends = [f(normed(inputs, convolution(64), None)) for f in spellings]
    result = converted(keras.Model(inputs, ends))
    x = np.random.default_rng(5).standard_normal((16, 8, 8, 16)).astype("float32")
    for end in result(x):
        assert np.var(np.asarray(end), (0, 1, 2)).mean() == pytest.approx(1.0, abs=0.15)


@pytest.mark.fast
def test_parts_of_a_concatenation_are_reckoned_with():
    result = converted(dense_blocks())
    # The pooled half would be four times too quiet.
    pooled = result.get_layer("pool0_scale").scale
    assert pooled == pytest.approx(2.0, rel=0.15)
    assert result.ledger["join1_0"] == pytest.approx(1.0, rel=0.05)


@pytest.mark.fast
@pytest.mark.slow
def test_kernels_are_fresh_or_kept():
    model = inverted()
    names = [x.name for x in model.layers if hasattr(x, "kernel")]
    fresh, kept = converted(model), converted(model, weights="keep")
    for name in names:
        old = np.asarray(model.get_layer(name).kernel)
        for result, same in ((fresh, False), (kept, True)):
            new = np.asarray(result.get_layer(name).kernel).reshape(old.shape)
            assert np.array_equal(new, old) == same
    follows_its_ledger(kept, 1.6)


@pytest.mark.fast
@pytest.mark.parametrize("whole", [True, False])
def test_frozen_layers_stay_and_their_norms_go_on_learning(whole):
    model = keras.Sequential([LAYERS.Input((8, 8, 3)), LAYERS.Conv2D(4, 3)])
    model.add(LAYERS.BatchNormalization(name="norm"))
    layer = model.layers[0]
    layer.bias.assign([1.0, 2.0, 3.0, 4.0])
    (layer if whole else layer.kernel).trainable = False
    result = converted(model)
    found = result.get_layer(layer.name)
    assert type(found) is LAYERS.Conv2D and found.trainable != whole
    for old, new in zip(layer.variables, found.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    assert result.get_layer("norm_affine").trainable
    assert len(result.trainable_variables) == (2 if whole else 3)


@pytest.mark.fast
def test_a_branch_keeps_no_factor_of_its_own():
    """Its factor is alpha, also where the model is converted again."""
    model = several_ways()
    result = converted(model, alpha=ALPHA)
    for block in range(3):
        assert result.ledger[f"sum{block}"] == pytest.approx(
            1 + 2 * (block + 1) * ALPHA**2, rel=0.1
        )
    again = nf_zoo.normalizer_free(converted(preactivated()))
    follows_its_ledger(again, 1.6)


def smooth(count=8, side=16, offset=100.0):
    """Pictures of large pixels, whose neighbors are alike."""
    coarse = np.random.default_rng(0).standard_normal((count, side // 4, side // 4, 3))
    return (offset + 40 * coarse.repeat(4, 1).repeat(4, 2)).astype("float32")


@pytest.mark.fast
@pytest.mark.parametrize("label", ["preactivated", "inverted"])
@pytest.mark.slow
def test_pictures_of_ones_own(label):
    model = TINY[label]()
    result = converted(model, images=smooth())
    signals = nf_zoo.signal_propagation(result, smooth(32))
    assert signals.no_theory == "" and result.measured_on == "images"
    for row in signals:
        assert 0.5 < row.variance / row.predicted_variance < 2.0
    # What fits noise does not fit pictures of such values.
    noise = nf_zoo.signal_propagation(converted(model), smooth(32))
    assert noise[0].variance > 20 and "measured on noise" in noise.no_theory


@pytest.mark.fast
def test_pictures_in_files_are_prepared_by_the_network(tmp_path):
    model = tiny_networks.build("resnet", preprocessing={"input_size": 32})
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3))):
        Image.fromarray(pixels.astype("uint8")).save(tmp_path / f"{index}.png")
    paths = sorted(map(str, tmp_path.iterdir()))
    one, other = (
        nf_zoo.normalizer_free(model, images=images, weights="keep")
        for images in (tmp_path, model.preprocess(paths))
    )
    assert one.measured_on == other.measured_on == "images"
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


@pytest.mark.fast
def test_a_norm_of_the_input_starts_as_the_pictures_are():
    model = keras.Sequential([LAYERS.Input((3,)), LAYERS.BatchNormalization(), LAYERS.Dense(8)])
    values = np.random.default_rng(0).normal([1, 50, -3], [1, 10, 0.1], (16, 3)).astype("float32")
    result = converted(model, images=values)
    x = np.asarray(result.layers[1](values))
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(x.std(0), 1, atol=0.1)


@pytest.mark.fast
@pytest.mark.slow
def test_pictures_prepared_inside_the_model():
    """Noise stands for prepared pictures, in the conversion and in the measurement of it."""
    inputs = LAYERS.Input((16, 16, 3))
    x = LAYERS.Rescaling(1 / 255)(inputs)
    x = LAYERS.Normalization(mean=[0.5] * 3, variance=[0.04] * 3)(x)
    body = postactivated()
    result = converted(keras.Model(inputs, body(x)))
    follows_its_ledger(result, 1.6)
    pictures = np.random.default_rng(0).normal(127, 51, (8, 16, 16, 3)).astype("float32")
    answers = np.asarray(result(pictures))
    assert 0.01 < answers.var() < 10


def test_it_trains_saves_loads_and_folds(tmp_path):
    model = inverted()
    result = converted(model)
    x = np.random.default_rng(0).standard_normal((32, 16, 16, 3)).astype("float32")
    labels = np.arange(32) % 4
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    result.compile(keras.optimizers.Adam(1e-2), loss)
    before = [v.numpy().copy() for v in result.trainable_variables]
    history = result.fit(x, labels, epochs=16, batch_size=8, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]
    for old, variable in zip(before, result.trainable_variables, strict=True):
        assert not np.array_equal(old, variable), variable.path
    answers = np.asarray(result(x, training=False))
    folded = nf_zoo.fold(result)
    np.testing.assert_allclose(folded(x), answers, atol=1e-5 * np.abs(answers).max())
    assert {type(layer).__module__.split(".")[0] for layer in folded.layers} == {"keras", "nf_zoo"}
    assert not {"ScaledWSConv2D", "ScaledWSDepthwiseConv2D"} & set(kinds(folded))
    result.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "answers.npy", answers)
    nf_zoo.export_onnx(result, tmp_path / "model.onnx")
    succeed(LOADER, str(tmp_path), json.dumps(result.ledger))


LOADER = """
import json, sys, keras, nf_zoo, numpy as np, onnxruntime
folder, ledger = sys.argv[1:]
x, answers = np.load(f"{folder}/x.npy"), np.load(f"{folder}/answers.npy")
model = keras.saving.load_model(f"{folder}/model.keras")
assert model.ledger == json.loads(ledger) and model.alpha == 0.2 and model.remaining == {}
np.testing.assert_allclose(model.predict(x, verbose=0), answers, atol=1e-4)
assert model.optimizer.iterations.numpy() == 64
session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
(found,) = session.run(None, {session.get_inputs()[0].name: x})
np.testing.assert_allclose(found, answers, atol=1e-4)
"""


@pytest.mark.parametrize("label", ["postactivated", "inverted"])
def test_no_picture_influences_another(label):
    """The Jacobian between pictures is zero in training; the original's is not."""
    model = TINY[label]()
    x = tf.random.normal((3, 16, 16, 3))
    across = []
    for network in (model, converted(model)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            first = tf.reduce_sum(tf.sin(network(x, training=True)[0]))
        gradient = np.abs(tape.gradient(first, x))
        assert gradient[0].max() > 0
        across.append(gradient[1:].max())
    assert across[0] > 0 and across[1] == 0


@pytest.mark.fast
def test_nested_and_shared_parts_with_two_inputs():
    result = converted(networks.pairs())
    assert {x.name for x in networks.pairs().layers if "norm" not in x.name} <= {
        x.name for x in result.layers
    }
    encoder = result.get_layer("encoder")
    assert not encoder.get_layer("conv1").trainable and encoder.get_layer("conv2").trainable
    answers = result([np.ones((2, 12, 12, 3)), np.zeros((2, 12, 12, 3))])
    assert set(answers) == {"distance", "first"} and np.all(np.isfinite(answers["first"]))


@pytest.mark.fast
def test_sequences():
    steps = LAYERS.TimeDistributed
    model = keras.Sequential(
        [
            LAYERS.Input((3, 8, 8, 4)),
            steps(LAYERS.SeparableConv2D(16, 3, activation="relu", name="maps")),
            steps(LAYERS.BatchNormalization()),
            steps(one(LAYERS.Conv2D(8, 3, name="inner"), shape=(6, 6, 16))),
            steps(LAYERS.GlobalAveragePooling2D()),
            LAYERS.LSTM(16, return_sequences=True),
            LAYERS.BatchNormalization(),
            LAYERS.Dense(8, name="last"),
            LAYERS.BatchNormalization(),
        ]
    )
    result = converted(model)
    found = [type(x).__name__ for x in result._flatten_layers()]
    assert found.count("ScaledWSConv2D") == 2 and found.count("ScaledWSDense") == 1
    assert {"LSTM", "ScaledWSDepthwiseConv2D", "ChannelAffine"} <= set(found)
    assert result(np.ones((2, 3, 8, 8, 4))).shape == (2, 3, 8)


@pytest.mark.fast
def test_other_normalizations_stay_and_are_named():
    x = inputs = LAYERS.Input((8, 8, 4))
    x = normed(x, convolution(8))
    x = LAYERS.GroupNormalization(4, name="groups")(x)
    x = LAYERS.LayerNormalization(name="positions")(convolution(8)(x))
    result = converted(keras.Model(inputs, x))
    assert result.remaining == {"groups": "GroupNormalization", "positions": "LayerNormalization"}
    assert "Conv2D" in kinds(result)  # what LayerNormalization normalizes is left alone


@pytest.mark.fast
def test_a_network_of_the_zoo_with_batch_norm():
    result = converted(tiny_networks.build("resnet_v2"))
    follows_its_ledger(result, 2.0)
    assert "ScaledWSConv2D" in kinds(result)


@pytest.mark.fast
def test_dtype_policies_are_kept():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = preactivated((1,), 8, 8)
    finally:
        keras.config.set_dtype_policy("float32")
    result = converted(model)
    assert {x.dtype_policy.name for x in result.layers[1:]} == {"mixed_bfloat16"}
    assert result(np.ones((1, 8, 8, 3))).dtype == "bfloat16"


@pytest.mark.fast
def test_activations_that_give_answers_their_range_stay():
    inputs = LAYERS.Input((8, 8, 4))
    x = LAYERS.Activation("tanh")(normed(inputs, convolution(8), None))
    ends = [
        LAYERS.Activation("tanh", name="range")(normed(x, convolution(3), None)),
        keras.ops.softplus(normed(x, convolution(3), None)),
    ]
    result = converted(keras.Model(inputs, ends))
    noise = 9 * np.random.default_rng(5).standard_normal((16, 8, 8, 4)).astype("float32")
    within, positive = (np.asarray(end) for end in result(noise))
    assert 0.9 < np.abs(within).max() <= 1 and positive.min() >= 0
    assert kinds(result).count("ScaledActivation") == 1


def of_whole_numbers(*layers):
    parts = [LAYERS.Input((8,), dtype="int32", name="words"), LAYERS.Embedding(50, 16)]
    return keras.Sequential([*parts, *layers, LAYERS.BatchNormalization(), LAYERS.ReLU()])


@pytest.mark.fast
def test_inputs_of_whole_numbers():
    """Noise takes the place of pixels that the model prepares; other numbers must be given."""
    inputs = LAYERS.Input((16, 16, 3), dtype="uint8")
    x = postactivated(2)(LAYERS.Rescaling(1 / 255)(inputs))
    follows_its_ledger(converted(keras.Model(inputs, x)), 1.6)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), "uint8")
    for images in (pixels, tf.data.Dataset.from_tensor_slices(pixels).batch(4)):
        assert converted(keras.Model(inputs, x), images=images).measured_on == "images"
    words = np.random.default_rng(0).integers(0, 50, (8, 8))
    result = converted(of_whole_numbers(LAYERS.Dense(8)), images=words)
    assert 0.5 < np.var(np.asarray(result(words))) < 2


class Subclassed(keras.Model):
    def call(self, x):
        return x


class Hidden(LAYERS.Layer):
    def __init__(self):
        super().__init__()
        self.norm = LAYERS.BatchNormalization()

    def call(self, x):
        return self.norm(x)


def around(layer):
    return keras.Sequential([LAYERS.Input((4, 4, 3)), layer])


BAD = {
    "subclassed": (Subclassed, {}, "Only a functional or Sequential"),
    "hidden": (lambda: around(Hidden()), {}, r"Received: 'hidden.*' \(Hidden\)"),
    "axis": (
        lambda: around(LAYERS.BatchNormalization(axis=1, name="rows")),
        {},
        "last axis.*Received: 'rows' with axis=1",
    ),
    **{
        f"alpha {alpha!r}": (
            lambda: around(convolution(2)),
            {"alpha": alpha},
            f"alpha must be a finite number above 0. Received: {alpha!r}",
        )
        for alpha in (0.0, float("inf"), float("nan"), "0.2", None)
    },
    "constant": (
        lambda: around(convolution(2)),
        {"images": np.ones((2, 4, 4, 3))},
        r"must be finite and differ.*Received: only 1.0 for the input 'input",
    ),
    "not finite": (
        lambda: around(convolution(2)),
        {"images": np.array([np.nan, *range(95)]).reshape(2, 4, 4, 3)},
        "Received: values that are not finite",
    ),
    "other sides": (
        networks.pairs,
        {"images": [np.eye(12)[None, ..., None].repeat(3, 3), np.ones((2, 12, 11, 3))]},
        r"The pictures must be \(N, 12, 12, 3\)",
    ),
    "words": (of_whole_numbers, {}, "give images= for the input 'words'. Received: int32"),
    "weights": (
        lambda: around(convolution(2)),
        {"weights": "imagenet"},
        "weights must be None or \"keep\". Received: 'imagenet'",
    ),
    "images": (networks.pairs, {"images": np.zeros((2, 12, 12, 3))}, "each of the 2 inputs"),
    "shape": (lambda: around(convolution(2)), {"images": (4, 4, 1)}, r"Received: \(4, 4, 1\)"),
}


@pytest.mark.fast
@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    make, options, message = BAD[case]
    model = make()
    weights = model.get_weights()
    with pytest.raises(ValueError, match=message) as told:
        nf_zoo.normalizer_free(model, **options)
    assert "\n" not in str(told.value)
    for now, then in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_model_of_a_distribution_strategy():
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    x, labels = np.ones((4, 16, 16, 3), "float32"), np.zeros(4, "int32")
    with strategy.scope():
        model = preactivated((1,), 8)
        result = nf_zoo.normalizer_free(model)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        result.compile("sgd", loss)
    result.fit(x, labels, batch_size=4, verbose=0)


APPLICATIONS = {
    "ResNet50V2": 1.5,
    "ResNet50": 1.5,
    "MobileNetV2": 2.0,
    "EfficientNetB0": 3.0,
    "DenseNet121": 1.5,
}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_networks_of_keras_follow_their_ledgers(name):
    """At 64 pixels; their statistics at the start leave the signal as it is, as if removed."""
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(64, 64, 3), classes=4)
    plain = nf_zoo.signal_propagation(model, batch_size=4, batch_statistics=False)[-1].variance
    result = nf_zoo.normalizer_free(model)
    signals = follows_its_ledger(result, APPLICATIONS[name])
    assert not 1 / 3 < plain / signals[-1].predicted_variance < 3
    assert not nf_zoo.diagnose(result, batch_size=4)
    assert result.remaining == {}


@pytest.mark.fast
@pytest.mark.parametrize("nested", [False, True])
def test_inputs_are_found_by_name(nested):
    b, a = (keras.Input((8, 8, 3), name=name) for name in "ba")
    parts = [LAYERS.Conv2D(4, 3, name=f"of_{x.name}")(x) for x in (b, a)]
    model = keras.Model([b, a], LAYERS.BatchNormalization()(LAYERS.Add()(parts)))
    if nested:
        x, y = (keras.Input((8, 8, 3), name=name) for name in "xy")
        model = keras.Model([x, y], model({"a": y, "b": x}))
    small = np.random.default_rng(0).standard_normal((16, 8, 8, 3)).astype("float32")
    large, little = ("x", "y") if nested else ("b", "a")
    result = nf_zoo.normalizer_free(model, images={large: 100 * small, little: small})
    gamma = {x.name: x.gamma for x in result._flatten_layers() if hasattr(x, "gamma")}
    assert gamma["of_b"] < 0.1 * gamma["of_a"]


@pytest.mark.fast
@pytest.mark.parametrize(
    "activation",
    [LAYERS.LeakyReLU(0.1), LAYERS.PReLU(), functools.partial(keras.activations.gelu)],
    ids=["LeakyReLU", "PReLU", "partial"],
)
def test_an_activation_is_any_callable(activation):
    for layers in (
        [convolution(8, activation=activation), LAYERS.BatchNormalization()],
        [convolution(8), LAYERS.BatchNormalization(), LAYERS.Activation(activation)],
    ):
        result = nf_zoo.normalizer_free(keras.Sequential([LAYERS.Input((16, 16, 3)), *layers]))
        assert not networks.norms_of(result)
        assert np.all(np.isfinite(result(np.ones((1, 16, 16, 3), "float32"))))


@pytest.mark.fast
def test_whole_numbers_enter_a_nested_model_as_floats():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3)).astype("uint8")
    inside = LAYERS.Input((16, 16, 3))
    body = keras.Model(inside, normed(inside, convolution(16)))
    outer = LAYERS.Input((16, 16, 3), dtype="uint8")
    result = nf_zoo.normalizer_free(keras.Model(outer, body(outer)), images=pixels)
    assert np.var(result(pixels)) < 10  # of the pixels it is thousands


@pytest.mark.fast
def test_a_regularizer_that_is_a_function_is_saved(tmp_path):
    @keras.saving.register_keras_serializable("tests")
    def small(kernel):
        return 0.5 * keras.ops.sum(kernel**2)

    layers = [convolution(8, kernel_regularizer=small), LAYERS.BatchNormalization()]
    result = nf_zoo.normalizer_free(keras.Sequential([LAYERS.Input((16, 16, 3)), *layers]))
    result.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.losses, result.losses)
    own = nf_zoo.layers.ScaledWSConv2D(8, 3, kernel_initializer=keras.initializers.HeNormal)
    again = type(own).from_config(own.get_config())
    assert isinstance(again.kernel_initializer, keras.initializers.HeNormal)
