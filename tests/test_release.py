"""The wheel and the source archive, built as for a release, without a download."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LARGEST = 95_000_000
"""Most bytes of the wheel: the shipped checkpoints and a little more."""


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Archives that ``python -m build`` makes of a copy of the tracked files."""
    root = tmp_path_factory.mktemp("release")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "nf_zoo", "weights"):
        source, target = ROOT / name, root / "source" / name
        target.parent.mkdir(exist_ok=True)
        ignored = shutil.ignore_patterns("__pycache__")
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, target, **({"ignore": ignored} if source.is_dir() else {}))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(root / "dist")]
    run = subprocess.run([*command, str(root / "source")], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return sorted((root / "dist").iterdir())


def test_the_archives_can_be_uploaded(distributions):
    """Warnings are errors: metadata and the description that the index shows."""
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, distributions)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert run.stdout.count("PASSED") == 2


def test_the_wheel_holds_the_package_and_is_small(distributions):
    (wheel,) = (path for path in distributions if path.suffix == ".whl")
    assert wheel.stat().st_size < LARGEST
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = next(name for name in names if name.endswith("METADATA"))
        text = archive.read(metadata).decode()
    wanted = [
        *((ROOT / "nf_zoo").rglob("*.py")),
        *((ROOT / "nf_zoo" / "data").iterdir()),
        *((ROOT / "nf_zoo").rglob("*.html")),
        ROOT / "nf_zoo" / "__init__.pyi",
    ]
    assert {path.relative_to(ROOT).as_posix() for path in wanted} <= names
    assert {name for name in names if name.endswith(".safetensors")} == {
        f"nf_zoo/{path.relative_to(ROOT)}" for path in (ROOT / "weights").rglob("*.safetensors")
    }
    assert not [name for name in names if name.startswith(("tests/", "training/"))]
    for line in ("Classifier: Typing :: Typed", "Project-URL: "):
        assert f"\n{line}" in text
