"""Checkpoints fetched ahead of time, and by eight processes at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from nf_zoo.hub.errors import CorruptWeights
from nf_zoo.hub.folder import save_pretrained
from nf_zoo.hub.pretrained import load_pretrained
from nf_zoo.hub.sources import fetch_pretrained

pytestmark = pytest.mark.fast

LABELS = ("ash", "bay", "elm", "fig", "oak")
ME = "hf://me/trees"


@pytest.fixture
def model(tiny):
    return tiny("nf_resnet50", labels=LABELS, depths=(1, 1), widths=(8, 16))


class TestFetching:
    @pytest.mark.parametrize("shards", [False, True])
    def test_a_repository(self, shards, hub, model, tmp_path, go_offline):
        options = {"max_shard_size": 2000} if shards else {}
        hub.add_folder("me/trees", save_pretrained(model, tmp_path / "one", **options))
        files = fetch_pretrained(ME)
        assert files[0].name == "config.json"
        assert len(files) > 3 if shards else len(files) == 2
        assert all(path.is_file() for path in files)
        go_offline()
        assert load_pretrained(ME).labels == LABELS

    def test_keras(self, hub, model, tmp_path, go_offline):
        model.save(tmp_path / "model.keras")
        hub.add("me/trees", "model.keras", (tmp_path / "model.keras").read_bytes())
        (path,) = fetch_pretrained(ME)
        assert path.name == "model.keras"
        go_offline()
        assert load_pretrained(ME).labels == LABELS

    def test_a_record(self, hub, tiny, timm_tensors, write):
        content = write(timm_tensors(tiny("nf_resnet50"))).read_bytes()
        hub.add("timm/nf_resnet50.ra2_in1k", "model.safetensors", content)
        for name in ("nf_resnet50", "nf_resnet50.ra2_in1k"):
            (path,) = fetch_pretrained(name)
            assert path.read_bytes() == content
        assert len(hub.downloads()) == 1
        (shipped,) = fetch_pretrained("nf_resnet14.cifar10")
        assert shipped.is_file()
        with pytest.raises(ValueError, match="Unknown architecture"):
            fetch_pretrained("nothing")

    def test_what_is_damaged_is_not_kept(self, hub, tmp_path):
        hub.add("me/trees", "model.safetensors", b"<html>")
        with pytest.raises(CorruptWeights):
            fetch_pretrained(ME)
        assert not list((tmp_path / "hub-cache").rglob("blobs/*"))


EIGHT = """
    import sys
    from nf_zoo.hub.sources import fetch_pretrained
    print("ready", flush=True)
    sys.stdin.readline()
    print(*[path.stat().st_size for path in fetch_pretrained("hf://me/trees")])
"""


@pytest.mark.slow
def test_eight_processes_share_one_download(hub_server, tmp_path, tiny):
    big = tiny("nf_resnet50", labels=LABELS, widths=(32, 64, 128, 256))
    folder = save_pretrained(big, tmp_path / "one")
    hub_server.add_folder("me/trees", folder)
    environment = {
        "PYTHONPATH": ":".join(sys.path),
        "NO_PROXY": "127.0.0.1",
        "HF_ENDPOINT": hub_server.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-c", textwrap.dedent(EIGHT)]
    processes = [
        subprocess.Popen(
            command,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(8)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=120) for process in processes]
    sizes = [(folder / name).stat().st_size for name in ("config.json", "model.safetensors")]
    for process, (out, err) in zip(processes, answers, strict=True):
        assert process.returncode == 0, err
        assert out.split() == [str(size) for size in sizes]
    assert len(hub_server.downloads("config.json")) == 1
    assert len(hub_server.downloads("model.safetensors")) == 1
    leftovers = [path for path in (tmp_path / "home").rglob("*") if "incomplete" in path.name]
    assert not leftovers
