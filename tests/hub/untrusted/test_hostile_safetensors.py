"""Safetensors files that lie, end early, or are something else."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
from hub_attacks import ME, Sentinel, header, with_header

from nf_zoo.hub.errors import (
    CorruptWeights,
    UnsafeWeights,
    WeightsError,
    WeightsMismatch,
    WeightsOffline,
)
from nf_zoo.hub.pretrained import load_pretrained

pytestmark = pytest.mark.fast


def lie(**changes):
    """A safetensors file whose entry for head/bias says something else."""

    def make(content: bytes) -> bytes:
        entries = header(content)
        entries["head/bias"] = {**entries["head/bias"], **changes}
        return with_header(content, json.dumps(entries).encode())

    return make


def offsets(shift: int, name: str = "head/bias"):
    """A safetensors file in which a tensor begins and ends elsewhere."""

    def make(content: bytes) -> bytes:
        entries = header(content)
        begin, end = entries[name]["data_offsets"]
        entries[name]["data_offsets"] = [begin + shift, end + shift]
        return with_header(content, json.dumps(entries).encode())

    return make


def named(name: str):
    """A safetensors file with one tensor more, without content."""

    def make(content: bytes) -> bytes:
        entries = header(content)
        end = max(entry["data_offsets"][1] for key, entry in entries.items() if key[0] != "_")
        entries[name] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}
        return with_header(content, json.dumps(entries).encode())

    return make


def twice(content: bytes) -> bytes:
    text = json.dumps(header(content)).encode()
    entry = json.dumps(header(content)["head/bias"]).encode()
    return with_header(content, text[:-1] + b', "head/bias": ' + entry + b"}")


def non_utf8(content: bytes) -> bytes:
    text = json.dumps(header(content)).encode()
    return with_header(content, text.replace(b"head/bias", b"head/bi\xff\xfe"))


LYING = {
    "no header": lambda c: bytes(8) + c[8:],
    "a header of 2^63 bytes": lambda c: b"\0\0\0\0\0\0\0\x80" + c[8:],
    "a header longer than the file": lambda c: (len(c)).to_bytes(8, "little") + c[8:],
    "a header of 33 MB": lambda c: (33 * 2**20).to_bytes(8, "little") + c[8:],
    "a header that ends too early": lambda c: (100).to_bytes(8, "little") + c[8:],
    "no JSON": lambda c: with_header(c, b"{'a': 1}"),
    "a list": lambda c: with_header(c, b"[1, 2]"),
    "a nest": lambda c: with_header(c, b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "a name that is no UTF-8": non_utf8,
    "a name twice": twice,
    "offsets beyond the file": offsets(10**9),
    "overlapping offsets": offsets(-4),
    "a hole": offsets(4),
    "offsets backwards": lie(data_offsets=[20, 0]),
    "a negative offset": lie(data_offsets=[-20, 0]),
    "an offset of 2^64": lie(data_offsets=[0, 2**64]),
    "a shape of 2^60": lie(shape=[2**60]),
    "shapes whose product overflows": lie(shape=[2**32, 2**32]),
    "a negative shape": lie(shape=[-5]),
    "an unknown type": lie(dtype="F31"),
    "a type of another size": lie(dtype="F64"),
    "no type": lie(dtype=None),
    "more bytes than it says": lambda c: c + b"\0" * 64,
    "nothing": lambda c: b"",
    "a Git LFS pointer": lambda c: b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    "a web page": lambda c: b"<!doctype html><html>Sign in</html>",
    "an HDF5 file": lambda c: b"\x89HDF\r\n\x1a\n" + bytes(64),
}


@pytest.mark.parametrize("case", LYING)
def test_lying_safetensors(case, attack, sound):
    content = LYING[case](sound["whole"]["model.safetensors"])
    with attack(CorruptWeights, "model.safetensors", bad={"model.safetensors": content}):
        pass


@pytest.mark.parametrize("tenths", range(1, 10))
def test_truncated_at_the_origin(tenths, attack, sound):
    content = sound["whole"]["model.safetensors"]
    content = content[: len(content) * tenths // 10]
    with attack(CorruptWeights, f"{len(content)} bytes", bad={"model.safetensors": content}):
        pass


@pytest.mark.parametrize("tenths", range(0, 10))
def test_truncated_on_the_way(tenths, attack, hub, sound):
    content = sound["whole"]["model.safetensors"]
    with attack(WeightsOffline, "broke off", bad={"model.safetensors": content[::-1]}):
        hub.answers["model.safetensors"] = content[: len(content) * tenths // 10]
        hub.headers["X-Linked-Size"] = str(len(content))


MISFITS = {
    "a tensor more": named("stage9/block1/conv1/kernel"),
    "a name that commands the terminal": named("\x1b[2J\x1b[31mred"),
    "a name of a megabyte": named("x" * 2**20),
    "an endless shape of nothing": lie(shape=[0, 2**60], data_offsets=[0, 0]),
}


@pytest.mark.parametrize("case", ["a tensor more", *list(MISFITS)[1:3]])
def test_sound_files_of_another_network(case, attack, hub, sound):
    content = MISFITS[case](sound["whole"]["model.safetensors"])
    hub.repositories.clear()
    for name, there in {**sound["whole"], "model.safetensors": content}.items():
        hub.add("me/trees", name, there)
    with pytest.raises(WeightsMismatch, match="1 unexpected") as raised:
        load_pretrained(ME)
    assert "\x1b" not in str(raised.value) and len(str(raised.value)) < 2000


@pytest.mark.parametrize("form", ["pickle", "zip"])
def test_pickles_are_not_loaded(form, attack, tmp_path):
    content = pickle.dumps({"head/bias": Sentinel(tmp_path / "executed")})
    if form == "zip":
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("archive/data.pkl", content)
        content = archive.getvalue()
    with attack(UnsafeWeights, "pickle", bad={"model.safetensors": content}):
        pass


def test_a_zero_in_a_shape_hides_nothing(sound, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(MISFITS["an endless shape of nothing"](sound["whole"]["model.safetensors"]))
    (tmp_path / "config.json").write_bytes(sound["whole"]["config.json"])
    with pytest.raises(WeightsError):
        load_pretrained(tmp_path)


def test_numbers_that_are_none_stay_what_they_are(sound, tmp_path):
    """NaN in weights is no attack on the loader: it is loaded as it is."""
    content = sound["whole"]["model.safetensors"]
    begin = header(content)["head/bias"]["data_offsets"][0]
    start = 8 + int.from_bytes(content[:8], "little") + begin
    nan = np.full(5, np.nan, "<f4").tobytes()
    (tmp_path / "model.safetensors").write_bytes(content[:start] + nan + content[start + 20 :])
    (tmp_path / "config.json").write_bytes(sound["whole"]["config.json"])
    assert np.isnan(np.asarray(load_pretrained(tmp_path).head.bias)).all()
