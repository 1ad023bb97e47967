"""One table of formats, from which everything else that knows them follows."""

from __future__ import annotations

import dataclasses
import inspect
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import nf_zoo
from nf_zoo.cli.arguments import build_parser
from nf_zoo.deploy.formats import FORMATS, format_of

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("row", FORMATS.values(), ids=lambda row: row.name)
def test_a_row_says_what_its_function_takes(row):
    function = getattr(nf_zoo, row.function)
    assert function is row.load() and row.function in dir(nf_zoo)
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:3] == ["model", "path", "overwrite"]
    assert list(parameters)[3:] == [field.name for field in dataclasses.fields(row.options)]
    if row.precisions:
        assert parameters["precision"].default == next(iter(row.checks))
    assert row.extra or not row.packages


def test_the_command_offers_every_format(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["export", "--help"])
    text = capsys.readouterr().out
    for row in FORMATS.values():
        assert row.flag in text and row.title in text and row.suffix in text
        assert build_parser().parse_args(["export", "m", "x", "--format", row.flag])


def test_the_format_of_a_path():
    assert {format_of(f"x{row.suffix}") is row for row in FORMATS.values()} == {True}
    assert format_of("x.onnx", "litert") is FORMATS["litert"]
    for folder in ("x", "x.v2", "x-1.2", "x.2026"):
        assert format_of(folder) is FORMATS["saved_model"]
    for file in ("x.h5", "x.keras", "x.pb", "x.onxx"):
        with pytest.raises(ValueError, match=r"must end in \.onnx, .*Received: x\."):
            format_of(file)
        assert format_of(file, "saved-model") is FORMATS["saved_model"]


def test_the_guide_has_the_table():
    table = runpy.run_path(str(ROOT / "docs" / "make_formats_table.py"))["table"]
    assert table() in (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_the_table_costs_no_import():
    code = "import sys, nf_zoo.deploy.formats as f; f.format_of('x'); print('keras' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize("row", FORMATS.values(), ids=lambda row: row.name)
def test_the_home_folder_can_be_written_short(row, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert row.target(f"~/new{row.suffix}", overwrite=False) == tmp_path / f"new{row.suffix}"
