from __future__ import annotations

import json

import batch_norm_networks as networks
import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_networks
from programs import succeed

import nf_zoo

LAYERS = keras.layers
OWN = {"unet": networks.unet, "pairs": networks.pairs}
KEPT = {"unet": ["skip_norm"], "pairs": ["last_norm"]}
TWO = "scale and offset per channel"


def assert_same(model, result, inputs=None):
    """The answers agree to 1e-5 of the largest, and no BatchNormalization is left."""
    inputs = inputs or networks.draw(model)
    pairs = zip(networks.answer(model, inputs), networks.answer(result, inputs), strict=True)
    for before, after in pairs:
        assert np.max(np.abs(before - after)) <= 1e-5 * np.max(np.abs(before))
    assert not networks.norms_of(result)


def removed(model, inputs=None):
    """The model without its norms, which computes the same; the original did not change."""
    weights, config = model.get_weights(), model.to_json()
    result = nf_zoo.remove_batch_norm(model)
    assert_same(model, result, inputs)
    assert model.to_json() == config
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not {id(x) for x in result.variables} & {id(x) for x in model.variables}
    return result


def chain(*parts, shape):
    return networks.fill(keras.Sequential([LAYERS.Input(shape), *parts]))


SIDE = {1: (9,), 2: (9, 8), 3: (5, 6, 5)}
SAME, BOTH = {"padding": "same"}, {"norm_in": TWO}
CASES = {
    "Conv1D": (1, lambda: LAYERS.Conv1D(6, 3), {}),
    "Conv1D causal": (1, lambda: LAYERS.Conv1D(6, 3, padding="causal"), BOTH),
    "Conv2D": (2, lambda: LAYERS.Conv2D(6, 3, strides=2, use_bias=False), {}),
    "Conv2D same": (2, lambda: LAYERS.Conv2D(6, 3, **SAME), BOTH),
    "Conv2D 1x1": (2, lambda: LAYERS.Conv2D(6, 1, strides=2, **SAME), {}),
    "Conv2D grouped": (2, lambda: LAYERS.Conv2D(6, (3, 2), groups=2), {}),
    "Conv2D dilated": (2, lambda: LAYERS.Conv2D(6, 3, dilation_rate=2), {}),
    "Conv3D": (3, lambda: LAYERS.Conv3D(6, 3), {}),
    "depthwise 1D": (1, lambda: LAYERS.DepthwiseConv1D(3, depth_multiplier=2), {}),
    "depthwise 2D": (2, lambda: LAYERS.DepthwiseConv2D((2, 3), depth_multiplier=3), {}),
    "depthwise same": (2, lambda: LAYERS.DepthwiseConv2D(3, use_bias=False, **SAME), BOTH),
    "separable 1D": (1, lambda: LAYERS.SeparableConv1D(6, 3, depth_multiplier=2), {}),
    "separable 2D": (2, lambda: LAYERS.SeparableConv2D(6, 3, depth_multiplier=2), {}),
    "separable same": (2, lambda: LAYERS.SeparableConv2D(6, 3, use_bias=False, **SAME), BOTH),
    "transposed 1D": (1, lambda: LAYERS.Conv1DTranspose(6, 3, strides=2), BOTH),
    "transposed 2D": (2, lambda: LAYERS.Conv2DTranspose(6, 3, **SAME, use_bias=False), BOTH),
    "transposed 3D": (3, lambda: LAYERS.Conv3DTranspose(6, 2), BOTH),
    "dense": (0, lambda: LAYERS.Dense(6), {}),
    "dense on maps": (2, lambda: LAYERS.Dense(6, use_bias=False), {}),
    "nf_zoo's": (2, lambda: nf_zoo.layers.Conv2D(6, 3, groups=2, padding="reflect"), {}),
    "nf_zoo's symmetric": (2, lambda: nf_zoo.layers.Conv2D(6, 3, padding="symmetric"), BOTH),
}


@pytest.mark.fast
@pytest.mark.parametrize("case", CASES)
def test_a_norm_before_and_one_after(case):
    """Where zeros come in from outside, the first one stays."""
    rank, layer, remaining = CASES[case]
    norms = [LAYERS.BatchNormalization(name=f"norm_{end}") for end in ("in", "out")]
    result = removed(chain(norms[0], layer(), norms[1], shape=(*SIDE.get(rank, ()), 4)))
    assert result.remaining == remaining
    assert type(result) is keras.Sequential


