"""Text files are read and written in UTF-8, whatever the locale of the machine."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for room in ("nf_zoo", "training") for path in sorted((ROOT / room).rglob("*.py"))]
# Functions of ours and of others that know their encoding, or open no text.
OTHERS = {"atomic", "archive", "tarfile", "os", "Image"}


def calls_without_encoding(text: str) -> list[int]:
    """The lines of calls that read or write text in the encoding of the locale."""
    found = []
    for call in ast.walk(ast.parse(text)):
        if not isinstance(call, ast.Call):
            continue
        function = call.func
        name = getattr(function, "attr", getattr(function, "id", ""))
        owner = getattr(getattr(function, "value", None), "id", None)
        keywords = {keyword.arg for keyword in call.keywords}
        if name not in ("open", "read_text", "write_text") or keywords & {"encoding", None}:
            continue
        # open(path, mode), but path.open(mode)
        place = 1 if isinstance(function, ast.Name) else 0
        modes = [
            *call.args[place : place + 1],
            *(k.value for k in call.keywords if k.arg == "mode"),
        ]
        binary = any("b" in str(getattr(mode, "value", "")) for mode in modes)
        if owner not in OTHERS and not (binary and "open" in name):
            found.append(call.lineno)
    return found


@pytest.mark.fast
def test_every_text_file_has_an_encoding():
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        for line in calls_without_encoding(path.read_text(encoding="utf-8"))
    }
    assert found == set()


@pytest.mark.fast
def test_the_check_finds_what_it_looks_for():
    lines = {
        "path.read_text()": 1,
        'path.write_text("x")': 1,
        "open(path)": 1,
        'open(path, "w", newline="")': 1,
        "path.open()": 1,
        'folder().open("w")': 1,
        'open(path, "rb")': 0,
        'path.open(mode="wb")': 0,
        'path.read_text(encoding="utf-8")': 0,
        'atomic.write_text(path, "x")': 0,
        "Image.open(path)": 0,
    }
    for line, count in lines.items():
        assert len(calls_without_encoding(line)) == count, line
