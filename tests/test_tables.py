"""The tables of models are made from the catalog: a new checkpoint is one record."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
REMEDY = "run python docs/make_models_table.py"


def test_the_tables_say_what_the_catalog_says():
    made = runpy.run_path(str(ROOT / "docs/make_models_table.py"))
    for page, make in (("models.md", "models_page"), ("choose.md", "with_table")):
        text = (ROOT / "docs" / page).read_text()
        assert made[make](text) == text, REMEDY
