"""Blocks of README and docs that need no download run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import succeed

ROOT = Path(__file__).parents[1]


def blocks_of(page: str) -> list[str]:
    """The blocks of Python of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_loop_of_ones_own(tmp_path):
    (block,) = (block for block in blocks_of("README.md") if "model.fit(" in block)
    succeed(block, cwd=tmp_path)
    assert (tmp_path / "mine.keras").is_file()


def test_the_guide_to_fine_tuning(few_pets):
    blocks = blocks_of("docs/finetuning.md")
    assert len(blocks) == 4
    succeed("\n".join(blocks), cwd=few_pets)
    assert (few_pets / "pets-model" / "model.keras").is_file()


def test_the_guide_to_conversion(tmp_path):
    said = succeed("\n".join(blocks_of("docs/convert.md")), cwd=tmp_path).stdout
    assert said.startswith("156 104\n{}\n")
    assert (tmp_path / "mine.keras").is_file()


@pytest.fixture
def few_pets(tmp_path):
    """A folder with pets/cat and pets/dog, ten pictures each."""
    rng = np.random.default_rng(0)
    for base, label in ((60, "cat"), (170, "dog")):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for index in range(10):
            pixels = base + rng.integers(0, 60, (40, 48, 3))
            Image.fromarray(pixels.astype("uint8")).save(tmp_path / "pets" / label / f"{index}.png")
    return tmp_path
