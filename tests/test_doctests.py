"""The examples of public docstrings run as they stand, in a folder that has a few pictures."""

from __future__ import annotations

import doctest
import inspect

import numpy as np
import pytest
from PIL import Image

import nf_zoo

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
WITHOUT = {"Any", "FORMATS", "annotations", "register_with_keras"}
"""Names of the namespace that are no part of the library."""


def _documented() -> dict[str, object]:
    """Every public object, and one factory: the others share the form of its docstring."""
    found = {}
    for name in sorted(dir(nf_zoo)):
        value = getattr(nf_zoo, name)
        factory = inspect.isfunction(value) and name[0].isupper() and name != "NFResNet14"
        if not (name.startswith("_") or name in WITHOUT or inspect.ismodule(value) or factory):
            found[name] = value
    return found


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("examples")
    generator = np.random.default_rng(0)
    for name in ("cat.jpg", *(f"pets/{pet}/{n}.png" for pet in ("cat", "dog") for n in range(10))):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (40, 48, 3)).astype("uint8")
        Image.fromarray(pixels).save(root / name)
    return root


@pytest.mark.parametrize("name", _documented())
def test_examples(name, pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    value = getattr(nf_zoo, name)
    examples = doctest.DocTestFinder(recurse=False).find(value, name, globs={})
    assert any(one.examples for one in examples) or _is_an_error(value), "it has no example"
    said: list[str] = []
    for one in examples:
        doctest.DocTestRunner(verbose=False, optionflags=FLAGS).run(one, out=said.append)
    assert not said, "".join(said)


def _is_an_error(value) -> bool:
    return inspect.isclass(value) and issubclass(value, Exception)
