"""JAX and TensorFlow give the same answers, and open each other's files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny_networks

import nf_zoo
from nf_zoo.models.registry import FAMILIES

HERE = Path(__file__).parent
TOLERANCE = 1e-5
LABELS = list(tiny_networks.NETWORKS)


@pytest.fixture(scope="module")
def answered(tmp_path_factory) -> Path:
    """The folder that answer_under_another_backend.py has filled, in one process for all."""
    folder = tmp_path_factory.mktemp("backends")
    for label in LABELS:
        model = tiny_networks.filled(label, "ours")
        nf_zoo.save_pretrained(model, folder / label / "weights")
        model.save(folder / label / "model.keras")
        np.save(folder / label / "ours.npy", model.predict_on_batch(tiny_networks.images()))
    script = HERE / "answer_under_another_backend.py"
    roots = os.pathsep.join([str(HERE.parents[1]), str(HERE.parent)])
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join([roots, os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, script, folder], check=True, env=environment)
    return folder


def test_every_family_is_compared(answered):
    assert tiny_networks.families() == set(FAMILIES)
    assert keras.backend.backend() == "tensorflow"
    assert (answered / "backend.txt").read_text() == "jax"


@pytest.mark.parametrize("label", LABELS)
def test_jax_answers_as_tensorflow_does(label, answered):
    expected = np.load(answered / label / "ours.npy")
    assert np.ptp(expected, axis=0).max() > 1e-3 * np.abs(expected).max()
    actual = np.load(answered / label / "theirs.npy")
    assert tiny_networks.difference(actual, expected) <= TOLERANCE


@pytest.mark.parametrize("label", LABELS)
def test_tensorflow_opens_what_jax_saved(label, answered):
    expected = np.load(answered / label / "own.npy")
    ours = np.load(answered / label / "ours.npy")
    assert tiny_networks.difference(expected, ours) > 0.01
    model = keras.models.load_model(answered / label / "own.keras")
    actual = model.predict_on_batch(tiny_networks.images())
    assert tiny_networks.difference(actual, expected) <= TOLERANCE
