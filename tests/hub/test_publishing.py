"""Publishing to a hub that takes everything, something else, or nothing."""

from __future__ import annotations

import json
import logging
import re

import numpy as np
import pytest
from PIL import Image
from stand_in_hub import TOKEN
from stand_in_hub import guarded_hub as hub

import nf_zoo
from nf_zoo.hub.card import CardDetails, model_card
from nf_zoo.hub.errors import (
    PublishingFailed,
    RepositoryTaken,
    UnknownWeights,
    WeightsAccessDenied,
    WeightsOffline,
)
from nf_zoo.hub.pretrained import load_pretrained
from nf_zoo.hub.publishing import push_to_hub

__all__ = ["hub"]

pytestmark = pytest.mark.fast

LABELS = ("ash", "bay", "elm", "fig", "oak")
FILES = {"README.md", "config.json", "labels.txt", "model.safetensors", "preprocessing.json"}


@pytest.fixture
def model(tiny):
    return tiny("nf_resnet50", labels=LABELS, depths=(1, 1), widths=(8, 16))


def published(hub, name="me/trees", revision="main"):
    return set(hub.files(name, revision)) - {".gitattributes"}


def test_one_commit_and_back(hub, model, values, capsys):
    done = push_to_hub(model, "me/trees", metrics={"accuracy": 0.5, "pictures": 10})
    printed = capsys.readouterr().out
    assert done.url == f"{hub.url}/me/trees"
    assert printed.splitlines()[-1] == done.url
    for name in FILES | {"metrics.json"}:
        assert name in printed
    repository = hub.repositories["me/trees"]
    assert repository.branches == {"main": done.commit}
    assert len(repository.commits) == 2  # the empty one, and ours
    assert published(hub) == FILES | {"metrics.json"}
    assert not repository.private
    assert hub.writes() == ["POST /api/repos/create", "POST /api/models/me/trees/commit/main"]
    copy = load_pretrained("hf://me/trees")
    assert (copy.labels, copy.architecture, copy.weights_tag) == (
        LABELS,
        "nf_resnet50",
        "hf://me/trees",
    )
    for name, value in values(model).items():
        np.testing.assert_array_equal(values(copy)[name], value, err_msg=name)


def test_a_model_from_the_hub_by_its_factory_names_its_repository(hub, model):
    push_to_hub(model, "me/trees", verbose=False)
    built = nf_zoo.create_model("nf_resnet50", pretrained="hf://me/trees")
    assert built.weights_tag == "hf://me/trees"
    report = {"run": {"started_from": {"weights": built.weights_tag}}}
    assert "base_model: me/trees" in model_card(built, CardDetails(license="mit"), report)


def test_offline_nothing_is_said_of_a_download(hub, model, monkeypatch):
    import huggingface_hub

    def refuse(*_, **__):
        raise huggingface_hub.errors.OfflineModeIsEnabled("offline mode is enabled")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refuse)
    with pytest.raises(WeightsOffline, match="HF_HUB_OFFLINE is set") as raised:
        push_to_hub(model, "me/trees")
    assert "interrupted" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": LABELS}, ("Prediction(", *LABELS)),
        ({}, ("[",)),
        ({"num_classes": 0}, ("(1, 32)",)),
    ],
    ids=["labels", "no labels", "no classifier"],
)
def test_the_snippet_of_the_card_runs(options, words, hub, tiny, tmp_path, monkeypatch, capsys):
    push_to_hub(tiny("nf_resnet50", **options), "me/trees", verbose=False)
    card = hub.files("me/trees")["README.md"].decode()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    Image.new("RGB", (80, 60), "green").save(tmp_path / "picture.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert all(word in printed for word in words)


def test_private_on_a_branch_in_shards(hub, model):
    done = push_to_hub(
        model, "hf://me/trees", private=True, revision="v2", max_shard_size=2000, verbose=False
    )
    assert done.url.endswith("/me/trees/tree/v2")
    assert hub.repositories["me/trees"].private
    assert published(hub) == set()
    assert "model.safetensors.index.json" in published(hub, revision="v2")
    model = load_pretrained("hf://me/trees@v2")
    assert model.labels == LABELS


def test_a_new_branch_holds_its_own_version(hub, model, tiny, values):
    push_to_hub(model, "me/trees", metrics={"accuracy": 1.0}, verbose=False)
    other = tiny("nf_resnet50", depths=(1, 1), widths=(8, 16))
    for variable in other.weights:
        variable.assign(variable + 1)
    push_to_hub(other, "me/trees", revision="v2", max_shard_size=2000, verbose=False)
    assert not {"model.safetensors", "metrics.json"} & published(hub, revision="v2")
    loaded = values(load_pretrained("hf://me/trees@v2"))
    for name, value in values(other).items():
        np.testing.assert_array_equal(loaded[name], value)
    assert {"model.safetensors", "metrics.json"} <= published(hub)


def test_a_private_repository_needs_the_token(hub, model, monkeypatch):
    push_to_hub(model, "me/trees", private=True, verbose=False)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(WeightsAccessDenied, match="hf auth login"):
        load_pretrained("hf://me/trees")


def test_an_update_removes_what_is_no_longer_part_of_it(hub, model):
    push_to_hub(model, "me/trees", max_shard_size=2000, metrics={"accuracy": 1.0}, verbose=False)
    hub.add("me/trees", "notes.txt", b"mine")
    done = push_to_hub(model, "me/trees", verbose=False)
    assert published(hub) == FILES | {"notes.txt"}
    assert "metrics.json" in done.removed and "model.safetensors.index.json" in done.removed


def test_a_card_written_by_hand_stays(hub, model):
    push_to_hub(model, "me/trees", verbose=False)
    hub.add("me/trees", "README.md", b"---\nlicense: mit\n---\nmine")
    push_to_hub(model, "me/trees", dtype="float16", verbose=False)
    assert hub.files("me/trees")["README.md"].endswith(b"mine")
    push_to_hub(model, "me/trees", card=CardDetails(license="mit"), verbose=False)
    assert b"Written by nf_zoo" in hub.files("me/trees")["README.md"]


def test_a_dry_run_writes_nothing_and_needs_no_token(hub, model, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    done = push_to_hub(model, "me/trees", dry_run=True)
    assert done.commit is None
    assert set(done.files) == FILES
    assert capsys.readouterr().out.startswith("Would upload 5 files")
    assert not hub.writes() and not hub.repositories
    hub.misbehavior = "broken"
    push_to_hub(model, "me/trees", dry_run=True)
    assert "is not compared" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ("resnet50", "holds resnet50"),
        ({"config.json": b'{"model_type": "bert"}'}, "another library"),
        ({"pytorch_model.bin": b"x"}, "weights not written by nf_zoo"),
    ],
)
def test_another_model_is_not_replaced_unasked(files, words, hub, model, tiny):
    if isinstance(files, str):
        push_to_hub(tiny(files), "me/trees", verbose=False)
    else:
        for name, content in files.items():
            hub.add("me/trees", name, content)
    before = dict(hub.files("me/trees"))
    for dry_run in (False, True):
        with pytest.raises(RepositoryTaken, match=words) as raised:
            push_to_hub(model, "me/trees", dry_run=dry_run, verbose=False)
        assert "force=True" in str(raised.value)
    assert hub.files("me/trees") == before
    push_to_hub(model, "me/trees", force=True, verbose=False)
    assert json.loads(hub.files("me/trees")["config.json"])["architecture"] == "nf_resnet50"


