"""A finished run becomes a checkpoint that ships."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import nf_zoo
from nf_zoo.hub.card import CardDetails
from nf_zoo.hub.catalog import read_catalog, weights_directory
from training.recipe import RecipeError
from training.session import run
from training.ship import ship

NAME = "wide_resnet10_1.squares"
DETAILS = CardDetails(
    checkpoint=NAME, license="mit", dataset_name="Squares", command="python -m training.main"
)


@pytest.fixture
def finished(recipe, tmp_path):
    recipe.steps, recipe.evaluation.every_epochs = 6, 0.5
    run(recipe, tmp_path / "run", strategy="one_device")
    return tmp_path / "run"


@pytest.fixture
def weights(tmp_path):
    """An own weights directory with the catalog alone."""
    folder = tmp_path / "weights"
    folder.mkdir()
    shutil.copy(weights_directory() / "catalog.toml", folder)
    return folder


@pytest.fixture
def pictures(recipe, tmp_path):
    """The test pictures of the recipe, as class folders."""
    with np.load(recipe.data.source.partition(":")[2]) as arrays:
        rows = zip(arrays["test_images"], arrays["test_classes"], strict=True)
        for number, (image, one) in enumerate(rows):
            folder = tmp_path / "pictures" / str(arrays["labels"][one])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.png")
    return tmp_path / "pictures"


def test_a_run_becomes_a_checkpoint(finished, weights, pictures):
    record = ship(finished, NAME, pictures, DETAILS, weights)
    assert record in read_catalog(weights / "catalog.toml")
    assert record.source == "shipped" and record.num_classes == 4

    shipped = nf_zoo.load_pretrained(weights / NAME)
    metrics = json.loads((weights / NAME / "metrics.json").read_text())
    assert nf_zoo.evaluate(shipped, pictures)["accuracy"] == metrics["accuracy"]
    assert record.top1 == round(100 * metrics["accuracy"], 2)
    assert metrics["seed"] == 0 and metrics["recipe"]["steps"] == 6 and metrics["commit"]
    card = (weights / NAME / "README.md").read_text()
    assert f"{record.top1:.2f} %" in card and f'create_model("{NAME}", pretrained=True)' in card

    with (weights / NAME / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [row["step"] for row in history] == ["3", "6"]
    minutes = [float(row["minutes"]) for row in history]
    assert 0 <= minutes[0] <= minutes[1] < 60
    last = json.loads((finished / "results.json").read_text())
    assert float(history[-1]["test_top1"]) == pytest.approx(last["top1"], abs=0.01)

    with pytest.raises(FileExistsError):
        ship(finished, NAME, pictures, DETAILS, weights)


def test_a_run_that_begins_with_an_earlier_one_ships_both_logs(
    finished, recipe, tmp_path, weights, pictures
):
    recipe.model.weights, recipe.steps, recipe.seed = str(finished / "model"), 3, 1
    recipe.optimizer.learning_rate = 1e-9  # the weights stay as they are
    recipe.regularization.weight_decay = 0.0
    values = run(recipe, tmp_path / "again", strategy="one_device")
    earlier = json.loads((finished / "results.json").read_text())
    assert values["loss"] == pytest.approx(earlier["loss"], rel=1e-4)

    ship(tmp_path / "again", NAME, pictures, DETAILS, weights)
    with (weights / NAME / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [row["step"] for row in history] == ["3", "6", "9"]
    assert float(history[2]["minutes"]) >= float(history[1]["minutes"])
    text = (weights / NAME / "metrics.json").read_text()
    metrics = json.loads(text)
    assert metrics["seed"] == 1 and metrics["recipe"]["model.weights"] == "run/model"
    assert [one["seed"] for one in metrics["earlier_runs"]] == [0]
    assert metrics["earlier_runs"][0]["recipe"]["steps"] == 6
    assert str(tmp_path) not in text


def test_what_cannot_ship_leaves_nothing(finished, weights, pictures):
    before = (weights / "catalog.toml").read_text()
    with pytest.raises(RecipeError, match=r"wide_resnet10_1\.TAG"):
        ship(finished, "wide_resnet16_1.squares", pictures, DETAILS, weights)
    with pytest.raises(ValueError):
        ship(finished, NAME, pictures.parent, DETAILS, weights)
    (finished / "results.json").unlink()
    with pytest.raises(RecipeError, match="finished"):
        ship(finished, NAME, pictures, DETAILS, weights)
    assert [path.name for path in weights.iterdir()] == ["catalog.toml"]
    assert (weights / "catalog.toml").read_text() == before
