"""Opens the networks that the tests have written and answers for them; run as a process of its own.

    KERAS_BACKEND=jax python answer_under_another_backend.py FOLDER

FOLDER/<label>/ holds model.keras and weights/ (as save_pretrained writes them), the same network
twice. Beside them appear its answer, theirs.npy, and a network with other weights, own.keras, with
its answer, own.npy.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import tiny_networks

import nf_zoo
from nf_zoo.models.classifier import variable_names


def main(folder: Path) -> None:
    for label in tiny_networks.NETWORKS:
        place = folder / label
        model = keras.models.load_model(place / "model.keras")
        answer(model, place / "theirs.npy")
        tiny_networks.fill(model, "own")
        model.save(place / "own.keras")
        answer(model, place / "own.npy")
        check_same_weights(
            nf_zoo.load_pretrained(place / "weights"),
            keras.models.load_model(place / "model.keras"),
        )
    (folder / "backend.txt").write_text(keras.backend.backend())


def answer(model, path: Path) -> None:
    np.save(path, np.asarray(model.predict_on_batch(tiny_networks.images())))


def check_same_weights(model, other) -> None:
    """Of one graph: then they answer alike, and need not be compiled twice to show it."""
    assert model.get_config()["architecture"] == other.get_config()["architecture"]
    assert model.config == other.config
    mine, theirs = variable_names(model), variable_names(other)
    assert list(mine) == list(theirs)
    for name in mine:
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)


if __name__ == "__main__":
    with tiny_networks.undrawn():
        main(Path(sys.argv[1]))
