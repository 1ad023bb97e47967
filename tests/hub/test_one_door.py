"""``load_pretrained`` opens whatever names a model, and reads all of it with the same suspicion."""

from __future__ import annotations

import json
import zipfile

import keras
import numpy as np
import pytest
import tiny_networks

import nf_zoo
from nf_zoo.hub.errors import InvalidConfig, UnsafeWeights, WeightsError


@pytest.fixture(scope="module")
def model():
    return tiny_networks.filled("nf_regnet", "door")


@pytest.fixture(scope="module")
def folded_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("folded") / "model.keras"
    nf_zoo.fold(model).save(path)
    return path


def rewritten(path, target, change):
    """The .keras file with its config changed."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    change(config)
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return target


def test_a_name_of_the_catalog():
    model = nf_zoo.load_pretrained("wide_resnet16_1.cifar10")
    assert model.weights_tag == "cifar10" and len(model.labels) == 10


@pytest.mark.parametrize("name", ["wide_resnet22_8", "nf_resnet101"])
def test_an_architecture_without_weights_is_known_but_has_none(name):
    with pytest.raises(WeightsError, match=f"No weights are published for {name}"):
        nf_zoo.load_pretrained(name)


def test_a_run_folder(model, tmp_path):
    model.save(tmp_path / "model.keras")
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "report.json").write_text("{}")
    loaded = nf_zoo.load_pretrained(tmp_path)
    pixels = tiny_networks.images(1)
    np.testing.assert_array_equal(loaded(pixels), model(pixels))


def test_a_saved_model_is_told_apart(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    with pytest.raises(InvalidConfig, match="A SavedModel can only predict"):
        nf_zoo.load_pretrained(tmp_path)


def test_a_folded_file(model, folded_file):
    loaded = nf_zoo.load_pretrained(folded_file)
    assert type(loaded).__name__ == "FoldedModel"
    pixels = tiny_networks.images(1)
    assert tiny_networks.difference(np.asarray(loaded(pixels)), np.asarray(model(pixels))) < 1e-5


def test_composed_models_are_told_how_to_open(model, tmp_path):
    composed = keras.Sequential([keras.Input((32, 32, 3)), model, keras.layers.Softmax()])
    composed.save(tmp_path / "model.keras")
    with pytest.raises(InvalidConfig, match=r"import nf_zoo and open it with keras\.saving"):
        nf_zoo.load_pretrained(tmp_path / "model.keras")


def add_layer(module, class_name, **config):
    def change(document):
        layer = {"module": module, "class_name": class_name, "config": {"name": "x", **config}}
        document["config"]["layers"].append({**layer, "registered_name": None, "name": "x"})

    return change


@pytest.mark.parametrize(
    ("module", "class_name"),
    [
        ("keras.layers", "Lambda"),
        ("keras.layers", "TFSMLayer"),
        ("keras.layers", "TorchModuleWrapper"),
        ("os", "system"),
        ("nf_zoo.hub.repository", "HubRepository"),
        ("keras.utils", "get_file"),
        ("keras.layers", "StringLookup"),
        ("keras.layers", "deserialize"),
        ("keras", "function"),
        ("keras.src.ops.core", "Switch"),
        ("keras.src.ops.core", "Map"),
    ],
)
def test_a_folded_file_names_only_known_layers(module, class_name, folded_file, tmp_path):
    hostile = rewritten(folded_file, tmp_path / "model.keras", add_layer(module, class_name))
    with pytest.raises(UnsafeWeights, match=f"nothing of it is read.*{class_name}"):
        nf_zoo.load_pretrained(hostile)


def test_a_folded_file_calls_no_function_of_keras(folded_file, tmp_path):
    """As an operation that calls what the file names did: here what sets Keras's own floats."""
    function = {"module": "keras", "class_name": "function", "config": "config.set_floatx"}

    def change(document):
        node = {"args": [0, [{**function, "registered_name": "function"}], "float64"], "kwargs": {}}
        row = {"module": "keras.src.ops.core", "class_name": "Switch", "config": {"name": "x"}}
        row |= {"registered_name": "Switch", "name": "x", "inbound_nodes": [node]}
        document["config"]["layers"].append(row)

    hostile = rewritten(folded_file, tmp_path / "model.keras", change)
    with pytest.raises(UnsafeWeights, match=r"keras\.function, keras\.src\.ops\.core\.Switch"):
        nf_zoo.load_pretrained(hostile)
    assert keras.config.floatx() == "float32"


def test_a_folded_file_of_operations(tmp_path):
    """A folded network of Keras's own layers and operations can be read."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation=keras.activations.gelu)(inputs)
    x = keras.ops.squeeze(keras.ops.expand_dims(keras.ops.relu(x) + 1.0, 1), 1)
    x = keras.layers.Resizing(4, 4)(keras.ops.cast(keras.ops.swapaxes(x, 1, 2), "float32"))
    outputs = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(x))
    folded = nf_zoo.fold(keras.Model(inputs, outputs))
    folded.save(tmp_path / "model.keras")
    loaded = nf_zoo.load_pretrained(tmp_path / "model.keras")
    pixels = np.random.default_rng(0).random((2, 8, 8, 3), "float32")
    np.testing.assert_allclose(loaded(pixels), folded(pixels), atol=1e-6)


def test_a_folded_file_asks_for_no_more_than_it_holds(folded_file, tmp_path):
    def widen(document):
        for layer in document["config"]["layers"]:
            if layer["class_name"] == "Dense":
                layer["config"]["units"] = 10**9

    hostile = rewritten(folded_file, tmp_path / "model.keras", widen)
    with pytest.raises(
        InvalidConfig, match=r"parameters, but has \d+ bytes|describes no model of nf_zoo"
    ):
        nf_zoo.load_pretrained(hostile)


def test_a_folded_file_without_a_config(folded_file, tmp_path):
    hostile = rewritten(folded_file, tmp_path / "model.keras", lambda config: config.pop("config"))
    with pytest.raises(InvalidConfig, match="describes no model of nf_zoo"):
        nf_zoo.load_pretrained(hostile)


def test_a_damaged_folded_file(folded_file, tmp_path):
    (tmp_path / "model.keras").write_bytes(folded_file.read_bytes()[:-400])
    with pytest.raises(WeightsError, match="truncated or damaged"):
        nf_zoo.load_pretrained(tmp_path / "model.keras")


def test_what_save_pretrained_cannot_read_back_is_not_written(model, tmp_path, monkeypatch):
    from nf_zoo.hub import folder

    names = folder.write_tensors

    def forgetful(tensors, path, metadata):
        return names(dict(list(tensors.items())[1:]), path, metadata)

    monkeypatch.setattr(folder, "write_tensors", forgetful)
    with pytest.raises(WeightsError, match="1 missing"):
        nf_zoo.save_pretrained(model, tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []
