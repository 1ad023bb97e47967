"""The tables of models are made from the catalog: a new checkpoint is one record."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from nf_zoo import list_models, model_info
from nf_zoo.cli.arguments import build_parser
from nf_zoo.hub.models import parameter_counts

ROOT = Path(__file__).parents[1]
REMEDY = "run python docs/make_models_table.py"


def test_the_tables_say_what_the_catalog_says():
    made = runpy.run_path(str(ROOT / "docs/make_models_table.py"))
    for page, make in (("models.md", "models_page"), ("choose.md", "with_table")):
        text = (ROOT / "docs" / page).read_text()
        assert made[make](text) == text, REMEDY


@pytest.mark.fast
def test_the_guide_lists_every_option_of_finetune(capsys):
    text = (ROOT / "docs/finetuning.md").read_text(encoding="utf-8")
    made = runpy.run_path(str(ROOT / "docs/make_options_table.py"))
    assert made["with_table"](text) == text, "run python docs/make_options_table.py"
    with pytest.raises(SystemExit):
        build_parser().parse_args(["finetune", "--help"])
    flags = set(re.findall(r"--([a-z-]+)", capsys.readouterr().out))
    known = set(re.findall(r"\n\| `(\w+)`\*? \|", text))
    flags = {flag.removeprefix("no-").replace("-", "_") for flag in flags}
    # The network and the folder are arguments of their own in Python.
    assert flags - known == {"help", "debug", "model", "pretrained", "set"}


@pytest.mark.fast
def test_the_parameters_of_every_network_are_known():
    counts = parameter_counts()
    remedy = "run python docs/make_parameters_table.py"
    assert set(list_models()) <= set(counts), remedy
    for name in ("nf_resnet26", "wide_resnet16_1", "nf_resnet26.tiny_imagenet", "nf_resnet10"):
        assert counts[name] == model_info(name).parameters, remedy
