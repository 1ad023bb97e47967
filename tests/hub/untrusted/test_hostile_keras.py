"""Keras files that hold more, or other things, than a model of nf_zoo."""

from __future__ import annotations

import io
import json
import stat
import zipfile

import pytest
from hub_attacks import ME, check_rest, listing

from nf_zoo.hub.errors import (
    CorruptWeights,
    InvalidConfig,
    UnsafeWeights,
    WeightsMismatch,
)
from nf_zoo.hub.pretrained import load_pretrained
from nf_zoo.hub.sources import fetch_pretrained

pytestmark = pytest.mark.fast


def rezip(content: bytes, change) -> bytes:
    """A .keras file with its members changed: {name: bytes}."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return made.getvalue()


def reconfigured(change):
    def make(content: bytes) -> bytes:
        def edit(members):
            document = json.loads(members["config.json"])
            change(document)
            members["config.json"] = json.dumps(document).encode()

        return rezip(content, edit)

    return make


def reweighed(change):
    """A .keras file whose HDF5 file was changed."""
    import h5py

    def make(content: bytes) -> bytes:
        def edit(members):
            file = io.BytesIO(members["model.weights.h5"])
            with h5py.File(file, "r+") as weights:
                change(weights, h5py)
            members["model.weights.h5"] = file.getvalue()

        return rezip(content, edit)

    return make


def bomb(content: bytes) -> bytes:
    """A hundred kilobytes that unpack to a hundred megabytes."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, bytes(10**8) if name == "model.weights.h5" else data)
    return made.getvalue()


def member_twice(content: bytes) -> bytes:
    made = io.BytesIO(content)
    with zipfile.ZipFile(made, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", b"{}")
    return made.getvalue()


def link_member(content: bytes) -> bytes:
    made = io.BytesIO(content)
    with zipfile.ZipFile(made, "a") as archive:
        info = zipfile.ZipInfo("assets/link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return made.getvalue()


def first_array(weights, h5py):
    found = []
    weights.visititems(lambda name, e: found.append(name) if isinstance(e, h5py.Dataset) else None)
    return found[0]


def endless_array(weights, h5py):
    name = first_array(weights, h5py)
    del weights[name]
    weights.create_dataset(name, (2**20, 2**20), chunks=(2**10, 2**10), compression="gzip")


def outside_array(weights, h5py):
    name = first_array(weights, h5py)
    del weights[name]
    weights.create_dataset(name, (4,), external=[("/etc/passwd", 0, 16)])


def linked_array(weights, h5py):
    name = first_array(weights, h5py)
    del weights[name]
    weights[name] = h5py.ExternalLink("/etc/passwd", "/x")


def soft_link(weights, h5py):
    weights["loop"] = h5py.SoftLink("/loop")


def cycle(weights, h5py):
    weights["self"] = weights["/"]


def lambda_layer(members):
    """A file of a model with a Lambda layer, whose code is bytes in its config."""
    layer = {"class_name": "Lambda", "config": {"function": {"class_name": "__lambda__"}}}
    document = {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "s", "layers": [layer]},
        "registered_name": None,
    }
    members["config.json"] = json.dumps(document).encode()


def set_config(**changes):
    return reconfigured(lambda document: document["config"].update(changes))


KERAS = {
    "zip slip": (UnsafeWeights, lambda c: rezip(c, lambda m: m.update({"../../out": b"x"}))),
    "an absolute path": (UnsafeWeights, lambda c: rezip(c, lambda m: m.update({"/outside": b"x"}))),
    "an asset": (UnsafeWeights, lambda c: rezip(c, lambda m: m.update({"assets/a": b"x"}))),
    "a link": (UnsafeWeights, link_member),
    "a zip bomb": (CorruptWeights, bomb),
    "a member twice": (CorruptWeights, member_twice),
    "a member missing": (CorruptWeights, lambda c: rezip(c, lambda m: m.pop("model.weights.h5"))),
    "no zip": (CorruptWeights, lambda c: b"PK" + bytes(100)),
    "half": (CorruptWeights, lambda c: c[: len(c) // 2]),
    "a damaged member": (CorruptWeights, lambda c: c.replace(b"\x89HDF", b"\x00HDF", 1)),
    "a Lambda layer": (InvalidConfig, lambda c: rezip(c, lambda_layer)),
    "another class": (InvalidConfig, reconfigured(lambda d: d.update(class_name="Model"))),
    "another module": (InvalidConfig, reconfigured(lambda d: d.update(module="os"))),
    "another name": (InvalidConfig, reconfigured(lambda d: d.update(registered_name="os>system"))),
    "no class": (InvalidConfig, reconfigured(lambda d: d.pop("class_name"))),
    "an object for an option": (InvalidConfig, set_config(activation={"class_name": "Lambda"})),
    "an object for a type": (InvalidConfig, set_config(dtype={"class_name": "Lambda"})),
    "an unknown option": (InvalidConfig, set_config(command="rm")),
    "a thousand blocks": (InvalidConfig, set_config(depths=[1000, 1000])),
    "endless widths": (InvalidConfig, set_config(widths=[65536, 65536])),
    "other widths": (WeightsMismatch, set_config(widths=[8, 24])),
    "an endless LoRA": (
        InvalidConfig,
        set_config(parts={"head": {"lora_rank": 65536, "lora_alpha": 1}}),
    ),
    "no JSON": (InvalidConfig, lambda c: rezip(c, lambda m: m.update({"config.json": b"{"}))),
    "no HDF5": (CorruptWeights, lambda c: rezip(c, lambda m: m.update({"model.weights.h5": b"x"}))),
    "an endless array": (CorruptWeights, reweighed(endless_array)),
    "an array in another file": (UnsafeWeights, reweighed(outside_array)),
    "an external link": (UnsafeWeights, reweighed(linked_array)),
    "a soft link": (UnsafeWeights, reweighed(soft_link)),
    "a cycle": (CorruptWeights, reweighed(cycle)),
}


@pytest.mark.parametrize("case", KERAS)
def test_keras_files(case, hub, sound, tmp_path):
    error, make = KERAS[case]
    content = make(sound["keras"])
    hub.add("me/trees", "model.keras", sound["keras"])
    (earlier,) = fetch_pretrained(ME)
    hub.add("me/trees", "model.keras", content)
    kept = listing(tmp_path)
    with pytest.raises(error) as raised:
        load_pretrained(ME)
    assert type(raised.value) is error
    assert ("would unpack" in str(raised.value)) == (case in ("a zip bomb", "an endless array"))
    damaged = {"model.keras": content} if error is not WeightsMismatch else {}
    check_rest(tmp_path, kept, damaged)
    assert earlier.read_bytes() == sound["keras"]


def test_the_sound_keras_file_loads(hub, sound):
    hub.add("me/trees", "model.keras", sound["keras"])
    assert load_pretrained(ME).architecture == "nf_resnet26"