@pytest.mark.fast
def test_double_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        parts = LAYERS.Conv2D(6, 3), LAYERS.BatchNormalization(), LAYERS.ReLU()
        model = chain(*parts, LAYERS.BatchNormalization(), shape=(9, 8, 4))
        result = nf_zoo.remove_batch_norm(model)
        images = np.random.default_rng(0).normal(size=(2, 9, 8, 4))
        expected = model(images)
        np.testing.assert_allclose(result(images), expected, rtol=1e-12, atol=1e-12)
        assert expected.dtype == "float64"
    finally:
        keras.config.set_dtype_policy(before)


BEYOND = {
    "averages": lambda: [LAYERS.AveragePooling2D(2, **SAME), LAYERS.AveragePooling2D(2)],
    "maxima": lambda: [LAYERS.MaxPooling2D(2, **SAME)],
    "one place": lambda: [LAYERS.GlobalAveragePooling2D()],
}


@pytest.mark.fast
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("beyond", BEYOND)
def test_norms_go_beyond_poolings(beyond, sign):
    """Backward, and forward from an activation, also through a Flatten; maxima must stay so."""
    norm, between = LAYERS.BatchNormalization, BEYOND[beyond]
    ends = [LAYERS.Flatten(), LAYERS.Flatten(), LAYERS.Dense(3)]
    for parts in (
        [LAYERS.Conv2D(4, 3), *between(), norm(name="norm")],
        [LAYERS.Conv2D(4, 3, activation="relu"), norm(name="norm"), *between(), *ends],
    ):
        model = chain(*parts, shape=(9, 8, 3))
        gamma = model.get_layer("norm").gamma
        gamma.assign(sign * abs(gamma))
        kept = {"norm": TWO} if sign < 0 and beyond == "maxima" else {}
        assert removed(model).remaining == kept


@pytest.mark.fast
@pytest.mark.parametrize("dropout", ["Dropout", "GaussianDropout"])
@pytest.mark.parametrize("place", [1, 2])
def test_a_dropout_drops_what_it_dropped(dropout, place):
    """A training step is that of frozen statistics, with the same draws."""
    parts = [LAYERS.Dense(8, activation="relu"), LAYERS.Dense(4)]
    parts.insert(place, getattr(LAYERS, dropout)(0.5, seed=1))
    parts.insert(1 if place == 1 else 3, LAYERS.BatchNormalization(name="norm", trainable=False))
    model = chain(*parts, shape=(6,))
    result = removed(model)
    (x,) = networks.draw(model)
    seeds = [v for network in (model, result) for v in network.variables if "seed" in v.path]
    for seed in seeds:
        seed.assign(np.array([0, 5], "uint32"))
    found = [np.asarray(network(x, training=True)) for network in (model, result)]
    np.testing.assert_allclose(*found, atol=1e-5 * np.abs(found[0]).max())
    assert result.remaining == {"norm": TWO}


@pytest.mark.fast
@pytest.mark.parametrize("own", OWN)
def test_networks_of_ones_own(own):
    model = OWN[own]()
    result = removed(model)
    assert list(result.remaining) == KEPT[own]
    gone = {norm.name for norm in networks.norms_of(model)} - set(result.remaining)
    flags = {layer.name: layer.trainable for layer in model._flatten_layers()}
    expected = {name: flag for name, flag in flags.items() if name not in gone}
    assert {layer.name: layer.trainable for layer in result._flatten_layers()} == expected
    assert keras.tree.map_structure(lambda x: x.shape, result.output) == (
        keras.tree.map_structure(lambda x: x.shape, model.output)
    )


APPLICATIONS = {
    "MobileNetV2": 0,
    "ResNet50": 0,
    "ResNet50V2": 17,
    "EfficientNetB0": 0,
    "DenseNet121": 62,
    "Xception": 0,
    "InceptionV3": 0,
    "NASNetMobile": 4,
}
"""Name in keras.applications -> number of norms that stay: on sums, or concatenated maps."""


