"""The checkpoints that come with the package: what the pages say of them is what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nf_zoo.hub.catalog import find_record, read_catalog, weights_directory

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]
SHIPPED = {record.name: record for record in read_catalog() if record.source == "shipped"}
SIBLINGS = [
    *(
        tuple(
            f"wide_resnet16_{width}.{tag}" for tag in ("cifar10", "cifar10_bn", "cifar10_skipinit")
        )
        for width in (1, 2, 4)
    ),
    ("nf_resnet26.tiny_imagenet", "resnetv2_26.tiny_imagenet"),
]


def metrics(name: str) -> dict:
    return json.loads((weights_directory() / name / "metrics.json").read_text())


@pytest.mark.parametrize("name", SHIPPED)
def test_the_record_has_the_measured_accuracy(name):
    found = metrics(name)
    percent = found["top1"] if "top1" in found else 100 * found["accuracy"]  # the older form first
    assert SHIPPED[name].top1 == round(percent, 2)


@pytest.mark.parametrize("name", [name for name in SHIPPED if "recipe" in metrics(name)])
def test_the_card_names_the_pictures_of_the_recipe(name):
    tested = metrics(name)["recipe"]["data.test"]
    split = "validation" if tested.startswith("val") else "test"
    card = (weights_directory() / name / "README.md").read_text()
    assert f"| {split} | 10,000 | Top-1 accuracy |" in card


@pytest.mark.parametrize("names", SIBLINGS, ids=lambda names: names[0])
def test_siblings_have_one_recipe_and_one_seed(names):
    first, *others = (metrics(name) for name in names)
    for other in others:
        ours, theirs = first["recipe"], other["recipe"]
        assert ours.keys() == theirs.keys() and first["seed"] == other["seed"]
        differing = {key for key in ours if ours[key] != theirs[key]}
        assert differing <= {"name", "model.architecture", "model.fields"}


def test_the_table_of_choices_has_the_accuracies_of_the_catalog():
    section = (ROOT / "docs/choose.md").read_text().split("| Name |")[1].split("\n\n")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) > 10
    for name, _, _, weights, _, accuracies in rows:
        architecture = re.search("`(.+?)`", name)[1]
        records = [find_record(architecture, tag) for tag in re.findall("`(.+?)`", weights)]
        records = [record for record in records if record]  # pretrained=True is no tag
        assert re.findall(r"\d+\.\d+", accuracies) == [f"{record.top1:.2f}" for record in records]


def test_the_results_have_the_accuracies_of_the_checkpoints():
    page = (ROOT / "docs" / "results.md").read_text()
    quoted = re.findall(r"\[(\d+\.\d+)\]\(\.\./weights/(.+?)/README.md\)", page)
    assert len(quoted) == 9
    for accuracy, name in quoted:
        assert accuracy == f"{SHIPPED[name].top1:.2f}"
