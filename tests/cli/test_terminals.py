"""Output to terminals that lack characters, to a closed stdout, and to none at all."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from nf_zoo import backend
from nf_zoo.cli import main, output

LATIN = ["cp1252", "latin-1", "ascii"]


@pytest.fixture
def printed(monkeypatch):
    """Carry out a command on a terminal of some encoding; returns its exit code and the text."""

    def run(encoding, *arguments):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2)]
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        code = main([str(argument) for argument in arguments])
        for stream in streams:
            stream.flush()
        return code, *(stream.buffer.getvalue().decode(encoding) for stream in streams)

    return run


@pytest.fixture(scope="module")
def foreign(build_tiny, tmp_path_factory):
    """A network whose classes have names that few encodings have."""
    path = tmp_path_factory.mktemp("foreign") / "model.keras"
    build_tiny(labels=("猫", "café", "dog")).save(path)
    return path


@pytest.mark.parametrize("encoding", [*LATIN, "utf-8"])
def test_no_encoding_loses_predictions(encoding, foreign, pictures, printed):
    code, out, err = printed(encoding, "predict", foreign, pictures / "red", "--top", 3)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 13
    bar, cat = ("━━", "猫") if encoding == "utf-8" else ("--", r"\u732b")
    assert bar in out and cat in out and "100.0 %" not in out


@pytest.mark.parametrize("encoding", [*LATIN, "utf-8"])
def test_json_is_json_in_every_encoding(encoding, foreign, pictures, printed):
    code, out, _ = printed(encoding, "predict", foreign, pictures / "red", "--json")
    assert code == 0
    names = {p["name"] for row in json.loads(out) for p in row["predictions"]}
    assert names == {"猫", "café", "dog"}


@pytest.mark.fast
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_file_name_of_any_bytes_can_be_printed(encoding, printed):
    name = os.fsdecode(b"caf\xe9-\xe7\x8c\xab.png")
    code, out, err = printed(encoding, "predict", "no-model", name)
    assert (code, out) == (1, "")
    assert r"caf\udce9" in err and err.count("\n") == 1


@pytest.mark.fast
def test_no_place_for_what_is_held_back(monkeypatch):
    def none(*_):
        raise FileNotFoundError("No usable temporary directory")

    monkeypatch.setattr("tempfile.TemporaryFile", none)
    monkeypatch.setenv(backend.LOG_LEVEL, "3")
    with backend.quiet():
        entered = True
    assert entered


@pytest.mark.fast
def test_a_terminal_that_is_none(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["list", "nf_resnet26"]) == 0
    assert main(["info", "nf_resnet51"]) == 2


@pytest.mark.fast
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams(closed):
    command = f"{sys.executable} -m nf_zoo.cli list nf_resnet26 {closed}"
    run = subprocess.run(["sh", "-c", command], capture_output=True)
    assert (run.returncode, run.stderr) == (0, b"")


@pytest.mark.fast
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_output_to_a_full_disk_is_one_line_and_exit_code_2():
    command = f"{sys.executable} -m nf_zoo.cli list --pretrained > /dev/full"
    run = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr == "nf-zoo: No space is left on the disk.\n"


@pytest.mark.fast
def test_characters_that_an_encoding_lacks_are_replaced():
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", errors="nf_zoo")
    output.accept_every_character()
    stream.write("━━ é … 猫\n")
    stream.flush()
    assert stream.buffer.getvalue() == rb"-- \xe9 ... \u732b" + b"\n"
