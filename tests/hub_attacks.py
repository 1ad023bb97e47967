"""The base of the tests of hostile inputs: a sound version, and an attack from beginning to end.

Every attack begins with a sound version in the cache, puts something bad in its place on the hub,
and ends with the sound version still in use without a network.
"""

from __future__ import annotations

import contextlib
import json
import os

import pytest

from nf_zoo.hub.errors import WeightsMismatch
from nf_zoo.hub.folder import save_pretrained
from nf_zoo.hub.pretrained import load_pretrained
from nf_zoo.hub.sources import fetch_pretrained

ME = "hf://me/trees"
TINY = {"depths": (1, 1), "widths": (8, 16), "stem_width": 8, "num_classes": 5}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The files of a small model, and the same model as a .keras file."""
    from nf_zoo.models.classifier import build_model

    root = tmp_path_factory.mktemp("sound")
    model = build_model("nf_resnet26", **TINY)
    folder = save_pretrained(model, root / "whole")
    model.save(root / "model.keras")
    shards = save_pretrained(model, root / "shards", max_shard_size=2000)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {
        "whole": whole,
        "shards": {path.name: path.read_bytes() for path in shards.iterdir()},
        "keras": (root / "model.keras").read_bytes(),
    }


class Sentinel:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.fixture
def attack(hub, sound, tmp_path, monkeypatch):
    """Checks one attack from beginning to end; `bad` files replace those of a sound version."""
    from huggingface_hub import constants

    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.safetensors").write_bytes(b"secret")

    @contextlib.contextmanager
    def attack(error, *words, bad=None, kind="whole"):
        hub.repositories.clear()
        for name, content in sound[kind].items():
            hub.add("me/trees", name, content)
        earlier = {path.name: path.read_bytes() for path in fetch_pretrained(ME)}
        for name, content in (bad or {}).items():
            hub.add("me/trees", name, content)
        if bad is None:
            # Another version, so that there is something to be fetched.
            hub.add("me/trees", "config.json", sound["whole"]["config.json"] + b" ")
            hub.add("me/trees", "model.safetensors", sound["whole"]["model.safetensors"])
        kept = listing(tmp_path)
        yield
        with pytest.raises(error) as raised:
            load_pretrained(ME)
        assert type(raised.value) is error
        for word in words:
            assert word in str(raised.value)
        assert "\x1b" not in str(raised.value) and len(str(raised.value)) < 4000
        # Sound files that do not fit each other may stay.
        check_rest(tmp_path, kept, None if error is WeightsMismatch else bad)
        hub.misbehavior = None
        hub.headers, hub.answers = {}, {}
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert {path.name: path.read_bytes() for path in fetch_pretrained(ME)} == earlier

    return attack


def listing(root):
    return {str(path) for path in root.rglob("*") if "hub-cache" not in path.parts}


def check_rest(root, kept, bad):
    """Nothing outside the cache is new, nothing in it is half, or of the bad weights."""
    assert listing(root) == kept
    cached = [path for path in (root / "hub-cache").rglob("*") if path.is_file()]
    assert not [path for path in cached if "incomplete" in path.name or "tmp" in path.name]
    contents = [path.read_bytes() for path in cached]
    for name, content in (bad or {}).items():
        if name.endswith((".safetensors", ".keras", "config.json")) and content:
            assert content not in contents, name


def header(content: bytes) -> dict:
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def with_header(content: bytes, text: bytes) -> bytes:
    data = content[8 + int.from_bytes(content[:8], "little") :]
    return len(text).to_bytes(8, "little") + text + data
