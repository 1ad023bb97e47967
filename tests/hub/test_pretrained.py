"""Sources that say themselves what they are: hub repositories of every kind, files, folders."""

from __future__ import annotations

import json

import goldens
import numpy as np
import pytest

import nf_zoo
from nf_zoo.hub.errors import WeightsError, WeightsNotFound, WeightsOffline
from nf_zoo.hub.folder import save_pretrained
from nf_zoo.hub.pretrained import load_pretrained

pytestmark = pytest.mark.fast

LABELS = ("ash", "bay", "elm", "fig", "oak")
ME = "hf://me/trees"


@pytest.fixture
def model(tiny):
    return tiny("nf_resnet50", labels=LABELS, depths=(1, 1), widths=(8, 16))


TIMM_SETTINGS = {
    "tag": "ra2_in1k",
    "custom_load": False,
    "input_size": [3, 256, 256],
    "test_input_size": [3, 288, 288],
    "fixed_input_size": False,
    "interpolation": "bicubic",
    "crop_pct": 0.94,
    "crop_mode": "center",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "num_classes": 1000,
    "pool_size": [8, 8],
    "first_conv": "stem.conv",
    "classifier": "head.fc",
}
"""As timm writes them."""


def test_a_repository_of_timms(hub, write):
    # test_nfnet is timm's smallest network of ours, in its full size.
    shapes = goldens.source_shapes("timm", "test_nfnet")
    tensors = {key: goldens.fill_timm(key, shape) for key, shape in shapes.items()}
    hub.add("timm/test_nfnet.r160_in1k", "model.safetensors", write(tensors).read_bytes())
    settings = {**TIMM_SETTINGS, "input_size": [3, 160, 160], "test_input_size": [3, 192, 192]}
    config = {"architecture": "test_nfnet", "num_classes": 1000, "num_features": 256}
    config |= {"global_pool": "avg", "pretrained_cfg": settings}
    hub.add("timm/test_nfnet.r160_in1k", "config.json", json.dumps(config).encode())
    model = load_pretrained("hf://timm/test_nfnet.r160_in1k")
    assert (model.architecture, model.num_classes) == ("test_nfnet", 1000)
    assert model.preprocessing.input_size == (192, 192)
    logits = goldens.outputs("timm", "test_nfnet", (64, 64))["logits"]
    found = model.predict(goldens.images((64, 64)), verbose=0)
    assert np.abs(found - logits).max() < 2e-5 * np.abs(logits).max()


def test_everything_of_one_load_is_of_one_commit(hub, model, tiny, tmp_path, monkeypatch):
    from nf_zoo.hub import loading

    hub.add_folder("me/trees", save_pretrained(model, tmp_path / "one"))
    other = tiny("nf_resnet50", labels=LABELS, activation="silu", depths=(1,), widths=(16,))
    theirs = save_pretrained(other, tmp_path / "two")
    read = loading.read_config

    def read_while_somebody_publishes(path):
        config = read(path)
        hub.add_folder("me/trees", theirs)
        return config

    monkeypatch.setattr(loading, "read_config", read_while_somebody_publishes)
    assert load_pretrained(ME).config.activation == "relu"


def test_a_factory_takes_one_commit_too(hub, model, tmp_path, same):
    hub.add_folder("me/trees", save_pretrained(model, tmp_path / "one"))
    found = nf_zoo.create_model("nf_resnet50", pretrained=ME)
    assert found.labels == LABELS
    same(found, model)
    asked = [path for _, path, _ in hub.requests if path.endswith("model.safetensors")]
    assert not any("/main/" in path for path in asked)


@pytest.mark.parametrize("form", ["file", "files", "another name"])
def test_keras_repositories(form, hub, model, tmp_path, same, go_offline):
    if form == "files":
        (tmp_path / "folder").mkdir()
        model.save(tmp_path / "folder", zipped=False)
        hub.add_folder("me/trees", tmp_path / "folder")
        assert "model.weights.h5" in hub.files("me/trees")
    else:
        model.save(tmp_path / "model.keras")
        name = "model.keras" if form == "file" else "trees-final.keras"
        hub.add("me/trees", name, (tmp_path / "model.keras").read_bytes())
    hub.add("me/trees", "README.md", b"---\nlibrary_name: keras\n---\n")
    for state in ("online", "offline"):
        found = load_pretrained(ME)
        assert found.labels == LABELS, state
        same(found, model)
        go_offline()


def test_keras_files_and_folders(model, tmp_path, same):
    model.save(tmp_path / "model.keras")
    (tmp_path / "folder").mkdir()
    model.save(tmp_path / "folder", zipped=False)
    for path in (tmp_path / "model.keras", tmp_path / "folder"):
        found = load_pretrained(path)
        same(found, model)
        assert found.weights_tag == str(path)