@pytest.mark.parametrize("name", APPLICATIONS)
def test_keras_applications(name):
    build = getattr(keras.applications, name)
    options = {"weights": None, "input_shape": (75, 75, 3), "include_top": False}
    model = networks.fill(build(pooling="avg", **options))
    scale = 100 if name == "EfficientNetB0" else 1  # it takes pixels of 0 to 255
    result = removed(model, [scale * x for x in networks.draw(model)])
    assert len(result.remaining) == APPLICATIONS[name]


@pytest.mark.parametrize("label", ["resnet", "resnet_v2", "regnety", "wide_resnet_bn"])
def test_networks_of_this_package(label):
    """Their blocks appear as their parts; what is frozen in a block stays so."""
    model = networks.fill(tiny_networks.build(label, input_shape=(32, 32, 3)))
    model.blocks[0].convs[0].trainable = model.blocks[0].norms[0].trainable = False
    result = removed(model)
    prefix = f"{model.blocks[0].name}_"
    flags = {x.name: x.trainable for x in result.layers if x.name.startswith(prefix)}
    assert not flags[f"{prefix}conv1"]
    assert flags[f"{prefix}conv2"]


@pytest.mark.fast
@pytest.mark.parametrize("own", OWN)
@pytest.mark.slow
def test_no_picture_influences_another_in_training(own):
    def cross(model) -> float:
        """The largest derivative of a picture's answer by another picture."""
        inputs = [tf.constant(x) for x in networks.draw(model)]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(inputs)
            given = inputs if len(inputs) > 1 else inputs[0]
            outputs = keras.tree.flatten(model(given, training=True))
            first = tf.concat([tf.reshape(x[0], (-1,)) for x in outputs], 0)[::7]
        parts = tape.jacobian(first, inputs, experimental_use_pfor=False)
        return max(float(tf.reduce_max(tf.abs(part[:, 1]))) for part in parts)

    model = OWN[own]()
    assert cross(nf_zoo.remove_batch_norm(model)) == 0.0
    assert cross(model) > 0.0


def _fitted(model, **how):
    """The weights after two steps of batches of four, cut up or not."""
    accumulate = how.get("accumulate", 1)
    optimizer = keras.optimizers.SGD(
        0.01, gradient_accumulation_steps=accumulate if accumulate > 1 else None
    )
    model.compile(optimizer, "mean_squared_error")
    (x,) = networks.draw(model, 8)
    y = np.random.default_rng(2).standard_normal((8, *model.output_shape[1:]))
    size = 4 // accumulate
    model.fit(x, y, batch_size=size, epochs=1, shuffle=False, verbose=0)
    return model.get_weights()


def _farthest(one, other) -> float:
    return max(np.max(np.abs(x - y)) for x, y in zip(one, other, strict=True))


def test_accumulation_and_replicas_are_exact():
    """A batch in parts, or on two devices, trains as the whole; with the norms it does not."""
    model = networks.unet()
    whole = _fitted(nf_zoo.remove_batch_norm(model))
    assert _farthest(whole, nf_zoo.remove_batch_norm(model).get_weights()) > 1e-3
    assert _farthest(whole, _fitted(nf_zoo.remove_batch_norm(model), accumulate=2)) < 1e-6
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        replicated = nf_zoo.remove_batch_norm(networks.unet())
        replicated.set_weights(nf_zoo.remove_batch_norm(model).get_weights())
        assert _farthest(whole, _fitted(replicated)) < 1e-6
    clones = [keras.models.clone_model(model) for _ in range(2)]
    for clone in clones:
        clone.set_weights(model.get_weights())
    assert _farthest(_fitted(clones[0]), _fitted(clones[1], accumulate=2)) > 1e-3


OPENED = """
import sys
import numpy as np
if "ours" in sys.argv[2:]:
    import nf_zoo
import keras
model = keras.saving.load_model(sys.argv[1])
inputs = np.load(sys.argv[1] + ".npz")
answers = keras.tree.flatten(model([inputs[name] for name in sorted(inputs)], training=False))
np.savez(sys.argv[1] + ".answers.npz", *[np.asarray(answer) for answer in answers])
print("nf_zoo" in sys.modules)
"""


def _part_of_a_unet():
    model = networks.unet()
    return networks.fill(keras.Model(model.inputs, model.get_layer("up_relu").output))


