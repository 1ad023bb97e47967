"""Settings made on layers by hand outlive saving, loading, cloning and rebuilding."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tiny_networks
from programs import printed_by

import nf_zoo
from nf_zoo.hub.errors import InvalidConfig
from nf_zoo.layers.composite import states_of_parts

LABELS = list(tiny_networks.NETWORKS)


def flags(model) -> list[tuple[str, bool]]:
    """Name and flag of every layer at any depth, inputs left out."""
    return [(layer.name, layer.trainable) for layer in layers_of(model)]


def policies(model) -> list[tuple[str, str]]:
    """Name and dtype policy of every layer at any depth, inputs left out."""
    return [(layer.name, layer.dtype_policy.name) for layer in layers_of(model)]


def layers_of(model) -> list:
    layers = model._flatten_layers(include_self=False)
    return [layer for layer in layers if not isinstance(layer, keras.layers.InputLayer)]


def freeze_the_body(model):
    for layer in model.layers:
        layer.trainable = layer is model.head
    return model


def set_by_hand(model):
    """Freezes single layers, whole blocks and a block but for one of its layers."""
    first, last = model.blocks[0], model.blocks[-1]
    model.layers[1].trainable = False
    first.convs[0].trainable = False
    last.trainable = False
    last.convs[0].trainable = True
    model.head.dtype_policy = "mixed_bfloat16"
    return model


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("change", [freeze_the_body, set_by_hand])
def test_flags_and_types_survive(change, label, tmp_path):
    model = change(tiny_networks.filled(label, "states"))
    assert model.layer_states()["parts"]
    model.save(tmp_path / "model.keras")
    copies = {
        "load_model": keras.saving.load_model(tmp_path / "model.keras"),
        "load_pretrained of a file": nf_zoo.load_pretrained(tmp_path / "model.keras"),
        "load_pretrained of a folder": nf_zoo.load_pretrained(
            nf_zoo.save_pretrained(model, tmp_path / "folder")
        ),
        "clone_model": keras.models.clone_model(model),
        "from_config": type(model).from_config(json.loads(json.dumps(model.get_config()))),
    }
    for how, copy in copies.items():
        assert flags(copy) == flags(model), how
        assert policies(copy) == policies(model), how


@pytest.mark.parametrize("label", LABELS)
def test_a_functional_model_of_our_layers_keeps_them_too(label, tmp_path):
    model = set_by_hand(tiny_networks.filled(label, "states"))
    body = keras.Model(model.input, model.blocks[-1].output)
    body.save(tmp_path / "body.keras")
    loaded = keras.saving.load_model(tmp_path / "body.keras")
    assert flags(loaded) == flags(body) == flags(keras.models.clone_model(body))
    pixels = tiny_networks.images(1)
    np.testing.assert_allclose(loaded(pixels), body(pixels), rtol=1e-6)


def test_parts_follow_the_policy_of_their_block_not_the_global_one(tmp_path):
    model = tiny_networks.build("nf_resnet_paper", dtype="mixed_bfloat16")
    body = keras.Model(model.input, model.blocks[-1].output)
    body.save(tmp_path / "body.keras")
    assert keras.config.dtype_policy().name == "float32"
    assert policies(keras.saving.load_model(tmp_path / "body.keras")) == policies(body)


def test_a_block_and_a_layer_in_it_may_have_one_type(tmp_path):
    model = tiny_networks.build("nf_resnet")
    model.blocks[0].dtype_policy = "mixed_bfloat16"
    model.blocks[0].convs[1].dtype_policy = "mixed_bfloat16"
    model.save(tmp_path / "model.keras")
    assert policies(keras.saving.load_model(tmp_path / "model.keras")) == policies(model)


def test_a_map_of_policies_is_saved(tmp_path):
    kinds = keras.dtype_policies
    policy = kinds.DTypePolicyMap("mixed_bfloat16", {"stem_conv": kinds.DTypePolicy("float32")})
    model = tiny_networks.build("nf_resnet", dtype=policy)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[1].compute_dtype == "float32"
    types = [[layer.compute_dtype for layer in layers_of(one)] for one in (model, loaded)]
    assert types[0] == types[1] and "bfloat16" in types[0]
    with pytest.raises(InvalidConfig, match=r"load_model opens others"):
        nf_zoo.load_pretrained(tmp_path / "model.keras")


def test_another_classifier_keeps_the_frozen_body_and_trains_itself():
    model = set_by_hand(tiny_networks.filled("resnet_v2", "states"))
    model.head.trainable = False
    again = model.with_classifier(3)
    body = [pair for pair in flags(model) if pair[0] != "head"]
    assert [pair for pair in flags(again) if pair[0] != "head"] == body
    assert again.head.trainable and again.head.dtype_policy.name == "float32"
    maps = model.with_feature_maps()
    assert dict(flags(maps))["stem_conv1"] is False


def test_a_model_frozen_as_a_whole_stays_so(tmp_path):
    model = tiny_networks.filled("nf_resnet", "states")
    model.trainable = False
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not loaded.trainable and not loaded.trainable_variables
    assert flags(loaded) == flags(model)


def test_training_goes_on_where_it_stopped_with_the_optimizers_state(tmp_path):
    """Held against keras.applications, in a process of its own: two variables, not fifty."""
    program = f"""
