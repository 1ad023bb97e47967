"""The notebooks of examples/ run as they stand, and show what they were committed with."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def kinds(book) -> list[list[str]]:
    """Return the kinds of output of each cell; TensorFlow's remarks on the machine do not count."""
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    shown = [[o for o in cell.outputs if o.get("name") != "stderr"] for cell in cells]
    return [[o.get("name") or sorted(o["data"])[0] for o in outputs] for outputs in shown]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_was_committed_with(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    committed, book = (nbformat.read(path, as_version=4) for _ in range(2))
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(book, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert kinds(book) == kinds(committed)
    assert any(map(len, kinds(book)))
    assert "%pip install" in book.cells[1].source
