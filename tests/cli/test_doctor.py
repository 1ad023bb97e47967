from __future__ import annotations

import importlib.metadata
import json

import keras
import pytest
from stand_in_hub import StandInHub

from nf_zoo.cli import doctor, main
from nf_zoo.deploy.formats import FORMATS

pytestmark = pytest.mark.fast

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"


@pytest.fixture
def told(monkeypatch, capsys, hub):
    def run():
        assert main(["doctor", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize(
    ("setting", "words"),
    [("0", "off (TF"), ("1", "on (TF"), (None, "on in nf-zoo's commands, in Python as Tensor")],
)
def test_onednn_is_told_as_the_command_found_it(told, monkeypatch, setting, words):
    monkeypatch.setenv(ONEDNN, setting or "")
    if setting is None:
        monkeypatch.delenv(ONEDNN)
    assert told()["oneDNN"].startswith(words)


def test_what_is_found(told, hub: StandInHub):
    found = told()
    for name in ("keras", "tensorflow", "numpy"):
        assert found[name] == importlib.metadata.version(name)
    policy = f"layers compute in {keras.config.dtype_policy().name}, other arrays are float32"
    assert found["Backend"] == f"{keras.backend.backend()}; {policy}"
    assert "CPU" in found["Devices"]
    for row in FORMATS.values():
        package = row.runtime.partition(".")[0].replace("_", "-")
        assert found[f"Runs {row.title}"] == f"{package} {importlib.metadata.version(package)}"
    assert found["Hub"].startswith(f"{hub.url}, reachable")


def test_nothing_that_fails_is_a_failure(told, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no such\nthing")

    for name in ("import_backend", "_version"):
        monkeypatch.setattr(doctor, name, fail)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", None)
    monkeypatch.setattr("huggingface_hub.get_session", fail)
    found = told()
    assert found["keras"] == "could not be determined: OSError: no such thing"
    for name in ("Backend", "Cache"):
        assert found[name].startswith("could not be determined: ")
    assert found["Hub"].endswith("not reachable: OSError")


def test_a_runtime_that_is_missing_names_its_extra(told, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: "not installed")
    assert told()["Runs ONNX"] == "onnxruntime not installed: pip install 'nf-zoo[onnx]'"


def test_offline_the_hub_is_not_asked(told, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "not contacted" in told()["Hub"]
    assert not hub.requests


def test_in_words(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("keras ") for line in lines)
    assert all(line == line.rstrip() for line in lines)  # it is pasted into reports
