"""A network of every family through a whole life, each part of it in a process of its own.

Built, frozen, compiled with clipping and mixed precision, fitted, checkpointed, killed, restored,
saved, loaded, cloned, nested, unfrozen, fitted, folded, exported, published and loaded again.
"""

from __future__ import annotations

import json
from pathlib import Path

import keras
import life
import numpy as np
import pytest
import tiny_networks
from programs import printed_by, run
from stand_in_hub import hub, hub_server

import nf_zoo

__all__ = ["hub", "hub_server"]

HERE = Path(__file__).parent
PIXELS, CLASSES = life.pictures()
TOKEN = "hf_" + "stand" * 6

SERVED = """
import json
import numpy as np
import tensorflow as tf
answers = {{}}
for label in {labels}:
    loaded = tf.saved_model.load(f"{folder}/{{label}}/exported")
    answers[label] = loaded.predict(tf.constant({pictures}, tf.uint8))["probabilities"].numpy()
import sys
assert "nf_zoo" not in sys.modules
np.savez("{folder}/served.npz", **answers)
print("done")
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder in which one process began training, and another one ended it."""
    folder = tmp_path_factory.mktemp("life")
    script = "import runpy; runpy.run_path('tests/life.py', run_name='__main__')"
    for part, code in (("begin", 9), ("go_on", 0)):
        done = run(script, part, folder, PYTHONPATH=f"{HERE.parent}:{HERE}")
        assert done.returncode == code, done.stderr[-2000:]
    return folder


def trainable_names(model) -> list[str]:
    from nf_zoo.models.classifier import variable_names

    return [name for name, variable in variable_names(model).items() if variable.trainable]


@pytest.mark.parametrize("label", list(life.FAMILIES))
def test_a_killed_training_ends_as_an_uninterrupted_one(label, trained):
    resumed = keras.saving.load_model(trained / label / "model.keras")
    whole = keras.saving.load_model(trained / label / "uninterrupted.keras")
    for one, two in zip(resumed.variables, whole.variables, strict=True):
        np.testing.assert_array_equal(one, two, err_msg=one.path)
    for one, two in zip(resumed.optimizer.variables, whole.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, two, err_msg=one.path)


@pytest.mark.parametrize("label", list(life.FAMILIES))
def test_what_was_frozen_is_as_it_was_at_birth(label, trained):
    """In the last file, in the checkpoints, and when training goes on from them."""
    born = life.born(label)
    frozen = [*born.layers[1].weights, *born.blocks[0].convs[0].weights]
    for name in ("model", "1", "4"):
        model = keras.saving.load_model(trained / label / f"{name}.keras")
        assert trainable_names(model) == trainable_names(born)
        assert model.optimizer.inner_optimizer.iterations == (2 if name == "1" else 8)
        model.run_eagerly = name != "model"  # for one step, it takes a quarter of the time
        model.fit(PIXELS, CLASSES, verbose=0)
        now = [*model.layers[1].weights, *model.blocks[0].convs[0].weights]
        for one, two in zip(frozen, now, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("label", list(life.FAMILIES))
def test_the_second_half(label, trained, hub, tmp_path, monkeypatch):
    model = nf_zoo.load_pretrained(trained / label / "model.keras")
    expected = model.predict(PIXELS, verbose=0)

    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone.predict(PIXELS, verbose=0), expected)

    inputs = keras.Input((16, 16, 3))
    nested = keras.Model(inputs, keras.layers.Dense(2)(model(inputs)))
    nested.save(tmp_path / "nested.keras")
    again = keras.saving.load_model(tmp_path / "nested.keras")
    np.testing.assert_array_equal(
        again.predict(PIXELS, verbose=0), nested.predict(PIXELS, verbose=0)
    )
    assert len(again.trainable_variables) == len(model.trainable_variables) + 2

    for layer in model.layers:
        layer.trainable = True
    model.blocks[0].convs[0].trainable = True
    born = life.born(label)
    life.compile_with_clipping(model)
    model.fit(PIXELS, CLASSES, epochs=2, verbose=0)
    assert len(trainable_names(model)) > len(trainable_names(born))
    stems = [np.asarray(one.layers[1].kernel) for one in (model, born)]
    assert np.abs(stems[0] - stems[1]).max() > 0

    exact = life.in_float32(model)
    folded = nf_zoo.fold(exact)
    logits = exact.predict(PIXELS, verbose=0)
    assert tiny_networks.difference(folded.predict(PIXELS, verbose=0), logits) < 1e-4
    nf_zoo.export_onnx(exact, tmp_path / "model.onnx")  # compares with ONNX Runtime

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    nf_zoo.push_to_hub(exact, f"me/{label}")
    published = nf_zoo.load_pretrained(f"hf://me/{label}")
    assert published.labels == life.LABELS
    np.testing.assert_array_equal(published.predict(PIXELS, verbose=0), logits)


def test_the_exports_answer_without_nf_zoo(trained):
    labels = list(life.FAMILIES)
    program = SERVED.format(
        labels=labels, folder=trained, pictures=json.dumps(life.raw_pictures().tolist())
    )
    assert printed_by(program) == "done"
    served = np.load(trained / "served.npz")
    for label in labels:
        logits = np.load(trained / label / "logits.npy")
        expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(served[label], expected, atol=1e-4, err_msg=label)