folder, names = "{tmp_path}/", ("ours.keras", "theirs.keras")
import json, keras, numpy as np, nf_zoo
def found(path):
    model = keras.saving.load_model(path)
    before = [np.asarray(v) for layer in model.layers[:-1] for v in layer.trainable_variables]
    momenta = [float(np.abs(np.asarray(v)).max()) for v in model.optimizer.variables[2:]]
    model.fit(np.ones((4, 32, 32, 3), "float32"), np.array([0, 1, 2, 0]), verbose=0)
    return [len(model.trainable_variables), len(before), len(momenta), min(momenta) > 0]
print(json.dumps([found(folder + name) for name in names], separators=(",", ":")))
"""
    ours = freeze_the_body(tiny_networks.build("nf_resnet", num_classes=3))
    body = keras.applications.ResNet50V2(
        weights=None, include_top=False, pooling="avg", input_shape=(32, 32, 3)
    )
    body.trainable = False
    theirs = keras.Sequential([body, keras.layers.Dense(3)])
    pixels = np.random.default_rng(0).random((4, 32, 32, 3), "float32")
    for name, model in (("ours", ours), ("theirs", theirs)):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
        model.fit(pixels, np.array([0, 1, 2, 0]), verbose=0)
        model.save(tmp_path / f"{name}.keras")
    found = json.loads(printed_by(program))
    assert found[0] == found[1] == [2, 0, 2, True]


def test_a_nested_body_stays_frozen(tmp_path):
    body = tiny_networks.build("wide_resnet_bn", num_classes=0)
    body.trainable = False
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(body(inputs)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.trainable_variables) == 2
    assert flags(loaded) == flags(model)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize("label", ["nf_resnet_paper", "resnet"])
def test_quantized_models_open(label, tmp_path):
    model = tiny_networks.filled(label, "states")
    pixels = tiny_networks.images(1)
    exact = np.asarray(model(pixels))
    model.quantize("int8")
    answers = np.asarray(model(pixels))
    assert np.abs(answers - exact).max() > 0
    model.save(tmp_path / "model.keras")
    for load in (keras.saving.load_model, nf_zoo.load_pretrained):
        loaded = load(tmp_path / "model.keras")
        assert loaded.head.quantization_mode == "int8"
        np.testing.assert_allclose(loaded(pixels), answers, rtol=1e-6)
    with pytest.raises(ValueError, match=r"keeps LoRA and quantization.*int8"):
        nf_zoo.save_pretrained(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_lora_stays_enabled(tmp_path):
    model = freeze_the_body(tiny_networks.filled("nf_resnet", "states"))
    model.head.enable_lora(2)
    model.head.lora_kernel_b.assign(np.ones(model.head.lora_kernel_b.shape))
    pixels = tiny_networks.images(1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.head.lora_rank == 2 and len(loaded.trainable_variables) == 3
    np.testing.assert_allclose(loaded(pixels), model(pixels), rtol=1e-5)


def test_states_of_parts_that_are_not_there_are_refused():
    model = tiny_networks.build("nf_resnet")
    with pytest.raises(ValueError, match=r"no parts with these names. Received: stage9/conv1"):
        model.set_layer_states(parts={"stage9/conv1": {"trainable": False}})


@pytest.mark.parametrize(
    "parts",
    [{"head": {"run": "x"}}, {"head": {}}, {"head": 1}, {"head": {"lora_rank": 10**9}}, []],
    ids=repr,
)
def test_states_from_a_stranger_are_checked(parts, tmp_path):
    folder = nf_zoo.save_pretrained(tiny_networks.build("nf_resnet"), tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "parts": parts}))
    with pytest.raises(InvalidConfig, match=r"part|parts"):
        nf_zoo.load_pretrained(folder)


@pytest.mark.fast
@pytest.mark.parametrize("dtype", [None, "bfloat16", keras.DTypePolicy("mixed_bfloat16")], ids=str)
@pytest.mark.parametrize(
    "make",
    [
        lambda **own: nf_zoo.layers.ChannelAffine("scalar", "channels", **own),
        lambda **own: nf_zoo.layers.SkipInit(np.float32(0.25), **own),
        lambda **own: nf_zoo.layers.StochasticDepth(0.5, rescale=False, seed=3, **own),
        lambda **own: nf_zoo.layers.Dropout(0.5, seed=3, **own),
        lambda **own: nf_zoo.layers.MaxPool2D(np.int64(5), 1, padding="same", **own),
        lambda **own: nf_zoo.layers.DilatedAveragePool2D(2, **own),
        lambda **own: nf_zoo.layers.SqueezeExcite(4, gate_gain=2.0, **own),
        lambda **own: nf_zoo.layers.EfficientChannelAttention(2.0, kernel_size=5, **own),
        lambda **own: nf_zoo.layers.ScaledWSConv2D(8, 3, gamma=1.5, eps_form="added", **own),
        lambda **own: nf_zoo.layers.ScaledWSDepthwiseConv2D((1, 5), 2, gamma=1.5, **own),
        lambda **own: nf_zoo.layers.ScaledWSDense(8, kernel_regularizer="l2", **own),
        lambda **own: nf_zoo.layers.ScaledActivation("silu", **own),
    ],
)
def test_every_layer_comes_back_from_its_config(make, dtype):
    layer = make(**({} if dtype is None else {"dtype": dtype}), name="mine")
    layer.trainable = False
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    assert (again.name, again.trainable) == ("mine", False)
    assert again.dtype_policy == layer.dtype_policy


def test_parts_are_recorded_by_path():
    block = tiny_networks.build("nf_resnet_paper").blocks[0]
    assert states_of_parts(block) == {}
    block.attention.reduce.trainable = False
    assert states_of_parts(block) == {"attention/reduce": {"trainable": False}}
