"""Hubs, disks, folders and addresses that do not behave."""

from __future__ import annotations

import errno
import os
import resource

import pytest
from hub_attacks import ME, TINY

from nf_zoo.hub.errors import (
    CacheNotWritable,
    ChecksumMismatch,
    InvalidConfig,
    UnsafeWeights,
    WeightsAccessDenied,
    WeightsError,
    WeightsNotFound,
    WeightsOffline,
)
from nf_zoo.hub.folder import save_pretrained
from nf_zoo.hub.pretrained import load_pretrained

pytestmark = pytest.mark.fast


class TestNetwork:
    @pytest.mark.parametrize(
        ("how", "error", "words"),
        [
            ("gated", WeightsAccessDenied, "hf auth login"),
            ("unauthorized", WeightsAccessDenied, "hf auth login"),
            ("forbidden", WeightsAccessDenied, "hf auth login"),
            ("too many requests", WeightsOffline, "429"),
            ("broken", WeightsOffline, "500"),
            ("unavailable", WeightsOffline, "503"),
            ("portal", WeightsOffline, "cannot be reached"),
            ("silent", WeightsOffline, "cannot be reached"),
        ],
    )
    def test_refusals_without_an_earlier_version(self, how, error, words, hub, impatient, tmp_path):
        hub.misbehavior = how
        with pytest.raises(error, match=words):
            load_pretrained(ME)
        assert not list((tmp_path / "hub-cache").rglob("blobs/*"))

    def test_a_hub_that_asks_to_wait_for_days(self, hub):
        hub.add("me/trees", "config.json", b"{}")
        hub.misbehavior = "too many requests"
        hub.headers["Retry-After"] = str(10**7)
        with pytest.raises(WeightsOffline, match="asks to wait 10000000 seconds"):
            load_pretrained(ME)

    def test_with_an_earlier_version_nobody_waits(self, hub, sound):
        for name, content in sound["whole"].items():
            hub.add("me/trees", name, content)
        load_pretrained(ME)
        hub.misbehavior = "too many requests"
        hub.headers["Retry-After"] = str(10**7)
        assert load_pretrained(ME).num_classes == 5

    @pytest.mark.parametrize("how", ["stalls", "always breaks off"])
    def test_a_file_that_never_arrives(self, how, attack, hub, impatient, sound):
        changed = sound["whole"]["model.safetensors"][::-1]
        with attack(WeightsOffline, "broke off", bad={"model.safetensors": changed}):
            hub.misbehavior = how

    def test_a_connection_cut_once_is_resumed(self, hub, sound, monkeypatch):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 64)
        for name, content in sound["whole"].items():
            hub.add("me/trees", name, content)
        hub.misbehavior = "breaks off"
        assert load_pretrained(ME).num_classes == 5
        ranges = hub.downloads("config.json") + hub.downloads("model.safetensors")
        assert any(asked and asked.startswith("bytes=") for asked in ranges)

    def test_weights_of_another_checksum(self, attack, hub, sound):
        content = sound["whole"]["model.safetensors"]
        bad = {"model.safetensors": content[::-1]}
        with attack(ChecksumMismatch, "not what the hub describes", bad=bad):
            hub.answers["model.safetensors"] = content

    def test_a_configuration_of_another_content(self, attack, hub, sound):
        bad = {"config.json": sound["whole"]["config.json"] + b" "}
        with attack(InvalidConfig, "config.json", bad=bad):
            hub.answers["config.json"] = b"{".ljust(len(bad["config.json"]))

    @pytest.mark.parametrize(
        "etag",
        [
            '"../../../outside/planted"',
            '"/planted"',
            '".."',
            '"a/b"',
            '"x\\\\y"',
            f'"{"a" * 999}"',
        ],
    )
    def test_names_that_lead_out_of_the_cache(self, etag, attack, hub):
        with attack(UnsafeWeights, "ETag"):
            hub.headers["ETag"] = etag

    @pytest.mark.parametrize("commit", ["../../../outside", "/tmp", "..", "a\\b", "x" * 999])
    def test_commits_that_are_none(self, commit, attack, hub):
        with attack(UnsafeWeights, "X-Repo-Commit"):
            hub.headers["X-Repo-Commit"] = commit

    def test_another_host_gets_no_token(self, hub, sound, monkeypatch):
        import threading

        from stand_in_hub import StandInHub

        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        for name, content in sound["whole"].items():
            hub.add("me/trees", name, content)
        load_pretrained(ME)
        other = StandInHub()
        threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            new = sound["whole"]["model.safetensors"][::-1]
            hub.add("me/trees", "model.safetensors", new)
            other.add("me/trees", "model.safetensors", b"<html>another host</html>")
            hub.headers["Location"] = f"{other.url}/me/trees/resolve/main/model.safetensors"
            hub.headers["X-Linked-Size"] = "25"
            with pytest.raises(ChecksumMismatch):
                load_pretrained(f"{ME}@{hub.repositories['me/trees'].branches['main']}")
        finally:
            other.shutdown()
            other.server_close()
        assert other.requests
        assert "Bearer hf_secret" in hub.tokens
        assert not any(other.tokens)

    @pytest.mark.parametrize(
        ("target", "error"),
        [
            ("file:///etc/passwd", WeightsOffline),
            ("ftp://127.0.0.1/x", WeightsOffline),
            ("http://[::1", UnsafeWeights),
        ],
    )
    def test_redirects_to_what_is_no_host(self, target, error, attack, hub):
        with attack(error):
            hub.headers["Location"] = target

    def test_redirects_without_end(self, attack, hub):
        with attack(WeightsOffline):
            hub.headers["Location"] = "/me/trees/resolve/main/config.json"


