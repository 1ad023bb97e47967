"""Spaces, published to the stand-in hub."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest
import yaml
from stand_in_hub import guarded_hub as hub

import nf_zoo
from nf_zoo.hub.errors import (
    PublishingFailed,
    RepositoryTaken,
    UnknownWeights,
    WeightsAccessDenied,
    WeightsNotFound,
)
from nf_zoo.hub.publishing import push_to_hub
from nf_zoo.hub.space import push_space

__all__ = ["hub"]

FILES = {"README.md", "app.py", "requirements.txt"}
SPACE = "spaces/me/try"


@pytest.fixture
def model(tiny):
    return tiny("nf_resnet50", depths=(1, 1), widths=(8, 16), labels=tuple("abcde"))


@pytest.fixture
def asked(monkeypatch):
    """Arguments with which an app.py calls ``demo``, with the model that it names."""
    found = []

    def demo(source, **options):
        found.append((nf_zoo.load_pretrained(source), options))

    monkeypatch.setattr(nf_zoo, "demo", demo)
    return found


def test_the_space_of_a_published_model_opens_it(hub, model, asked, same, capsys):
    push_to_hub(model, "me/trees", verbose=False)
    done = push_space("hf://me/trees", "me/try")
    assert capsys.readouterr().out.splitlines()[-1] == done.url == f"{hub.url}/spaces/me/try"
    files = hub.files(SPACE)
    assert set(files) - {".gitattributes"} == FILES == set(done.files)
    assert hub.repositories[SPACE].branches == {"main": done.commit}
    exec(compile(files["app.py"], "app.py", "exec"), {})
    ((opened, options),) = asked
    same(model, opened)
    assert options == {"host": "0.0.0.0", "port": 7860}  # where the hub looks for it

    _, head, body = files["README.md"].decode().split("---\n")
    head = yaml.safe_load(head)
    gradio = importlib.metadata.version("gradio")
    assert (head["sdk"], head["sdk_version"], head["app_file"]) == ("gradio", gradio, "app.py")
    assert head["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert head["models"] == ["me/trees"] and head["title"] == "try" and "Grad-CAM" in body
    pins = dict(line.split("==") for line in files["requirements.txt"].decode().splitlines())
    assert pins.pop("nf-zoo[demo]") == nf_zoo.__version__
    assert pins == {name: importlib.metadata.version(name) for name in pins}
    assert {"gradio", "keras", "tensorflow"} <= set(pins)


def test_a_dry_run_shows_the_files_and_writes_nothing(hub, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    done = push_space("wide_resnet16_1.cifar10", "me/try", dry_run=True)
    printed = capsys.readouterr().out
    assert "Would upload 3 files" in printed and "hf://spaces/me/try@main" in printed
    assert "nf_zoo.demo('wide_resnet16_1.cifar10'" in printed and "sdk: gradio" in printed
    assert set(done.files) == FILES and done.commit is None
    assert not hub.writes() and not hub.repositories


def test_only_our_own_space_is_replaced(hub, capsys):
    push_space("wide_resnet16_1.cifar10", "me/try", private=True, verbose=False)
    assert hub.repositories[SPACE].private
    push_space("nf_resnet14.cifar10", "me/try", verbose=False)
    assert b"nf_resnet14.cifar10" in hub.files(SPACE)["app.py"]
    hub.add(SPACE, "app.py", b"print('mine')")
    with pytest.raises(RepositoryTaken, match=r"hf://spaces/me/try@main runs another program"):
        push_space("nf_resnet14.cifar10", "me/try")
    assert hub.files(SPACE)["app.py"] == b"print('mine')"
    push_space("nf_resnet14.cifar10", "me/try", force=True, verbose=False)
    assert b"nf_resnet14.cifar10" in hub.files(SPACE)["app.py"]


def test_a_model_of_the_same_name_is_another_repository(hub, model):
    push_to_hub(model, "me/try", verbose=False)
    before = dict(hub.files("me/try"))
    push_space("hf://me/try", "me/try", verbose=False)
    assert hub.files("me/try") == before and set(hub.files(SPACE)) >= FILES


@pytest.mark.parametrize(
    ("source", "space", "error", "words"),
    [
        ("runs/flowers", "me/try", ValueError, "publish the model first.*'runs/flowers'"),
        ("nf_resnet50.keras", "me/try", ValueError, "publish the model first"),
        ("nf_resnet50.typo", "me/try", UnknownWeights, "no weights called 'typo'"),
        ("hf://me", "me/try", UnknownWeights, "written hf://owner/name"),
        ("hf://me/trees", "try", ValueError, "A Space is written owner/name"),
        ("hf://me/trees", "me/try", WeightsNotFound, "no repository me/trees"),
    ],
)
def test_what_becomes_no_space(source, space, error, words, hub):
    with pytest.raises(error, match=words):
        push_space(source, space)
    assert not hub.repositories


def test_a_token_is_needed(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(WeightsAccessDenied, match="me/try needs an access token"):
        push_space("nf_resnet14.cifar10", "me/try")


def test_a_space_that_was_made_in_vain_is_removed(hub):
    hub.misbehavior = "refuses commits"
    with pytest.raises(PublishingFailed, match="me/try is unchanged"):
        push_space("nf_resnet14.cifar10", "me/try", verbose=False)
    assert not hub.repositories