@pytest.mark.parametrize("own", [*OWN.values(), _part_of_a_unet])
def test_a_saved_file_opens_elsewhere(tmp_path, own):
    """In a process without nf_zoo if only layers of Keras are left."""
    model, remains = own(), own is not _part_of_a_unet
    result, inputs = nf_zoo.remove_batch_norm(model), networks.draw(model)
    assert bool(result.remaining) == remains
    result.save(tmp_path / "own.keras")
    np.savez(tmp_path / "own.keras.npz", *inputs)
    words = ["ours"] if remains else []
    assert succeed(OPENED, tmp_path / "own.keras", *words).stdout.split() == [str(remains)]
    found = np.load(tmp_path / "own.keras.answers.npz")
    for answer, expected in zip(found.values(), networks.answer(result, inputs), strict=True):
        np.testing.assert_allclose(answer, expected, atol=1e-5 * np.max(np.abs(expected)))


def test_it_exports(tmp_path):
    import onnxruntime

    model = networks.unet()
    result, inputs = nf_zoo.remove_batch_norm(model), networks.draw(model)
    nf_zoo.export_onnx(result, tmp_path / "own.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "own.onnx")
    (feed,) = session.get_inputs()
    channels_first = list(feed.shape[1:]) == [3, 16, 16]
    x = inputs[0].transpose(0, 3, 1, 2) if channels_first else inputs[0]
    (found,) = session.run(None, {feed.name: x})
    (expected,) = networks.answer(model, inputs)
    if found.shape != expected.shape:
        found = found.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.max(np.abs(expected)))


@pytest.mark.fast
@pytest.mark.parametrize("axis", [1, 2, -2])
def test_another_axis_than_the_channels(axis):
    model = chain(
        LAYERS.Conv2D(4, 3), LAYERS.BatchNormalization(axis, name="norm"), shape=(7, 6, 3)
    )
    assert removed(model).remaining == {"norm": TWO}


@pytest.mark.fast
def test_norms_in_time():
    """Inside TimeDistributed, alone and in a model, and beside recurrent layers."""
    frames = [LAYERS.Conv2D(4, 3), LAYERS.BatchNormalization(name="inside"), LAYERS.ReLU()]
    model = chain(
        LAYERS.TimeDistributed(keras.Sequential([LAYERS.Input((7, 6, 3)), *frames]), name="frames"),
        LAYERS.TimeDistributed(LAYERS.BatchNormalization(name="alone"), name="wrapped"),
        LAYERS.TimeDistributed(LAYERS.GlobalAveragePooling2D(), name="means"),
        LAYERS.LSTM(4, return_sequences=True, name="memory"),
        LAYERS.BatchNormalization(name="after"),
        LAYERS.TimeDistributed(LAYERS.Dense(3), name="head"),
        LAYERS.BatchNormalization(name="last"),
        shape=(3, 7, 6, 3),
    )
    result = removed(model)
    assert result.remaining == {"alone": TWO}
    names = ["frames", "wrapped", "means", "memory", "head"]
    assert [layer.name for layer in result.layers] == names


@pytest.mark.fast
def test_masks_go_on():
    """A mask passes a norm that stays, and one that goes."""
    x = inputs = LAYERS.Input((5,), dtype="int32")
    x = LAYERS.Embedding(9, 4, mask_zero=True)(x)
    x = LAYERS.BatchNormalization(name="first")(inputs=x)
    x = LAYERS.Activation("tanh")(x)
    x = LAYERS.BatchNormalization(name="second")(LAYERS.Dense(4)(x))
    model = networks.fill(keras.Model(inputs, LAYERS.GlobalAveragePooling1D()(x)))
    words = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]])
    assert removed(model, [words]).remaining == {"first": TWO}


@pytest.mark.fast
def test_shared_norms():
    """One whose makers differ stays, once; a layer with two norms absorbs neither."""
    one, other = LAYERS.Input((6,)), LAYERS.Input((6,))
    shared, dense = LAYERS.BatchNormalization(name="shared"), LAYERS.Dense(4, name="dense")
    ends = [shared(LAYERS.Dense(6)(x)) for x in (one, other)]
    ends = [LAYERS.BatchNormalization(name=f"own{i}")(dense(x)) for i, x in enumerate(ends)]
    model = networks.fill(keras.Model([one, other], ends))
    assert set(removed(model).remaining) == {"own0", "own1"}
    relus = [keras.ops.relu(shared(x)) for x in (one, other)]
    assert set(removed(keras.Model([one, other], relus)).remaining) == {"shared"}


