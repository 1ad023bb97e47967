"""Saved models open in a process that has imported nf_zoo and Keras and nothing else."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path

import keras
import numpy as np
import programs
import pytest
import tiny_networks

import nf_zoo
from nf_zoo.registration import CLASSES, StandIn

LOADER = """
{imports}
import json, sys
import numpy as np
found = {{}}
for name in {names}:
    model = keras.saving.load_model(f"{folder}/{{name}}.keras")
    pixels = np.load("{folder}/pixels.npy")
    answers = np.asarray(model.predict_on_batch(pixels))
    found[name] = float(np.abs(answers - np.load(f"{folder}/{{name}}.npy")).max())
print(json.dumps(found, separators=(",", ":")))
"""


def _compiled(optimizer):
    model = tiny_networks.filled("nf_resnet", "registration")
    model.compile(optimizer(model), "sparse_categorical_crossentropy")
    return model


def _clipping(model):
    return nf_zoo.AdaptiveGradientClipping(keras.optimizers.SGD(0.1), exclude=model.head)


def _grouped(model):
    groups = nf_zoo.parameter_groups(model, layer_decay=0.5)
    return nf_zoo.GroupedOptimizer(keras.optimizers.SGD(0.1), groups)


def _sequential():
    body = tiny_networks.filled("nfnet", "registration").with_classifier(0)
    return keras.Sequential([keras.Input((47, 64, 3)), body, keras.layers.Dense(2)])


def _functional():
    inputs = keras.Input((47, 64, 3))
    x = nf_zoo.layers.ScaledWSConv2D(8, 3)(inputs)
    x = nf_zoo.layers.SqueezeExcite(4, gate_gain=2.0)(nf_zoo.layers.ScaledActivation()(x))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


MODELS = {
    **{
        label: lambda label=label: tiny_networks.filled(label, "registration")
        for label in ("nf_regnet", "regnety", "resnet_v2", "fixup_resnet", "skipinit_resnet")
    },
    "folded": lambda: nf_zoo.fold(tiny_networks.filled("nf_resnet", "registration")),
    "sequential": _sequential,
    "functional": _functional,
    "clipping": lambda: _compiled(_clipping),
    "grouped": lambda: _compiled(_grouped),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with a file of every model, some pixels, and what each says of them."""
    folder = tmp_path_factory.mktemp("saved")
    pixels = tiny_networks.images(1)
    np.save(folder / "pixels.npy", pixels)
    for name, make in MODELS.items():
        model = make()
        np.save(folder / f"{name}.npy", np.asarray(model(pixels, training=False)))
        model.save(folder / f"{name}.keras")
    return folder


@pytest.mark.parametrize(
    ("imports", "backend"),
    [
        ("import nf_zoo, keras", "tensorflow"),
        ("import keras, nf_zoo", "tensorflow"),
        ("import nf_zoo, keras", "jax"),
    ],
)
def test_every_kind_of_model_opens_in_a_new_process(imports, backend, saved):
    program = LOADER.format(imports=imports, names=list(MODELS), folder=saved)
    # The copies of a running process have imported Keras already.
    settings = {} if imports.startswith("import keras") else {"KERAS_BACKEND": backend}
    differences = json.loads(programs.printed_by(program, **settings))
    assert set(differences) == set(MODELS)
    assert max(differences.values()) < 1e-4, differences


@pytest.mark.fast
@pytest.mark.slow
def test_the_table_holds_every_class_there_is():
    """A class that is not in it would open in this process alone."""
    for module in pkgutil.walk_packages(nf_zoo.__path__, "nf_zoo."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    registered = {
        name.removeprefix("nf_zoo>"): kind
        for name, kind in keras.saving.get_custom_objects().items()
        if name.startswith("nf_zoo>")
    }
    assert not any(isinstance(kind, StandIn) for kind in registered.values())
    listed = {name: module for module, names in CLASSES.items() for name in names}
    assert set(listed) == set(registered)
    for name, module in listed.items():
        assert getattr(importlib.import_module(module), name) is registered[name]


@pytest.mark.parametrize(
    "first",
    [
        "nf_zoo.layers",
        "nf_zoo.models.classifier",
        "nf_zoo.hub.loading",
        "nf_zoo.optimizers",
        "nf_zoo.deploy.fold",
        "nf_zoo.finetuning",
        "tensorflow",
    ],
)
def test_whatever_imports_keras_may_be_one_of_ours(first):
    program = (
        f"import nf_zoo, {first}, keras; "
        "names = [n for n in keras.saving.get_custom_objects() if n.startswith('nf_zoo>')]; "
        "print(len(names))"
    )
    # JAX takes half the time; TensorFlow imports Keras, too, while Keras imports it.
    backend = "tensorflow" if first in ("tensorflow", "nf_zoo.layers") else "jax"
    found = int(programs.printed_by(program, KERAS_BACKEND=backend))
    assert found == sum(map(len, CLASSES.values()))
