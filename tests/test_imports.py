"""Imports go one way: no file imports one that imports it, not even inside a function."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[1]
PACKAGES = ("nf_zoo", "training")


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    return {module_of(path): path for name in PACKAGES for path in (ROOT / name).rglob("*.py")}


def imports_of(path: Path, known: set[str]) -> set[str]:
    """The modules of ours that a file names in import statements, wherever these stand."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            # A name of a package may be a module in it.
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in inner if name in known} or {node.module}
    return found & known


def test_no_circles():
    paths = modules()
    graph = {name: imports_of(path, set(paths)) for name, path in paths.items()}
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"These import each other: {' -> '.join(error.args[1])}")


ORDER = (
    *("layers", "pictures", "models", "optimizers", "signal_propagation", "deploy"),
    *("conversion", "hub", "finetuning", "demonstration", "cli"),
)
"""Rooms of nf_zoo, each of which may import those before it."""


def test_rooms_import_those_below_them():
    paths = modules()
    rooms = {name: name.split(".")[1] for name in paths if name.startswith("nf_zoo.")}
    assert {room for room in rooms.values() if (ROOT / "nf_zoo" / room).is_dir()} == set(ORDER)
    upwards = {
        f"{name} imports {other}"
        for name, room in rooms.items()
        for other in imports_of(paths[name], set(paths))
        if room in ORDER and rooms.get(other) in ORDER
        if ORDER.index(rooms[other]) > ORDER.index(room)
    }
    assert not upwards


@pytest.mark.parametrize(
    ("package", "allowed"),
    [("nf_zoo.layers", ("nf_zoo.layers",)), ("nf_zoo", ("nf_zoo",))],
)
def test_what_a_package_may_know(package, allowed):
    """layers/ imports nothing of ours, and nf_zoo nothing of training/."""
    paths = modules()
    for name, path in paths.items():
        if name == package or name.startswith(f"{package}."):
            others = {x for x in imports_of(path, set(paths)) if not x.startswith(allowed)}
            assert not others, f"{name} imports {sorted(others)}"
