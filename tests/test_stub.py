"""nf_zoo/__init__.pyi, and the signatures and docstrings that editors show."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nf_zoo
from nf_zoo.hub.factories import FACTORIES, OPTIONS
from nf_zoo.models.configuration import field_types

pytestmark = pytest.mark.fast

PROGRAM = """\
import nf_zoo
model = nf_zoo.NFResNet50(num_classes=3, drop_rate=0.2)
print(nf_zoo.finetune(model, "pets", epochs=3).metrics["accuracy"])
nf_zoo.DoesNotExist
nf_zoo.NFResNet50(beta=2)
nf_zoo.finetune(model, "pets", epoch=3)
"""
GENERATOR = Path(__file__).parents[1] / "docs" / "make_stub.py"


def test_the_stub_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_stub", GENERATOR)
    make_stub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_stub)
    written = make_stub.STUB.read_text(encoding="utf-8")
    assert written == make_stub.stub(), "run python docs/make_stub.py"


def test_the_stub_has_every_public_name_and_no_other():
    tree = ast.parse(Path(nf_zoo.__file__).with_name("__init__.pyi").read_text(encoding="utf-8"))
    names = {a.asname for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names}
    names |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert names - {None} == {*nf_zoo._HOMES, *nf_zoo._MODULES, *FACTORIES}


@pytest.mark.slow
def test_a_type_checker_knows_names_and_options(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    options = ("--ignore-missing-imports", "--follow-imports=silent", f"--cache-dir={tmp_path}")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(program)],
        env={**os.environ, "MYPYPATH": str(GENERATOR.parents[1])},
        capture_output=True,
        text=True,
    )
    found = re.findall(r"program\.py:(\d+): error: (.+)", done.stdout)
    refused = {int(line): text for line, text in found}
    assert refused.keys() == {4, 5, 6}, done.stdout + done.stderr
    for line, word in ((4, "DoesNotExist"), (5, '"beta"'), (6, '"epoch"')):
        assert word in refused[line]


def test_a_factory_lists_the_fields_of_its_record():
    parameters = inspect.signature(nf_zoo.NFResNet50).parameters
    assert list(parameters)[:3] == ["pretrained", "variant", "num_classes"]
    assert parameters["depths"].default == (3, 4, 6, 3)
    assert parameters["attention"].default is None
    assert inspect.signature(nf_zoo.NFSEResNet50).parameters["attention"].default == "se"
    assert "group_width" not in parameters
    assert "group_width" in inspect.signature(nf_zoo.RegNetY004).parameters


@pytest.mark.parametrize("name", FACTORIES)
def test_every_factory_describes_every_argument(name):
    factory, config = getattr(nf_zoo, name), FACTORIES[name].config
    parameters = inspect.signature(factory).parameters
    assert set(parameters) == {*OPTIONS.parameters, *field_types(type(config))}
    arguments = factory.__doc__.partition("Args:\n")[2].partition("\n\n")[0]
    described = [line.partition(":")[0].strip() for line in arguments.splitlines() if ":" in line]
    assert [name for name in parameters if name not in described] == []


def test_none_leaves_an_option_to_its_default():
    options = dict.fromkeys(set(OPTIONS.parameters) - {"pretrained", "pooling"})
    model = nf_zoo.NFResNet26(**options, depths=(1,), widths=(8,), stem_width=8)
    assert model.output_shape == (None, 1000) and model.name == "nf_resnet26"
    bare = nf_zoo.NFResNet26(num_classes=0, pooling=None, depths=(1,), widths=(8,), name="body")
    assert bare.output_shape == (None, None, None, 8) and bare.name == "body"
