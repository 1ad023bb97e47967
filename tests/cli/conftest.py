"""A tiny network in every form it can be saved in, and pictures for it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stand_in_hub import hub, hub_server

__all__ = ["hub", "hub_server"]

LABELS = ("blue", "green", "red")
TINY = {"depths": (1,), "widths": (8,), "stem_width": 8}


def build(**options):
    """A network that says red, green or blue, each of them sometimes, and is not always right."""
    import keras

    from nf_zoo.models.classifier import build_model
    from nf_zoo.pictures.preprocessing import Preprocessing

    keras.utils.set_random_seed(20261123)
    settings = {"labels": LABELS, "preprocessing": Preprocessing(16, 0.8), **TINY}
    model = build_model("nf_resnet10", **{**settings, **options})
    if model.num_classes:
        kernel = np.random.default_rng(14).normal(size=model.head.kernel.shape)
        model.head.kernel.assign(kernel)
    return model


def write_pictures(root: Path, count: int, seed: int = 0) -> Path:
    """A folder for each color, with noisy pictures of all sizes."""
    rng = np.random.default_rng(seed)
    for channel, label in enumerate(reversed(LABELS)):
        (root / label).mkdir(parents=True)
        for index in range(count):
            height, width = rng.integers(16, 40, 2)
            pixels = rng.integers(0, 120, (height, width, 3), dtype="uint8")
            pixels[..., channel] += 130
            Image.fromarray(pixels).save(root / label / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def model():
    return build()


@pytest.fixture(scope="session")
def build_tiny() -> Callable:
    return build


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Four pictures of each of three colors."""
    return write_pictures(tmp_path_factory.mktemp("pictures") / "colors", 4)


@pytest.fixture(scope="session")
def saved(model, tmp_path_factory) -> dict[str, Path]:
    """The network as a file, a fine-tuning folder, a pretrained folder and a SavedModel."""
    from nf_zoo.deploy.saved_model import export_saved_model
    from nf_zoo.hub.folder import save_pretrained

    root = tmp_path_factory.mktemp("models")
    tuned = root / "tuned"
    tuned.mkdir()
    model.save(tuned / "model.keras")
    return {
        "keras": tuned / "model.keras",
        "tuned": tuned,
        "pretrained": save_pretrained(model, root / "pretrained"),
        "saved_model": export_saved_model(model, root / "saved_model"),
    }


@pytest.fixture(scope="session")
def exported(model, tmp_path_factory) -> dict[str, Path]:
    """The network as a file of every format that is one."""
    from nf_zoo.deploy.formats import SUFFIXES

    root = tmp_path_factory.mktemp("exported")
    return {
        row.name: row.load()(model, root / f"model{suffix}") for suffix, row in SUFFIXES.items()
    }


@pytest.fixture(scope="session")
def answer() -> Callable:
    """Carry out a command with ``--json``; returns its exit code and what it printed."""
    from nf_zoo.cli import main

    def run(*arguments):
        with redirect_stdout(io.StringIO()) as printed:
            code = main([str(argument) for argument in (*arguments, "--json")])
        return code, json.loads(printed.getvalue())

    return run
