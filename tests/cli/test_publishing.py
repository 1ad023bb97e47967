"""nf-zoo publish, fetch and catalog, against a stand-in hub."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
from stand_in_hub import TOKEN
from stand_in_hub import guarded_hub as hub

from nf_zoo.cli import main
from nf_zoo.hub.catalog import read_catalog, weights_directory
from nf_zoo.hub.folder import save_pretrained

__all__ = ["hub"]

pytestmark = pytest.mark.fast


@pytest.fixture
def tuned(model, tmp_path):
    """A folder as finetune leaves it, as far as publishing goes."""
    folder = tmp_path / "run"
    folder.mkdir()
    model.save(folder / "model.keras")
    report = {"accuracy": 0.75, "pictures": 12, "run": {"settings": {"epochs": 3}}}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_publish(hub, tuned, capsys):
    command = ["publish", str(tuned), "me/colors", "--license", "mit", "--private"]
    assert main([*command, "--training-command", "nf-zoo finetune colors/"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"{hub.url}/me/colors"
    assert "model.safetensors" in printed
    assert TOKEN not in printed
    files = hub.files("me/colors")
    assert json.loads(files["metrics.json"])["accuracy"] == 0.75
    card = files["README.md"].decode()
    for words in ("license: mit", "| epochs | 3 |", "75.00 %", "nf-zoo finetune colors/"):
        assert words in card
    assert hub.repositories["me/colors"].private


@pytest.mark.slow
def test_publish_to_a_branch_from_a_folder_and_metrics(hub, saved, tmp_path):
    metrics = tmp_path / "metrics.json"
    metrics.write_text('{"accuracy": 0.5}')
    command = ["publish", str(saved["pretrained"]), "me/colors", "--revision", "half"]
    assert main([*command, "--metrics", str(metrics), "--dtype", "float16"]) == 0
    files = hub.files("me/colors", "half")
    assert b'"F16"' in files["model.safetensors"]
    assert b"50.00 %" in files["README.md"]
    assert set(hub.files("me/colors")) == {".gitattributes"}


def test_a_dry_run_shows_and_writes_nothing(hub, saved, capsys):
    assert main(["publish", str(saved["pretrained"]), "me/colors", "--dry-run"]) == 0
    assert "Would upload 5 files" in capsys.readouterr().out
    assert not hub.repositories


def test_a_dry_run_shows_the_card_without_a_network(saved, monkeypatch, capsys):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    command = ["publish", str(saved["pretrained"]), "me/colors", "--license", "mit", "--dry-run"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "me/colors@main holds now is not compared" in printed and "pretrained=" not in printed
    card = printed.partition("README.md:\n\n")[2]
    assert card.startswith("---\n") and "license: mit" in card and "`blue`, `green`, `red`" in card


@pytest.mark.slow
def test_publish_with_a_space(hub, saved, capsys):
    command = ["publish", str(saved["pretrained"]), "me/colors", "--space", "me/try"]
    assert main([*command, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "Would upload 5 files" in printed and "Would upload 3 files" in printed
    assert not hub.repositories
    assert main([*command, "--revision", "v2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.url}/spaces/me/try"
    assert b"nf_zoo.demo('hf://me/colors@v2'" in hub.files("spaces/me/try")["app.py"]
    assert "config.json" in hub.files("me/colors", "v2")


@pytest.mark.slow
def test_a_space_for_what_everybody_has(hub, capsys):
    assert main(["publish", "wide_resnet16_1.cifar10", "--space", "me/try"]) == 0
    assert set(hub.repositories) == {"spaces/me/try"}
    assert b"nf_zoo.demo('wide_resnet16_1.cifar10'" in hub.files("spaces/me/try")["app.py"]


def test_nothing_is_published_if_the_space_cannot_be(hub, saved, build_tiny, tmp_path, capsys):
    headless = str(save_pretrained(build_tiny(num_classes=0, labels=None), tmp_path / "headless"))
    for arguments, words in (
        ([str(saved["pretrained"])], "Name where to publish"),
        ([str(saved["pretrained"]), "--space", "me/try"], "publish the model first"),
        (
            [str(saved["pretrained"]), "me/colors", "--space", "try"],
            "A Space is written owner/name",
        ),
        ([headless, "me/colors", "--space", "me/try"], "must have a classifier"),
    ):
        assert main(["publish", *arguments]) == 2
        assert words in capsys.readouterr().err
    assert not hub.repositories


def test_another_architecture_needs_force(hub, saved, build_tiny, tmp_path, capsys):
    other = save_pretrained(build_tiny(), tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["architecture"] = "nf_resnet26"
    hub.add("me/colors", "config.json", json.dumps(config).encode())
    command = ["publish", str(saved["pretrained"]), "me/colors"]
    assert main(command) == 2
    assert "holds nf_resnet26" in (error := capsys.readouterr().err) and "--force" in error
    assert main([*command, "--force"]) == 0


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_metrics_that_are_none(text, saved, tmp_path, capsys):
    (tmp_path / "metrics.json").write_text(text)
    command = ["publish", str(saved["pretrained"]), "me/colors", "--metrics"]
    assert main([*command, str(tmp_path / "metrics.json")]) == 2
    assert "metrics.json" in capsys.readouterr().err


def test_fetch(hub, saved, capsys):
    hub.add_folder("me/colors", saved["pretrained"])
    assert main(["fetch", "hf://me/colors", "nf_resnet14.*"]) == 0
    names = [line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()]
    assert names == ["config.json", "model.safetensors", "model.safetensors"]
    assert main(["fetch", "nosuch*"]) == 1
    assert "no checkpoint is called 'nosuch*'" in capsys.readouterr().err
    assert main(["fetch", "hf://me/nothing", "nf_resnet14.cifar10", "vgg.*"]) == 1
    printed = capsys.readouterr()
    assert "no repository me/nothing" in printed.err and "'vgg.*'" in printed.err
    assert "nf_resnet14.cifar10/model.safetensors" in printed.out


def test_catalog_check(capsys, tmp_path):
    assert main(["catalog", "check"]) == 0
    printed = capsys.readouterr().out
    assert f"{len(read_catalog())} records, 0 of them with problems" in printed
    assert "not pinned" in printed
    shutil.copy(weights_directory() / "catalog.toml", tmp_path)
    path = tmp_path / "catalog.toml"
    text = path.read_text()
    changed = text.count('license = "bsd-3-clause"')
    assert changed > 1
    path.write_text(text.replace('license = "bsd-3-clause"', 'license = "bsd"'))
    assert main(["catalog", "check", "--catalog", str(path)]) == 1
    printed = capsys.readouterr()
    assert f"{changed} of them with problems" in printed.out
    assert "not one of the hub's identifiers" in printed.err
    assert main(["catalog", "check", "--json", "--catalog", str(path)]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert sum(bool(row["problems"]) for row in rows) == changed


def test_catalog_add_and_check_online(hub, saved, tmp_path, capsys):
    path = tmp_path / "catalog.toml"
    path.write_text("[preprocessing.plain]\n")
    commit = hub.add_folder("me/colors", saved["pretrained"])
    command = ["catalog", "add", "hf://me/colors", "--catalog", str(path)]
    assert main(command) == 2
    assert "states no license" in capsys.readouterr().err
    assert main([*command, "--license", "mit", "--tag", "colors"]) == 0
    assert f"nf_resnet10.colors: me/colors at {commit}, pinned" in capsys.readouterr().out
    assert main(["catalog", "check", "--online", "--catalog", str(path)]) == 0
    assert commit[:12] in capsys.readouterr().out
    hub.repositories.clear()
    assert main(["catalog", "check", "--online", "--catalog", str(path)]) == 1
    assert "no repository me/colors" in capsys.readouterr().err


def test_info_names_what_is_not_pinned(capsys):
    assert main(["info", "resnet18"]) == 0
    assert "not pinned" in capsys.readouterr().out
