"""A family is defined in its own file, and no other file names it."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

import nf_zoo
from nf_zoo.models.family import Family, Ledger, LinearGrowth
from nf_zoo.models.registry import FAMILIES, MODULES, architecture, architectures

pytestmark = pytest.mark.fast

ROOT = Path(nf_zoo.__file__).parent
OWN = {f"models/{name}.py" for name in MODULES}
"""A family may build on another, and a Wide ResNet is one of several."""

ALLOWED = {
    "models/registry.py": set(MODULES),
    "models/norm_free.py": {"NormFreeBlock"},
    "models/batch_norm_block.py": {"BatchNormBlock"},
    "models/skipinit_block.py": {"SkipInitBlock", "FixupBlock"},
    # Keras must find every block by its name and module.
    "registration.py": {
        *("NormFreeBlock", "BatchNormBlock", "SkipInitBlock", "FixupBlock"),
        *("nf_zoo.models.batch_norm_block", "nf_zoo.models.skipinit_block"),
    },
}
"""File -> what it names although it is no family's own."""


def names_of_families() -> set[str]:
    """Names of families, of their modules, records and blocks."""
    configs = {family.config.__name__ for family in FAMILIES.values()}
    blocks = {"NormFreeBlock", "BatchNormBlock", "SkipInitBlock", "FixupBlock"}
    modules = {f"nf_zoo.models.{name}" for name in (*MODULES, "batch_norm_block", "skipinit_block")}
    return {*FAMILIES, *MODULES, *configs, *blocks, *modules}


def named_in(path: Path) -> Iterator[str]:
    """Identifiers, modules and texts of a file, but for docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(getattr(node, "body", None), list)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            for alias in node.names:
                yield from (alias.name, f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import | ast.ClassDef):
            yield from (
                [node.name]
                if isinstance(node, ast.ClassDef)
                else (alias.name for alias in node.names)
            )
        elif isinstance(node, ast.Constant) and id(node) not in docstrings:
            yield str(node.value)


def test_no_file_names_a_family_but_its_own():
    families, found = names_of_families(), {}
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if name not in OWN:
            strangers = (set(named_in(path)) & families) - ALLOWED.get(name, set())
            if strangers:
                found[name] = sorted(strangers)
    assert found == {}


def test_the_test_sees_what_it_looks_for():
    assert "NFNetConfig" in set(named_in(ROOT / "models" / "nfnet.py"))
    assert {"wide_resnet", "regnety"} <= set(named_in(ROOT / "models" / "registry.py"))
    for name, allowed in ALLOWED.items():
        assert allowed <= set(named_in(ROOT / name)), name


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_record_is_whole(family: Family):
    assert family.build_trunk is None if family.delegate else callable(family.build_trunk)
    config = family.config()
    for fields in family.variants.values():
        dataclasses.replace(config, **fields)
    assert set(family.form) <= {field.name for field in dataclasses.fields(config)}
    owner, record = family.resolve(config)
    assert isinstance(owner.variance(record), Ledger | LinearGrowth | None)
    for name, (factory, _) in family.architectures.items():
        assert architecture(name).factory == factory


@pytest.mark.parametrize("source", ["nf_zoo", "timm", "haiku"])
def test_no_two_weights_have_one_name(source):
    for name, row in architectures().items():
        names = [key for _, key, _ in row.record.names(row.config, source) if key]
        assert len(set(names)) == len(names), name
        assert not [key for key in names if "{" in key]


def test_blocks_load_from_the_arguments_that_earlier_files_hold():
    """A saved graph holds every argument of a block by its name, wherever the block keeps it."""
    from nf_zoo.models.norm_free import NormFreeBlock

    arguments = {
        **{"filters": 8, "width": 4, "block": "bottleneck", "groups": 1, "beta": 0.9},
        **{"standardize": True, "alpha": 0.3, "gamma_in": "activation", "eps": 1e-3},
        **{"eps_form": "floor", "zero_init_gain": True, "skip_gain": 0.5, "attention": "se"},
        **{"attention_width": 2, "attention_inside": True, "strides": 2, "dilation": 1},
        **{"entry_dilation": 1, "projection": "average_pool", "padding": "same"},
        **{"activation": "silu", "stochastic_depth_rate": 0.1, "stochastic_depth_rescale": False},
        **{"rematerialize": False, "name": "stage1_block1", "trainable": True, "dtype": "float32"},
    }
    block = NormFreeBlock.from_config(arguments)
    assert (block.alpha, block.beta, block.skip_gain.initial_gain) == (0.3, 0.9, 0.5)
    assert (block.convs[0].eps, block.convs[0].eps_form, block.convs[0].gamma) == (1e-3, "floor", 1)
    assert block.attention.hidden == 2 and block.attended == 1
    kept = block.get_config()
    assert {name: kept[name] for name in arguments if name != "dtype"} == {
        name: value for name, value in arguments.items() if name != "dtype"
    }
