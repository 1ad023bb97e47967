"""Folders and files as timm and those who train with it write them today."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import textwrap
import types

import goldens
import numpy as np
import pytest
from weights_files import load_pretrained_weights

import nf_zoo
from nf_zoo.hub import curation
from nf_zoo.hub.checkpoint import open_weights
from nf_zoo.hub.errors import (
    CatalogError,
    InvalidConfig,
    UnsafeWeights,
    WeightsMismatch,
    WeightsNotFound,
)
from nf_zoo.hub.foreign_names import recognize
from nf_zoo.hub.pretrained import load_pretrained
from nf_zoo.hub.untrusted.headers import pickle_remedy

WRITTEN = """{
  "architecture": "nf_resnet10",
  "num_classes": 7,
  "num_features": 256,
  "global_pool": "avg",
  "model_args": {
    "num_classes": 7,
    "in_chans": 1,
    "global_pool": "avg"
  },
  "pretrained_cfg": {
    "custom_load": false,
    "input_size": [
      1,
      224,
      224
    ],
    "fixed_input_size": false,
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "crop_mode": "center",
    "mean": [
      0.449
    ],
    "std": [
      0.226
    ],
    "num_classes": 7,
    "pool_size": [
      7,
      7
    ],
    "first_conv": "stem.conv",
    "classifier": "head.fc",
    "license": "apache-2.0"
  }
}"""
"""The config that save_for_hf of timm 1.0.31 writes for a gray network, without its name."""


def document(architecture, arguments, weights=(), **fields):
    """A config.json of timm's with other arguments, settings and fields than WRITTEN's."""
    made = json.loads(WRITTEN)
    settings = {**made["pretrained_cfg"], "input_size": [3, 224, 224], **dict(weights)}
    made |= {"architecture": architecture, "model_args": arguments, "pretrained_cfg": settings}
    if "num_classes" in arguments:
        made["num_classes"] = settings["num_classes"] = arguments["num_classes"]
    return {**made, **fields}


@pytest.fixture
def folder(tmp_path, timm_tensors, write):
    """Makes a folder as timm does: of a config.json, and of the weights of a network of ours."""
    from nf_zoo.models.classifier import build_model

    def make(config, **options):
        model = build_model(config["architecture"], **{"num_classes": 7, **options})
        tensors = timm_tensors(model)
        made = tmp_path / "timm"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        (made / "config.json").write_text(json.dumps(config))
        write(tensors).rename(made / "model.safetensors")
        load_pretrained_weights(model, made / "model.safetensors")
        return made, model

    return make


CASES = {
    "classes": ("nf_resnet10", {"num_classes": 5}, {"num_classes": 5}),
    "nothing said": ("nf_resnet10", {"in_chans": None, "act_layer": None}, {}),
    "gray": ("nf_resnet10", {"in_chans": 1}, {"input_shape": [None, None, 1]}),
    "satellite": ("resnetv2_10", {"in_chans": 13}, {"input_shape": [None, None, 13]}),
    "maximum": ("nf_resnet10", {"global_pool": "max"}, {"pooling": "max"}),
    "features": ("nf_resnet10", {"num_classes": 0}, {"num_classes": 0}),
    "maps": (
        "nf_resnet10",
        {"num_classes": 0, "global_pool": ""},
        {"num_classes": 0, "pooling": None},
    ),
    "dropped": (
        "test_nfnet",
        {"drop_rate": 0.25, "drop_path_rate": 0.125},
        {"drop_rate": 0.25, "stochastic_depth_rate": 0.125},
    ),
    "dilated": ("resnetv2_10", {"output_stride": 8}, {"output_stride": 8}),
    "swish": ("nf_resnet10", {"act_layer": "swish"}, {"activation": "silu"}),
    "GELU": ("resnetv2_10", {"act_layer": "gelu_tanh"}, {"activation": "gelu_tanh"}),
    "hard": ("resnetv2_10", {"act_layer": "hardswish"}, {"activation": "hard_swish"}),
    "ECA": ("nf_regnet_b0", {"attn_layer": "eca", "attn_kwargs": {}}, {"attention": "eca"}),
}


class TestFolders:
    @pytest.mark.parametrize("case", CASES)
    def test_arguments_with_a_counterpart(self, case, folder, same, caplog):
        name, arguments, options = CASES[case]
        path, model = folder(document(name, arguments), **options)
        for found in (load_pretrained(path), nf_zoo.create_model(name, pretrained=path)):
            assert {**found.options(), **options} == found.options() == model.options()
            same(found, model)
        assert not caplog.records

    @pytest.mark.fast
    def test_from_the_hub(self, hub, folder, same):
        path, model = folder(json.loads(WRITTEN), input_shape=(None, None, 1))
        hub.add_folder("me/timm", path)
        for found in (
            load_pretrained("hf://me/timm"),
            nf_zoo.create_model("nf_resnet10", pretrained="hf://me/timm"),
            nf_zoo.NFResNet10(pretrained="hf://me/timm"),
        ):
            assert found.input_shape == (None, None, None, 1)
            assert found.preprocessing.mean == (0.449,) * 3
            assert found.preprocessing.std == (0.226,) * 3
            same(found, model)

    @pytest.mark.fast
    def test_what_the_user_says_goes_first(self, folder):
        path, _ = folder(document("nf_resnet10", {"global_pool": "max", "drop_rate": 0.5}))
        found = nf_zoo.create_model("nf_resnet10", pretrained=path, num_classes=2, pooling="avg")
        assert (found.num_classes, found.options()["pooling"]) == (2, "avg")
        assert found.config.drop_rate == 0.5

    @pytest.mark.fast
    def test_where_arguments_are_not_said_the_fields_count(self, folder):
        config = document("nf_resnet10", {}, {"input_size": [4, 64, 64]}, global_pool="max")
        del config["model_args"], config["num_classes"]
        path, _ = folder(config, input_shape=(None, None, 4))
        found = load_pretrained(path)
        assert (found.num_classes, found.input_shape[-1]) == (7, 4)
        assert found.options()["pooling"] == "max"

    @pytest.mark.fast
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"stem_type": "deep"}, ["stem_type='deep'"]),
            ({"block_args": {"attn_layer": "se"}, "aa_layer": "x"}, ["block_args=", "aa_layer="]),
            ({"global_pool": "catavgmax"}, ["global_pool='catavgmax'"]),
            ({"act_layer": "leaky_relu"}, ["act_layer='leaky_relu'"]),  # of another slope
            ({"act_layer": "os.system"}, ["act_layer='os.system'"]),
            ({"act_layer": ["relu"]}, ["act_layer=['relu']"]),
            ({"attn_layer": "se", "attn_kwargs": {"rd_ratio": 0.1}}, ["attn_kwargs="]),
            ({"\x1b[2J" * 1000: 1}, [r"\x1b[2J"]),
            ({str(n): n for n in range(1000)}, ["0=0", "995 more"]),
        ],
    )
    def test_arguments_without_one_are_named(self, arguments, words, folder):
        arguments = {"num_classes": 7, "in_chans": 3, **arguments}
        path, _ = folder(document("nf_resnet10", arguments))
        for load in (load_pretrained, lambda p: nf_zoo.create_model("nf_resnet10", pretrained=p)):
            with pytest.raises(InvalidConfig, match="no counterpart") as raised:
                load(path)
            received = str(raised.value).partition("Received: ")[2]
            assert all(word in received for word in words), received
            assert "num_classes" not in received and "in_chans" not in received
            assert len(str(raised.value)) < 3000 and "\x1b" not in str(raised.value)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ([], None),
            ([1], "'model_args' must be an object"),
            ("nf_resnet50", "'model_args' must be an object"),
            ({"num_classes": True}, "num_classes"),
            ({"num_classes": 10**12}, "must be at most"),
            ({"num_classes": "7"}, "num_classes"),
            ({"in_chans": True}, "input_shape"),
            ({"in_chans": 10**9}, "must be at most"),
            ({"in_chans": "3"}, "input_shape"),
            ({"in_chans": [3]}, "plain value"),
            ({"in_chans": 0}, "input_shape"),
            ({"global_pool": ""}, "pooling=None requires num_classes=0"),
            ({"drop_rate": 1.5}, "drop_rate"),
            ({"drop_path_rate": {"a": 1}}, "plain value"),
            ({"output_stride": 7}, "output_stride"),
            ({"output_stride": "x" * 10**6}, "output_stride"),
        ],
    )
    def test_values_that_no_network_has(self, arguments, words, folder):
        config = document("nf_resnet10", {})
        path, _ = folder({**config, "model_args": arguments})
        if words is None:
            assert load_pretrained(path).num_classes == 7
            return
        with pytest.raises(InvalidConfig) as raised:
            load_pretrained(path)
        assert words in str(raised.value) and len(str(raised.value)) < 4000

    @pytest.mark.fast
    def test_networks_that_are_not_quite_timms_say_so(self, folder, caplog):
        # The pooling of a shortcut, dilated; a gamma that timm sampled.
        for arguments, words in (
            ({"output_stride": 16}, "output_stride=16"),
            ({"act_layer": "elu"}, "gamma of elu"),
        ):
            path, _ = folder(document("test_nfnet", arguments))
            load_pretrained(path)
            assert words in caplog.messages[-1]
        assert len(caplog.records) == 2

    @pytest.mark.fast
    def test_the_means_of_other_channels(self, folder, caplog):
        arguments = {"in_chans": 4, "num_classes": 7}
        path, _ = folder(
            document("nf_resnet10", arguments, {"mean": [0.5] * 4, "std": [0.25] * 4}),
            input_shape=(None, None, 4),
        )
        assert load_pretrained(path).preprocessing.mean == (0.5, 0.5, 0.5)
        assert not caplog.records
        config = document("nf_resnet10", arguments, {"mean": [0.2, 0.4, 0.4, 0.6], "std": [0.5]})
        (path / "config.json").write_text(json.dumps(config))
        found = load_pretrained(path).preprocessing
        assert found.mean == pytest.approx((0.4, 0.4, 0.4)) and found.std == (0.5, 0.5, 0.5)
        (message,) = caplog.messages
        assert "mean differs among the 4 channels" in message and "0.2, 0.4, 0.4, 0.6" in message
        for mean in ([300] * 4, ["a"], [], [10**400]):
            config["pretrained_cfg"]["mean"] = mean
            (path / "config.json").write_text(json.dumps(config))
            with pytest.raises(InvalidConfig, match="mean must be three numbers"):
                load_pretrained(path)

    @pytest.mark.parametrize(
        ("fields", "weights", "labels"),
        [
            ({"label_names": ["a", "b", "c"]}, {}, ("a", "b", "c")),
            ({"label_names": {"0": "a", "2": "c"}}, {}, ("a", "1", "c")),
            ({}, {"label_names": ["a", "b", "c"]}, ("a", "b", "c")),
            ({}, {"label_names": ["a", "b"], "num_classes": 2}, None),  # of another network
            (
                {"label_names": ["a", "b", "c"], "label_descriptions": {"a": "ash", "c": "cedar"}},
                {},
                ("ash", "b", "cedar"),
            ),
            ({}, {}, None),
        ],
    )
    def test_labels(self, fields, weights, labels, folder):
        config = document("nf_resnet10", {"num_classes": 3}, **fields)
        config["pretrained_cfg"] |= weights
        assert load_pretrained(folder(config, num_classes=3)[0]).labels == labels

    @pytest.mark.fast
    @pytest.mark.parametrize(
        ("names", "words"),
        [
            (["a", "b"], "2 labels for 3 classes"),
            ({"0": "a", "3": "d"}, "classes 0 to 2. Received: 3"),
            ("abc", "list of strings"),
            ([1, 2, 3], "list of strings"),
            (["a", ["b"], "c"], "list of strings"),
            ({"0": {}}, "list of strings"),
        ],
    )
    def test_labels_that_are_none(self, names, words, folder):
        described = {"label_names": names, "label_descriptions": {"a": "ash"}}
        config = document("nf_resnet10", {"num_classes": 3}, **described)
        with pytest.raises(InvalidConfig, match=words):
            load_pretrained(folder(config, num_classes=3)[0])

    @pytest.mark.fast
    def test_the_catalog_takes_no_changed_network(self, hub, folder):
        path, _ = folder(document("nf_resnet10", {"in_chans": 1}), input_shape=(None, None, 1))
        hub.add_folder("me/gray", path)
        hub.add("me/gray", "README.md", b"---\nlicense: mit\n---\n")
        with pytest.raises(CatalogError, match=r"input_shape=\[None, None, 1\]"):
            curation.add_record("hf://me/gray")


WRAPPERS = [
    *("module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module."),
    "model.model._orig_mod.",
]


class TestWrappedNetworks:
    @pytest.mark.fast
    @pytest.mark.parametrize("prefix", WRAPPERS)
    def test_one_file(self, prefix, timm_tensors, write, same):
        from nf_zoo.models.classifier import build_model

        model = build_model("nf_resnet10", num_classes=5)
        tensors = timm_tensors(model)
        load_pretrained_weights(model, write(tensors, "plain.safetensors"))
        path = write({prefix + key: array for key, array in tensors.items()}, "x.safetensors")
        found = nf_zoo.create_model("nf_resnet10", pretrained=path)
        assert found.num_classes == 5
        same(found, model)
        with open_weights(path) as file:
            assert (file.format, set(file.shapes)) == ("timm", set(tensors))

    @pytest.mark.fast
    def test_several_files_share_it_or_none(self, tiny, timm_tensors, write, tmp_path, same):
        model, found = tiny("nf_resnet50"), tiny("nf_resnet50")
        tensors = timm_tensors(model)
        load_pretrained_weights(model, write(tensors, "plain.safetensors"))
        wrapped = {f"module.{key}": array for key, array in tensors.items()}
        keys = list(wrapped)
        index = {}
        for name, part in (("a", keys[:20]), ("b", keys[20:])):
            write({key: wrapped[key] for key in part}, f"{name}.safetensors")
            index |= dict.fromkeys(part, f"{name}.safetensors")
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        load_pretrained_weights(found, tmp_path)
        same(found, model)

    @pytest.mark.fast
    def test_a_prefix_of_some_is_none(self, tiny, timm_tensors, write):
        tensors = timm_tensors(tiny("nf_resnet50"))
        wrapped = {f"module.{key}": array for key, array in tensors.items()}
        path = write({**wrapped, "n_averaged.x": np.zeros(1, "float32")})
        with pytest.raises(WeightsMismatch, match=r"unexpected \(module\."):
            load_pretrained_weights(tiny("nf_resnet50"), path)

    @pytest.mark.fast
    def test_names_of_ours_keep_theirs(self, write):
        path = write({"module.a/b": np.zeros(1, "float32")}, metadata={"format": "nf_zoo"})
        with open_weights(path) as file:
            assert list(file.shapes) == ["module.a/b"]

    @pytest.mark.fast
    def test_the_network_is_recognized(self, tiny, write):
        shapes = goldens.source_shapes("timm", "nf_resnet26")
        tensors = {f"model.{key}": np.zeros(shape, "float32") for key, shape in shapes.items()}
        with pytest.raises(WeightsMismatch, match=r"looks like nf_resnet26: build that"):
            load_pretrained_weights(tiny("nf_resnet50"), write(tensors))

    @pytest.mark.fast
    def test_a_name_of_wrappers_alone_costs_little(self, write):
        path = write({"module." * 10**5: np.zeros(1, "float32")})
        with open_weights(path) as file:
            assert list(file.shapes) == [""]


class TestAdvice:
    """Torch is no dependency: stand-ins refuse what it and safetensors refuse."""

    @pytest.fixture
    def torch(self, monkeypatch):
        torch, safetensors = types.ModuleType("torch"), types.ModuleType("safetensors.torch")
        admitted, made = set(), {}

        class Tensor:
            def __init__(self, shared=True, dense=False):
                self.shared, self.dense = shared, dense

            def clone(self):
                return Tensor(False, self.dense)

            def contiguous(self):
                return Tensor(self.shared, True)

        def load(path, map_location, weights_only):
            assert weights_only and map_location == "cpu"
            held = torch.files[path]
            strange = {type(value) for value in held.values()} - {Tensor, dict, int} - admitted
            assert not strange, f"Weights only load failed: {strange}"
            return held

        def save_file(tensors, path):
            assert all(t.dense and not t.shared for t in tensors.values())
            made[path] = set(tensors)

        torch.serialization = types.SimpleNamespace(add_safe_globals=admitted.update)
        torch.load, torch.files, torch.made = load, {}, made
        safetensors.save_file = save_file
        plain = {"stem.weight": Tensor(), "head.weight": Tensor()}
        training = {"epoch": 1, "state_dict": plain, "args": argparse.Namespace(lr=0.1)}
        torch.files |= {"/a b/plain.pth": plain, "/it's/last.pth.tar": training}
        monkeypatch.setitem(sys.modules, "torch", torch)
        monkeypatch.setitem(sys.modules, "safetensors.torch", safetensors)
        monkeypatch.setattr(sys.modules["safetensors"], "torch", safetensors, raising=False)
        return torch

    @pytest.mark.fast
    @pytest.mark.parametrize("path", ["/a b/plain.pth", "/it's/last.pth.tar"])
    @pytest.mark.parametrize("lines", ["as they are", "as one"])
    def test_its_code_runs(self, lines, path, torch):
        code = textwrap.dedent(re.search(r"(?m)(^    .*\n)+", pickle_remedy(path))[0])
        if lines == "as one":  # as the command line prints errors
            code = " ".join(code.split("\n"))
        exec(code, {})
        assert torch.made == {"model.safetensors": {"stem.weight", "head.weight"}}

    @pytest.mark.fast
    def test_where_it_is_given(self, hub, tmp_path):
        (tmp_path / "last.pth.tar").touch()
        hub.add("me/old", "pytorch_model.bin", b"x")
        folder = tmp_path / "timm"
        folder.mkdir()
        (folder / "config.json").write_text(WRITTEN)
        (folder / "pytorch_model.bin").touch()  # what save_for_hf writes unless told otherwise

        def create(source):
            return nf_zoo.create_model("nf_resnet10", pretrained=source)

        for load, source, error, file in (
            (create, tmp_path / "last.pth.tar", UnsafeWeights, tmp_path / "last.pth.tar"),
            (create, folder, WeightsNotFound, folder / "pytorch_model.bin"),
            (load_pretrained, folder, WeightsNotFound, folder / "pytorch_model.bin"),
            (create, "hf://me/old", WeightsNotFound, "pytorch_model.bin"),
        ):
            with pytest.raises(error) as raised:
                load(source)
            assert pickle_remedy(file) in str(raised.value)


class TestInputChannels:
    @pytest.mark.parametrize("architecture", ["nf_resnet50", "resnetv2_50d", "resnet50"])
    @pytest.mark.parametrize("channels", [1, 13])
    def test_the_error_says_how_to_build(
        self, channels, architecture, tiny, timm_tensors, write, unchanged
    ):
        options = {"input_shape": (None, None, channels)}
        path = write(timm_tensors(tiny(architecture, **options)))
        for own in (3, 2):
            model = tiny(architecture, input_shape=(None, None, own))
            with unchanged(model), pytest.raises(WeightsMismatch) as raised:
                load_pretrained_weights(model, path)
            call = f"create_model('{architecture}', input_shape=(None, None, {channels}), "
            assert call in str(raised.value)
            assert f"{channels} input channels and this one {own}" in str(raised.value)
        load_pretrained_weights(tiny(architecture, **options), path)


class TestAttentionOfNFRegNets:
    @pytest.fixture
    def path(self, timm_tensors, write):
        from nf_zoo.models.classifier import build_model

        model = build_model("nf_regnet_b0", attention="eca", num_classes=5)
        return write(timm_tensors(model), "eca.safetensors")

    @pytest.mark.fast
    def test_its_names(self, path):
        with open_weights(path) as file:
            assert file.shapes["stages.1.0.attn.conv.weight"] == (1, 1, 3)
            assert not any("fc1" in key for key in file.shapes)
            assert recognize(file) is None  # no architecture of the table has it

    @pytest.mark.fast
    def test_it_loads(self, path, values):
        model = nf_zoo.create_model("nf_regnet_b0", attention="eca", pretrained=path)
        key = "stages.1.0.attn.conv.weight"
        expected = goldens.fill_timm(key, (1, 1, 3)).reshape(3, 1, 1)
        np.testing.assert_array_equal(values(model)["stage2/block1/attention/kernel"], expected)

    @pytest.mark.parametrize("name", ["nf_regnet_b0", "nf_regnet_b1"])
    def test_the_error_says_what_to_build(self, name, path):
        with pytest.raises(WeightsMismatch) as raised:
            nf_zoo.create_model(name, pretrained=path)
        assert "looks like nf_regnet_b0 with other attention" in str(raised.value)
        assert "create_model('nf_regnet_b0', attention='eca', ...)" in str(raised.value)