@pytest.mark.slow
def test_deepminds_files(hub, tmp_path):
    shapes = goldens.source_shapes("haiku", "NF_RegNet_B0")
    path = tmp_path / "RegNet_B0.npz"
    np.savez(path, **{key: goldens.fill_haiku(key, shape) for key, shape in shapes.items()})
    hub.add("deepmind/nets", path.name, path.read_bytes())
    logits = goldens.outputs("haiku", "NF_RegNet_B0", (64, 64))["logits"]
    model = load_pretrained("hf://deepmind/nets")
    assert (model.architecture, model.num_classes) == ("nf_regnet_b0", 1000)
    found = model.predict(goldens.images((64, 64)), verbose=0)
    assert np.abs(found - logits).max() < 2e-5 * np.abs(logits).max()


def test_a_file_of_deepminds_that_does_not_tell_its_network(tmp_path):
    np.savez(tmp_path / "net.npz", **{"Other/~/linear/w": np.zeros((2, 3))})
    with pytest.raises(WeightsError, match="do not show which network"):
        load_pretrained(tmp_path / "net.npz")


def test_a_repository_of_nothing_that_says_what_it_is(hub, model, tmp_path):
    folder = save_pretrained(model, tmp_path / "one")
    hub.add("me/trees", "model.safetensors", (folder / "model.safetensors").read_bytes())
    with pytest.raises(WeightsNotFound, match=r"holds neither a config\.json.*pretrained="):
        load_pretrained(ME)
    for name in ("a.keras", "b.keras"):
        hub.add("me/trees", name, b"x")
    with pytest.raises(WeightsNotFound, match=r"exactly one \.keras"):
        load_pretrained(ME)
    with pytest.raises(WeightsNotFound, match=r"must be called \*\.keras"):
        load_pretrained(folder / "model.safetensors")


def test_a_revision_is_a_branch_or_a_commit(hub, tiny, tmp_path):
    first = hub.add_folder("me/trees", save_pretrained(tiny("nf_resnet50"), tmp_path / "one"))
    hub.add_folder("me/trees", save_pretrained(tiny("resnet50"), tmp_path / "two"))
    hub.add_folder("me/trees", tmp_path / "one", revision="old/first")
    assert load_pretrained(f"{ME}@{first}").architecture == "nf_resnet50"
    assert load_pretrained(ME).architecture == "resnet50"
    before = len(hub.requests)
    assert load_pretrained(f"{ME}@{first}").architecture == "nf_resnet50"
    assert len(hub.requests) == before  # a commit that is cached needs no hub


class TestTheEarlierVersion:
    """Whatever the newest version turns out to be, the one in the cache stays in use."""

    @pytest.fixture
    def cached(self, hub, model, tmp_path):
        """A first version, loaded once."""
        hub.add_folder("me/trees", save_pretrained(model, tmp_path / "one"))
        load_pretrained(ME)
        return model

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("model.safetensors", b"<html>not weights</html>"),
            ("model.safetensors", b"\x80\x04."),
            ("config.json", b"{"),
            ("config.json", b'{"model_type": "resnet"}'),
        ],
    )
    @pytest.mark.parametrize("way", ["load_pretrained", "create_model"])
    def test_a_bad_update(self, way, name, content, hub, cached, same, go_offline):
        hub.add("me/trees", name, content)

        def load():
            if way == "load_pretrained":
                return load_pretrained(ME)
            return nf_zoo.create_model("nf_resnet50", pretrained=ME)

        if (way, content) != ("create_model", b'{"model_type": "resnet"}'):
            with pytest.raises(WeightsError):
                load()
        go_offline()
        same(load_pretrained(ME), cached)

    def test_an_update_that_never_arrives(self, hub, cached, tiny, tmp_path, same, go_offline):
        update = tiny("resnet50", labels=LABELS)
        hub.add_folder("me/trees", save_pretrained(update, tmp_path / "two"))
        hub.answers["model.safetensors"] = b"short"
        with pytest.raises(WeightsError):
            load_pretrained(ME)
        go_offline()
        same(load_pretrained(ME), cached)

    @pytest.mark.parametrize("how", ["broken", "unavailable", "too many requests", "portal"])
    def test_a_hub_that_is_down(self, how, hub, cached, same):
        hub.misbehavior = how
        same(load_pretrained(ME), cached)

    def test_a_hub_that_is_silent(self, hub, cached, same, impatient):
        hub.misbehavior = "silent"
        same(load_pretrained(ME), cached)

    def test_without_an_earlier_one_there_is_none(self, hub, model, tmp_path, go_offline):
        hub.add_folder("me/trees", save_pretrained(model, tmp_path / "one"))
        hub.answers["model.safetensors"] = b"short"
        with pytest.raises(WeightsError):
            load_pretrained(ME)
        go_offline()
        with pytest.raises(WeightsOffline):
            load_pretrained(ME)
