"""Indexes that point elsewhere, and configurations of what no network is."""

from __future__ import annotations

import json
import resource

import pytest

import nf_zoo
from nf_zoo.hub.errors import (
    CorruptWeights,
    InvalidConfig,
    UnsafeWeights,
    WeightsMismatch,
    WeightsNotFound,
)

pytestmark = pytest.mark.fast


class TestIndexes:
    @staticmethod
    def index(sound, change):
        document = json.loads(sound["shards"]["model.safetensors.index.json"])
        change(document["weight_map"])
        return {"model.safetensors.index.json": json.dumps(document).encode()}

    @pytest.mark.parametrize(
        "name",
        [
            "../../outside/secret.safetensors",
            "..",
            "/etc/passwd",
            "/etc/x.safetensors",
            "sub/model.safetensors",
            "..\\..\\secret.safetensors",
            "C:\\secret.safetensors",
            "secret\0.safetensors",
            "-secret.safetensors",
            ".hidden.safetensors",
            "pytorch_model.bin",
            "hf://me/other.safetensors",
            "https://example.org/a.safetensors",
            "model.safetensors\n",
            "",
            None,
            7,
            ["a.safetensors"],
        ],
    )
    def test_ways_out(self, name, attack, sound):
        bad = self.index(sound, lambda shards: shards.update({"head/bias": name}))
        with attack(UnsafeWeights, "index.json", bad=bad, kind="shards"):
            pass

    def test_a_shard_that_is_missing(self, attack, sound):
        bad = self.index(sound, lambda s: s.update({"head/bias": "model-9.safetensors"}))
        with attack(WeightsNotFound, "model-9.safetensors", bad=bad, kind="shards"):
            pass

    def test_a_tensor_in_another_shard_than_said(self, attack, sound):
        other = "model-00001-of-"

        def change(shards):
            first = next(name for name in shards.values() if name.startswith(other))
            last = list(shards)[-1]
            assert shards[last] != first
            shards[last] = first

        with attack(CorruptWeights, "disagree", bad=self.index(sound, change), kind="shards"):
            pass

    def test_a_tensor_that_the_index_does_not_know(self, attack, sound):
        def forget(shards):
            names = list(shards.values())
            del shards[next(key for key, name in shards.items() if names.count(name) > 1)]

        bad = self.index(sound, forget)
        with attack(CorruptWeights, "disagree", bad=bad, kind="shards"):
            pass

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"<html>",
            b"[]",
            b"{}",
            b'{"weight_map": {}}',
            b'{"weight_map": ["a"]}',
            b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}',
            b'{"weight_map": ' * 20000,
            b"\xff\xfe",
            json.dumps({"weight_map": {str(i): f"{i}.safetensors" for i in range(1001)}}).encode(),
        ],
        ids=[
            *("empty", "page", "list", "object", "no tensors", "no map"),
            *("twice", "nest", "bytes", "too many"),
        ],
    )
    def test_no_indexes(self, text, attack):
        bad = {"model.safetensors.index.json": text}
        with attack(CorruptWeights, "index.json", bad=bad, kind="shards"):
            pass


DEEP = {"depths": [999] * 3, "num_classes": 0}


class TestConfigs:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"options": {"depths": [1000] * 2}}, "2000 residual blocks"),
            ({"options": {"depths": "abc"}}, "does not describe a model"),
            ({"options": {"depths": 5}}, "does not describe a model"),
            ({"options": {"depths": [None]}}, "does not describe a model"),
            ({"parts": {"stem_conv": {"lora_rank": 4}}}, "does not describe a model"),
            ({"options": {"depths": [1000] * 2, "widths": [65536] * 2}}, "2000 residual blocks"),
            ({"architecture": "wide_resnet999994_4"}, "Unknown architecture"),
            (
                {"architecture": "wide_resnet9994_4", "options": {"features_only": True, **DEEP}},
                "2997 residual",
            ),
            ({"architecture": "n" * 10**6}, "such a long name"),
            ({"architecture": "../../outside"}, "Unknown architecture"),
            ({"architecture": ["nf_resnet26"]}, "wrong type"),
            ({"options": {"activation": "eval"}}, "activation"),
            ({"options": {"activation": {"class_name": "Lambda"}}}, "plain value"),
            ({"options": {"num_classes": 10**4000}}, "must be at most"),
            ({"options": {"num_classes": -5}}, "num_classes"),
            ({"options": {"num_classes": True}}, "num_classes"),
            ({"options": {"\x1b[2J": 1}}, "no field"),
            ({"labels": ["x" * 10**6] * 5}, "1000 characters"),
            ({"preprocessing": {"input_size": [65537, 1]}}, "no picture is that large"),
            ({"preprocessing": {"mean": ["0", "0", "0"]}}, "mean"),
            ({"preprocessing": []}, "wrong type"),
        ],
    )
    def test_absurd(self, change, words, attack, sound):
        document = json.loads(sound["whole"]["config.json"])
        for name, value in change.items():
            if name == "options" and value:
                document[name].update(value)
            else:
                document[name] = value
        bad = {"config.json": json.dumps(document).encode()}
        with attack(InvalidConfig, "config.json", words, bad=bad):
            pass

    def test_a_network_that_is_not_in_the_file(self, attack, sound):
        document = json.loads(sound["whole"]["config.json"])
        document["options"]["widths"] = [65536, 65536]
        bad = {"config.json": json.dumps(document).encode()}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with attack(WeightsMismatch, "of another shape", bad=bad):
            pass
        # Its largest kernel alone would have 38 GB.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000

    def test_a_factory_allocates_no_more_than_the_file_has(self, sound, tmp_path):
        for name, content in sound["whole"].items():
            (tmp_path / name).write_bytes(content)
        document = json.loads(sound["whole"]["config.json"])
        document["options"]["widths"] = [65536, 65536]
        (tmp_path / "config.json").write_text(json.dumps(document))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(WeightsMismatch, match="of another shape"):
            nf_zoo.create_model(document["architecture"], pretrained=tmp_path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
        (tmp_path / "config.json").unlink()
        (tmp_path / "config.json").symlink_to(__file__)
        with pytest.raises(UnsafeWeights, match="leads out of its folder"):
            nf_zoo.create_model(document["architecture"], pretrained=tmp_path)

    def test_a_classifier_that_is_not_in_the_file(self, attack, sound):
        document = json.loads(sound["whole"]["config.json"])
        document["options"]["num_classes"] = 7
        bad = {"config.json": json.dumps(document).encode()}
        with attack(WeightsMismatch, "promises a classifier for 7 classes", "has 5", bad=bad):
            pass

    def test_twice(self, attack, sound):
        text = sound["whole"]["config.json"].rstrip()[:-1] + b', "architecture": "resnet50"}'
        with attack(InvalidConfig, "'architecture' appears twice", bad={"config.json": text}):
            pass

    def test_timm_with_arguments_of_its_own(self, attack):
        text = {"architecture": "nf_resnet26", "model_args": {"act_layer": "os.system"}}
        bad = {"config.json": json.dumps({**text, "pretrained_cfg": {}}).encode()}
        with attack(InvalidConfig, "act_layer='os.system'", bad=bad):
            pass

    def test_larger_than_any_is_not_fetched(self, attack, hub):
        with attack(CorruptWeights, "Nothing was fetched", bad={"config.json": b"{}"}):
            hub.headers["X-Linked-Size"] = str(10**12)
        assert len(hub.downloads("config.json")) == 1