def _constrained():
    return LAYERS.Dense(4, kernel_constraint="max_norm")


def _activated():
    return LAYERS.Dense(4, activation="relu")


def _frozen():
    return LAYERS.Dense(4, trainable=False)


def _of_which_a_kernel_is_frozen():
    layer = LAYERS.Dense(4)
    layer.build((None, 6))
    layer.kernel.trainable = False
    return layer


def _with_regularized_answers():
    return LAYERS.Dense(4, activity_regularizer="l2")


def _with_lora():
    layer = LAYERS.Dense(4, name="dense")
    layer.build((None, 6))
    layer.enable_lora(2)
    return layer


def _of_another_dtype():
    return LAYERS.Dense(4, dtype="mixed_bfloat16")


@pytest.mark.fast
@pytest.mark.parametrize(
    "dense",
    [
        _constrained,
        _activated,
        _frozen,
        _of_which_a_kernel_is_frozen,
        _with_regularized_answers,
        _with_lora,
    ],
)
def test_layers_that_absorb_nothing(dense):
    model = chain(dense(), LAYERS.BatchNormalization(name="norm"), shape=(6,))
    result = removed(model)
    assert result.remaining == {"norm": TWO}
    assert result.get_layer("norm").trainable
    flags = [[v.trainable for v in network.layers[0].variables] for network in (model, result)]
    assert flags[0] == flags[1]


@pytest.mark.fast
def test_a_variable_that_is_frozen_alone_stays_so():
    parts = [LAYERS.Dense(4), LAYERS.BatchNormalization(trainable=False), LAYERS.Dense(3)]
    model = chain(*parts, shape=(6,))
    for layer in (model.layers[0], model.layers[2]):
        layer.kernel.trainable = False
    found = removed(model).trainable_variables
    assert [v.name for v in found] == ["bias", "bias"]


@pytest.mark.fast
def test_dtypes_stay():
    model = chain(_of_another_dtype(), LAYERS.BatchNormalization(name="norm"), shape=(6,))
    result = nf_zoo.remove_batch_norm(model)
    assert [x.dtype_policy.name for x in result.layers] == ["mixed_bfloat16", "float32"]
    assert result.outputs[0].dtype == model.outputs[0].dtype


@pytest.mark.fast
def test_a_frozen_norm_goes_into_a_layer_that_is_trained():
    norm = LAYERS.BatchNormalization(trainable=False)
    assert removed(chain(LAYERS.Dense(4), norm, shape=(6,))).trainable_variables


@keras.saving.register_keras_serializable("removal")
class Hiding(LAYERS.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = LAYERS.BatchNormalization()

    def call(self, x):
        return self.norm(x)


@keras.saving.register_keras_serializable("removal")
class Derived(LAYERS.BatchNormalization):
    pass


@pytest.mark.fast
@pytest.mark.parametrize("layer", [Hiding, Derived])
def test_a_norm_in_code_of_ones_own(layer):
    model = chain(LAYERS.Dense(4), layer(name="mine"), shape=(6,))
    before = json.dumps(model.get_config()), model.get_weights()
    with pytest.raises(ValueError, match=rf"must be a layer of .*'mine' \({layer.__name__}\)"):
        nf_zoo.remove_batch_norm(model)
    assert json.dumps(model.get_config()) == before[0]
    assert _farthest(model.get_weights(), before[1]) == 0


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = LAYERS.BatchNormalization()

    def call(self, x):
        return self.norm(x)


@pytest.mark.fast
@pytest.mark.parametrize("model", [Subclassed, lambda: keras.Sequential([LAYERS.Dense(2)])])
def test_a_model_without_a_graph(model):
    with pytest.raises(ValueError, match=r"functional or Sequential .* built.*Received: S"):
        nf_zoo.remove_batch_norm(model())


class OwnStep(keras.Model):
    def train_step(self, data):
        return {"mine": 1.0}


@pytest.mark.fast
def test_a_training_step_of_ones_own_stays():
    inputs = LAYERS.Input((6,))
    outputs = LAYERS.BatchNormalization()(LAYERS.Dense(4)(inputs))
    assert isinstance(removed(networks.fill(OwnStep(inputs, outputs))), OwnStep)