def test_a_public_repository_does_not_pass_for_a_private_one(hub, model):
    push_to_hub(model, "me/trees", verbose=False)
    with pytest.raises(RepositoryTaken, match="public"):
        push_to_hub(model, "me/trees", private=True, force=True, verbose=False)


@pytest.mark.parametrize("how", ["refuses uploads", "refuses commits"])
@pytest.mark.parametrize("there", ["nothing", "a version", "another branch"])
def test_a_failed_upload_leaves_the_hub_as_it_was(how, there, hub, model):
    if there != "nothing":
        push_to_hub(model, "me/trees", verbose=False)
    before = {
        name: (dict(repository.branches), dict(repository.commits))
        for name, repository in hub.repositories.items()
    }
    hub.misbehavior = how
    revision = "new" if there == "another branch" else "main"
    with pytest.raises(PublishingFailed, match="is unchanged"):
        push_to_hub(model, "me/trees", revision=revision, dtype="float16", verbose=False)
    assert {
        name: (repository.branches, repository.commits)
        for name, repository in hub.repositories.items()
    } == before


def test_somebody_else_was_faster(hub, model, monkeypatch):
    from nf_zoo.hub import publishing

    push_to_hub(model, "me/trees", verbose=False)
    look = publishing.look_at

    def look_then_change(target):
        found = look(target)
        hub.add("me/trees", "notes.txt", b"mine")
        return found

    monkeypatch.setattr(publishing, "look_at", look_then_change)
    with pytest.raises(PublishingFailed, match="may have changed"):
        push_to_hub(model, "me/trees", dtype="float16", verbose=False)
    assert hub.files("me/trees")["notes.txt"] == b"mine"


@pytest.mark.parametrize(
    ("how", "error"), [("forbidden", WeightsAccessDenied), ("broken", WeightsOffline)]
)
def test_a_hub_that_refuses(how, error, hub, model):
    hub.misbehavior = how
    with pytest.raises(error):
        push_to_hub(model, "me/trees", verbose=False)
    assert not hub.writes()


def test_no_right_to_write(hub, model, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(WeightsAccessDenied, match="does not let this user write"):
        push_to_hub(model, "me/trees", verbose=False)
    assert not hub.repositories


def test_no_token(hub, model, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(WeightsAccessDenied, match="HF_TOKEN"):
        push_to_hub(model, "me/trees", verbose=False)
    assert not hub.requests


@pytest.mark.parametrize("name", ["trees", "a/b/c", "me/tre es", "me/..@x", ""])
def test_malformed_names(name, hub, model):
    with pytest.raises(UnknownWeights, match="owner/name"):
        push_to_hub(model, name, verbose=False)
    assert not hub.requests


def test_the_token_is_nowhere_but_in_the_requests(hub, model, tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    push_to_hub(model, "me/trees")
    load_pretrained("hf://me/trees")
    hub.misbehavior = "refuses commits"
    with pytest.raises(PublishingFailed) as raised:
        push_to_hub(model, "me/trees", dtype="float16")
    assert f"Bearer {TOKEN}" in hub.tokens
    printed = capfd.readouterr()
    seen = [printed.out, printed.err, caplog.text, str(raised.value), repr(raised.value)]
    assert not any(TOKEN in text for text in seen)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
    for files in hub.repositories["me/trees"].commits.values():
        assert not any(TOKEN.encode() in content for content in files.values())


def test_public_names():
    assert nf_zoo.push_to_hub is push_to_hub
    assert nf_zoo.CardDetails is CardDetails