class TestDisk:
    def test_a_full_disk(self, attack, sound, monkeypatch):
        """The limit of the process stands in for the disk's: the write itself fails."""
        larger = sound["whole"]["model.safetensors"] + bytes(2**20)
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            with attack(CacheNotWritable, "HF_HOME", bad={"model.safetensors": larger}):
                resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, old[1]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
    def test_a_disk_that_takes_nothing(self, code, attack, monkeypatch):
        from huggingface_hub import file_download

        def fail(*_, **__):
            raise OSError(code, os.strerror(code))

        with attack(CacheNotWritable, os.strerror(code)):
            monkeypatch.setattr(file_download, "http_get", fail)


class TestLocalFolders:
    @pytest.fixture
    def folder(self, sound, tmp_path):
        made = tmp_path / "model"
        made.mkdir()
        for name, content in sound["shards"].items():
            (made / name).write_bytes(content)
        return made

    def test_a_sound_one(self, folder):
        assert load_pretrained(folder).num_classes == 5

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", "shard", "index"])
    def test_links_that_lead_out(self, name, folder, tmp_path):
        shard = next(path.name for path in sorted(folder.glob("model-*")))
        names = {"shard": shard, "index": "model.safetensors.index.json"}
        path = folder / names.get(name, name)
        outside = tmp_path / "outside"
        if path.exists():
            path.rename(outside)
        else:
            outside.write_bytes((folder / shard).read_bytes())
        path.symlink_to(outside)
        with pytest.raises(UnsafeWeights, match="leads out of its folder"):
            load_pretrained(folder)

    def test_links_within_the_folder_are_fine(self, folder):
        (folder / "config.json").rename(folder / "real.json")
        (folder / "config.json").symlink_to("real.json")
        assert load_pretrained(folder).num_classes == 5

    @pytest.mark.parametrize("kind", ["loop", "pipe", "folder", "dangling"])
    def test_what_is_no_file(self, kind, folder):
        (folder / "model.safetensors.index.json").unlink()
        path = folder / "model.safetensors"
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to(path if kind == "loop" else "nothing")
        with pytest.raises(WeightsNotFound):
            load_pretrained(folder)

    def test_overwriting_does_not_follow_links(self, folder, tmp_path):
        from nf_zoo.models.classifier import build_model

        outside = tmp_path / "outside.json"
        outside.write_text("mine")
        (folder / "config.json").unlink()
        (folder / "config.json").symlink_to(outside)
        save_pretrained(build_model("nf_resnet26", **TINY), folder, overwrite=True)
        assert outside.read_text() == "mine"
        assert not (folder / "config.json").is_symlink()


@pytest.mark.parametrize(
    "uri",
    [
        *("hf://../..", "hf://a/..", "hf://a/b@../../x", "hf://a/b@/etc", "hf://a/b@-x"),
        *("hf://a/b@x/../y", "hf://a/b@x y", "hf://a/b@x\0", "hf://a//b", "hf://a/b/c@x"),
    ],
)
def test_addresses_that_lead_out(uri, hub, tmp_path):
    with pytest.raises(WeightsError):
        load_pretrained(uri)
    assert not hub.requests
    assert not (tmp_path / "hub-cache").exists()
