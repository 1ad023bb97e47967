"""The notebooks of examples/ run as they stand, and show what they were committed with."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


REMARKS = ("INFO:", "WARNING:", "I0000", "W0000", "E0000", "To enable")
"""TensorFlow's remarks on the machine begin so."""


def kinds(book) -> list[list[str]]:
    """Return the kinds of output of each cell, without what TensorFlow remarks."""
    return [
        [kind for kind in map(kind_of, cell.outputs) if kind]
        for cell in book.cells
        if cell.cell_type == "code"
    ]


def kind_of(output) -> str:
    if output.output_type != "stream":
        return sorted(output["data"])[0]
    lines = [line for line in output.text.splitlines() if not line.startswith(REMARKS)]
    return "text" if any(lines) and output.name == "stdout" else ""


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
