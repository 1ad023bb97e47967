"""Everything that can go wrong with weights: the cause, the remedy, and the model unchanged."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import time
import zipfile

import numpy as np
import pytest
from weights_files import load_pretrained_weights, save_weights

from nf_zoo.hub import catalog, client_errors
from nf_zoo.hub.checkpoint import open_weights
from nf_zoo.hub.errors import (
    ChecksumMismatch,
    CorruptWeights,
    InvalidConfig,
    UnknownWeights,
    UnsafeWeights,
    WeightsAccessDenied,
    WeightsError,
    WeightsMismatch,
    WeightsNotFound,
    WeightsOffline,
)
from nf_zoo.hub.folder import save_pretrained, save_shards
from nf_zoo.hub.loading import build_options
from nf_zoo.hub.pretrained import load_pretrained
from nf_zoo.hub.sources import HubRepository, resolve_pretrained

REPOSITORY = "timm/nf_resnet50.ra2_in1k"


@pytest.fixture
def refused(tiny, unchanged):
    """Checks that a load fails with an error whose message holds all of some words."""

    def check(source, error, *words, model=None):
        model = model or tiny("nf_resnet50")
        with unchanged(model), pytest.raises(error) as raised:
            load_pretrained_weights(model, source)
        for word in words:
            assert word in str(raised.value)

    return check


class TestHub:
    @pytest.mark.fast
    def test_no_such_repository(self, hub, refused):
        refused("hf://me/nothing", WeightsNotFound, "no repository me/nothing", "check its name")

    @pytest.mark.fast
    def test_no_such_revision(self, hub, refused):
        hub.add("me/mine", "model.safetensors", b"x")
        refused("hf://me/mine@v9", WeightsNotFound, "no revision 'v9'", "'main'")

    @pytest.mark.fast
    def test_no_such_file(self, hub, refused):
        hub.add("me/mine", "pytorch_model.bin", b"x")
        refused("hf://me/mine", WeightsNotFound, "holds no model.safetensors", "converted")

    @pytest.mark.fast
    @pytest.mark.parametrize("how", ["gated", "unauthorized"])
    def test_access_denied(self, how, hub, refused):
        hub.misbehavior = how
        refused("hf://me/mine", WeightsAccessDenied, "me/mine", "hf auth login")

    @pytest.mark.fast
    @pytest.mark.parametrize("how", ["broken", "portal"])
    def test_a_hub_that_is_down_or_not_a_hub(self, how, hub, refused):
        hub.misbehavior = how
        refused("hf://me/mine", WeightsOffline, hub.url, "HF_ENDPOINT")

    @pytest.mark.fast
    def test_connection_refused(self, hub, refused):
        hub.server_close()
        hub.shutdown()
        words = (
            "cannot be reached",
            "HF_HOME",
            "pretrained='path/to/model.safetensors'",
            "come with",
        )
        refused(True, WeightsOffline, REPOSITORY, *words)

    @pytest.mark.fast
    @pytest.mark.parametrize("checkpoint", ["nf_resnet50.ra2_in1k", "nfnet_f0.haiku"])
    def test_without_a_connection_nothing_is_tried_again(self, checkpoint, hub, monkeypatch):
        hub.server_close()
        hub.shutdown()
        url = f"{hub.url}/F0.npz"
        record = dataclasses.replace(catalog.find_record(*checkpoint.split(".")))
        if record.url:
            record = dataclasses.replace(record, url=url)
        monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waits for another attempt"))
        with pytest.raises(WeightsOffline, match="cannot be reached") as raised:
            resolve_pretrained(record.architecture, record).weights()
        shipped = [record.name for record in catalog.read_catalog() if record.source == "shipped"]
        assert sum(name in str(raised.value) for name in shipped) >= 5

    @pytest.mark.fast
    def test_remedies_in_python_stand_apart(self):
        error = pickle.loads(pickle.dumps(WeightsOffline("No network.", "Pass pretrained='path'.")))
        assert str(error) == "No network. Pass pretrained='path'."
        assert error.message == "No network."

    @pytest.mark.fast
    def test_offline_and_not_cached(self, hub, refused, monkeypatch):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        refused(True, WeightsOffline, "HF_HUB_OFFLINE is set", constants.HF_HUB_CACHE)
        assert not hub.requests

    @pytest.mark.fast
    def test_offline_error_names_the_shipped_weights(self, hub, refused, monkeypatch):
        from huggingface_hub import constants

        record = dataclasses.replace(
            catalog.find_record("nf_resnet50"), tag="small", source="shipped", repository=None
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(client_errors, "read_catalog", lambda: (record,))
        refused("hf://me/mine", WeightsOffline, "nf_resnet50.small")

    @pytest.mark.fast
    def test_a_web_page_in_place_of_weights(self, hub, refused):
        hub.add("me/mine", "model.safetensors", b"<!doctype html><html>Sign in</html>")
        refused("hf://me/mine", CorruptWeights, "a web page", "Delete it")

    @pytest.mark.fast
    def test_truncated_at_the_origin(self, hub, refused, tiny, timm_tensors, write):
        content = write(timm_tensors(tiny("nf_resnet50"))).read_bytes()
        hub.add(REPOSITORY, "model.safetensors", content[:-100])
        refused(True, CorruptWeights, "truncated", f"{len(content) - 100} bytes", "Delete it")

    @pytest.mark.fast
    def test_checksum(self, hub, tiny, timm_tensors, write, refused):
        content = write(timm_tensors(tiny("nf_resnet50"))).read_bytes()
        hub.add(REPOSITORY, "model.safetensors", content)
        record = dataclasses.replace(catalog.find_record("nf_resnet50"), sha256="0" * 64)
        digest = hashlib.sha256(content).hexdigest()
        refused(record, ChecksumMismatch, digest, "0" * 64, "Delete it")
        load_pretrained_weights(tiny("nf_resnet50"), dataclasses.replace(record, sha256=digest))

    @pytest.mark.fast
    @pytest.mark.parametrize("uri", ["hf://timm", "hf://a/b/c", "hf://a/b@", "hf://a b/c", "hf://"])
    def test_malformed_address(self, uri, refused):
        refused(uri, UnknownWeights, "hf://owner/name@revision", repr(uri))


class TestFiles:
    @pytest.mark.fast
    def test_missing(self, tmp_path, refused):
        refused(str(tmp_path / "no.safetensors"), WeightsNotFound, "no file or folder")

    @pytest.mark.fast
    def test_folder_without_weights(self, tmp_path, refused):
        (tmp_path / "notes.txt").touch()
        refused(tmp_path, WeightsNotFound, "holds no model.safetensors", "notes.txt")

    @pytest.mark.fast
    @pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pkl", ".PTH", ".ckpt"])
    def test_pickles_are_refused_by_name(self, suffix, tmp_path, refused):
        path = tmp_path / f"model{suffix}"
        path.write_bytes(b"never read")
        refused(str(path), UnsafeWeights, "pickle", "safetensors.torch.save_file")

    @pytest.mark.fast
    def test_pickles_are_refused_by_content(self, tmp_path, refused):
        path = tmp_path / "model.safetensors"
        path.write_bytes(pickle.dumps({"stem.conv.weight": np.zeros(3)}))
        refused(path, UnsafeWeights, "pickle", "safetensors.torch.save_file")
        path.unlink()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"x")
        refused(path, UnsafeWeights, "zip archive")
        path.rename(tmp_path / "model.keras")
        refused(tmp_path / "model.keras", CorruptWeights, "load it with nf_zoo.load_pretrained")

    @pytest.mark.fast
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "0 bytes"),
            (b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "truncated or damaged"),
            (b"\xff" * 64, "truncated or damaged"),
            (b"\x89HDF\r\n\x1a\n" + bytes(64), "model.load_weights"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        ],
    )
    def test_not_safetensors(self, content, words, tmp_path, refused):
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        refused(path, CorruptWeights, str(path), words)

    @pytest.mark.fast
    def test_a_header_that_begins_like_a_pickle_is_read(self, tmp_path):
        # The header's length comes first: 640 bytes are 80 02 00 ..., the start of many pickles.
        entry = {"a.b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
        header = json.dumps(entry).encode().ljust(640)
        path = tmp_path / "model.safetensors"
        path.write_bytes((640).to_bytes(8, "little") + header + bytes(4))
        assert path.read_bytes()[:2] == pickle.dumps(0, protocol=2)[:2]
        with open_weights(path) as file:
            assert file.shapes == {"a.b": (1,)}

    @pytest.mark.fast
    def test_foreign_names(self, write, refused):
        refused(
            write({"w": np.zeros(3)}), WeightsMismatch, "neither timm's nor nf_zoo's names", "w"
        )

    @pytest.mark.fast
    def test_saving_leaves_nothing_behind_when_it_fails(self, tiny, tmp_path, monkeypatch):
        import safetensors.numpy

        target = tmp_path / "model.safetensors"
        target.write_bytes(b"old")

        def fail(tensors, path, metadata):
            path.write_bytes(b"half")
            raise OSError("disk full")

        monkeypatch.setattr(safetensors.numpy, "save_file", fail)
        with pytest.raises(OSError, match="disk full"):
            save_weights(tiny("nf_resnet50"), target)
        assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
        assert target.read_bytes() == b"old"

    @pytest.mark.fast
    def test_saving_refuses(self, tiny, tmp_path):
        with pytest.raises(ValueError, match="int8"):
            save_shards(tiny("nf_resnet50"), tmp_path, "int8")
        assert not list(tmp_path.iterdir())


class TestMismatch:
    @pytest.mark.fast
    def test_missing_unexpected_and_misshapen(self, tiny, timm_tensors, write, refused):
        tensors = timm_tensors(tiny("nf_resnet50"))
        for block in range(4):
            for part in ("weight", "gain"):
                del tensors[f"stages.{block}.0.conv1.{part}"]
        tensors["stages.0.0.extra.weight"] = np.zeros((2, 2))
        tensors["stem.conv.weight"] = np.zeros((8, 3, 5, 5), "float32")
        tensors["stem.conv.bias"] = np.zeros(8, "int64")
        refused(
            write(tensors),
            WeightsMismatch,
            "8 missing",
            "stages.0.0.conv1.gain",
            "and 3 more",
            "1 unexpected (stages.0.0.extra.weight)",
            "2 of another shape or type",
            "[8, 3, 5, 5] of F32 for stem/conv/kernel [7, 7, 3, 8]",
            "[8] of I64",
        )

    @pytest.mark.fast
    @pytest.mark.parametrize(
        ("file", "model"), [("resnet50", "nf_resnet50"), ("nf_resnet50", "resnet50")]
    )
    def test_another_architecture(self, file, model, tiny, timm_tensors, write, refused):
        path = write(timm_tensors(tiny(file)))
        refused(path, WeightsMismatch, f"does not fit {model}", model=tiny(model))

    @pytest.mark.fast
    def test_the_architecture_of_a_file_is_named(self, tiny, tmp_path, write, refused):
        path = save_weights(tiny("resnetv2_50"), tmp_path / "own.safetensors")
        refused(path, WeightsMismatch, "looks like resnetv2_50", "create_model('resnetv2_50'")

    @pytest.mark.fast
    def test_another_width(self, tiny, timm_tensors, write, refused):
        path = write(timm_tensors(tiny("nf_resnet50", widths=(8, 16, 16, 64))))
        refused(
            path, WeightsMismatch, "13 of another shape", "stages.3.0.conv1.weight [16, 16, 1, 1]"
        )

    @pytest.mark.fast
    def test_a_cataloged_checkpoint_must_have_its_head(
        self, hub, tiny, timm_tensors, write, refused
    ):
        content = write(timm_tensors(tiny("nf_resnet50", num_classes=0))).read_bytes()
        hub.add(REPOSITORY, "model.safetensors", content)
        refused(True, WeightsMismatch, "2 missing", "head.fc.weight")

    @pytest.mark.fast
    def test_a_record_of_another_architecture(self, hub, refused):
        record = catalog.find_record("resnet18")
        refused(record, WeightsMismatch, "weights of resnet18, not of nf_resnet50", "create_model")
        assert not hub.requests

    @pytest.mark.fast
    def test_a_two_channel_file_is_not_adapted(self, tiny, timm_tensors, write, refused):
        path = write(timm_tensors(tiny("nf_resnet50", input_shape=(None, None, 2))))
        refused(path, WeightsMismatch, "stem.conv.weight [8, 2, 7, 7]")

    @pytest.mark.fast
    def test_the_papers_network_is_not_filled_with_timms(self, tiny, timm_tensors, write, refused):
        path = write(timm_tensors(tiny("nf_resnet50")))
        model = tiny("nf_resnet50", variant="paper")
        words = ("timm's weights", "variant='paper'", "create_model('nf_resnet50', pretrained=")
        refused(path, WeightsMismatch, *words, model=model)

    @pytest.mark.fast
    def test_deepminds_nfnet_is_not_filled_with_timms_port(
        self, nfnet, timm_tensors, write, refused
    ):
        # Every name and shape agrees; epsilon and GELU do not.
        path = write(timm_tensors(nfnet("dm_nfnet_f0")))
        refused(path, WeightsMismatch, "timm's", model=nfnet("nfnet_f0", variant="paper"))
        load_pretrained_weights(nfnet("dm_nfnet_f0"), path)

    @pytest.mark.fast
    def test_overrides_of_a_published_network_are_pointed_out(
        self, hub, tiny, timm_tensors, write, caplog
    ):
        hub.add(
            REPOSITORY, "model.safetensors", write(timm_tensors(tiny("nf_resnet50"))).read_bytes()
        )
        load_pretrained_weights(tiny("nf_resnet50", padding="same", drop_rate=0.5), True)
        assert "padding='same'" in caplog.text
        assert "drop_rate" not in caplog.text


class TestNames:
    @pytest.mark.fast
    def test_near_tags_are_offered(self):
        with pytest.raises(UnknownWeights) as raised:
            resolve_pretrained("resnet50", "a1_in1")
        assert "Did you mean 'a1_in1k'" in str(raised.value)
        assert "gluon_in1k" in str(raised.value)

    @pytest.mark.fast
    def test_relatives_with_weights_are_offered(self):
        offered = r"nf_resnet101.*these have weights: .*nf_resnet50, nf_resnet26;"
        with pytest.raises(UnknownWeights, match=offered):
            resolve_pretrained("nf_resnet101", True)
        with pytest.raises(UnknownWeights, match="No weights are published for nf_resnet101"):
            resolve_pretrained("nf_resnet101", "ra2_in1k")

    @pytest.mark.fast
    @pytest.mark.parametrize("pretrained", [None, 3, "", b"tag"])
    def test_wrong_types(self, pretrained):
        with pytest.raises(TypeError, match="Received"):
            resolve_pretrained("resnet50", pretrained)

    @pytest.mark.fast
    def test_all_are_weights_errors(self):
        for error in (
            UnknownWeights,
            UnsafeWeights,
            InvalidConfig,
            WeightsOffline,
            WeightsNotFound,
        ):
            assert issubclass(error, WeightsError)


class TestConfig:
    @pytest.fixture
    def folder(self, tiny, tmp_path):
        return save_pretrained(tiny("nf_resnet50"), tmp_path / "folder")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"surprise": 1}, "unknown fields: surprise"),
            ({"options": None}, "missing fields: options"),
            ({"architecture": 5}, "'architecture' is of the wrong type"),
            ({"architecture": "nf_resnet51"}, "Did you mean nf_resnet50"),
            ({"options": {"color": "red"}}, "color"),
            ({"options": {"depths": [1, 1, 1, 10**7]}}, "must be at most"),
            ({"options": {"widths": [8, 8, 8, 10**9]}}, "must be at most"),
            ({"options": {"num_classes": 10**12}}, "must be at most"),
            ({"options": {"depths": [1] * 1000}}, "1000 entries"),
            ({"options": {"alpha": float("nan")}}, "NaN"),
            ({"options": {"classifier_activation": {"class_name": "Lambda"}}}, "plain value"),
            ({"preprocessing": {"size": 3}}, "size"),
            ({"preprocessing": {"input_size": [10**9, 3]}}, "no picture is that large"),
            ({"labels": ["a", "b"]}, "2 labels for 5 classes"),
            ({"labels": ["a", "b", "c", "d", 5]}, "list of strings"),
        ],
    )
    def test_malformed(self, change, words, folder):
        path = folder / "config.json"
        document = json.loads(path.read_text())
        for field, value in change.items():
            if isinstance(value, dict) and field == "options":
                document[field].update(value)
            elif value is None:
                del document[field]
            else:
                document[field] = value
        path.write_text(json.dumps(document))
        with pytest.raises(InvalidConfig) as raised:
            load_pretrained(folder)
        assert words in str(raised.value)
        assert "config.json" in str(raised.value)

    @pytest.mark.fast
    @pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 10**5, '{"architecture": Infinity}'])
    def test_not_json(self, text, folder):
        (folder / "config.json").write_text(text)
        with pytest.raises(InvalidConfig, match=r"config\.json"):
            load_pretrained(folder)

    @pytest.mark.fast
    def test_missing(self, folder):
        (folder / "config.json").unlink()
        with pytest.raises(WeightsNotFound, match="save_pretrained"):
            load_pretrained(folder)

    @pytest.mark.fast
    def test_another_architecture_than_asked_for(self, folder):
        with pytest.raises(WeightsMismatch, match="holds a nf_resnet50, not a resnet50"):
            build_options("resnet50", folder)

    @pytest.mark.fast
    def test_another_librarys_config_is_left_alone(self, folder):
        (folder / "config.json").write_text('{"model_type": "resnet"}')
        assert build_options("nf_resnet50", folder) == {"num_classes": 5}
        with pytest.raises(InvalidConfig, match=r"not a config\.json of nf_zoo"):
            load_pretrained(folder)

    @pytest.mark.fast
    def test_a_hub_repository_without_config(self, hub, folder, monkeypatch):
        from huggingface_hub import constants

        content = (folder / "model.safetensors").read_bytes()
        hub.add("me/mine", "model.safetensors", content)
        assert build_options("nf_resnet50", HubRepository("me/mine")) == {"num_classes": 5}
        with pytest.raises(WeightsNotFound, match=r"holds neither a config\.json"):
            load_pretrained("hf://me/mine")
        with pytest.raises(WeightsNotFound, match="no repository"):
            build_options("nf_resnet50", HubRepository("me/other"))
        # What has been found out online is still known offline.
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert build_options("nf_resnet50", HubRepository("me/mine")) == {"num_classes": 5}
