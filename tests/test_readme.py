"""Blocks of README that need nothing beside them run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

from programs import succeed

README = Path(__file__).parents[1] / "README.md"


def test_the_loop_of_ones_own(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if "model.fit(" in block)
    succeed(block, cwd=tmp_path)
    assert (tmp_path / "mine.keras").is_file()
