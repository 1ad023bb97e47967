"""Files and folders appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import subprocess
import sys

import pytest

from nf_zoo import atomic

pytestmark = pytest.mark.fast


@pytest.fixture(params=["file", "folder"])
def kind(request, tmp_path):
    """How to write one of that kind, and to read it."""

    def write(path, text):
        if request.param == "folder":
            path.mkdir()
            path = path / "inside"
        path.write_text(text)

    def read(path):
        return (path / "inside" if path.is_dir() else path).read_text()

    return write, read


def test_it_takes_the_place_of_an_earlier_one(kind, tmp_path):
    write, read = kind
    path = tmp_path / "deep" / "thing.txt"
    for text in ("one", "two"):
        with atomic.replacing(path) as written:
            assert written.name == path.name and written.parent != path.parent
            write(written, text)
            assert text == "one" or read(path) == "one"
        assert read(path) == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_inside_leaves_what_was_there(error, kind, tmp_path):
    write, read = kind
    write(tmp_path / "thing", "old")
    with pytest.raises(error), atomic.replacing(tmp_path / "thing") as written:
        write(written, "new")
        raise error
    assert read(tmp_path / "thing") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]
    with pytest.raises(error), atomic.replacing(tmp_path / "two" / "new" / "thing"):
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_failure_of_the_move_leaves_what_was_there(kind, tmp_path, monkeypatch):
    write, read = kind
    path = tmp_path / "thing"
    write(path, "old")
    replace = os.replace

    def fail(source, target):
        if target == path and "former" not in source.name:
            raise OSError("no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"), atomic.replacing(path) as written:
        write(written, "new")
    assert read(path) == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


@pytest.mark.parametrize("fails", [None, "thing.xml", "thing.bin"])
def test_two_files_of_one_writing_stay_together(fails, tmp_path, monkeypatch):
    path, second = tmp_path / "thing.xml", tmp_path / "thing.bin"
    path.write_text("old")
    second.write_text("old")
    replace = os.replace

    def watched(source, target):
        if target.name == fails and "former" not in source.name:
            raise OSError("no")
        replace(source, target)
        if path.exists() and second.exists():
            assert path.read_text() == second.read_text()

    monkeypatch.setattr(os, "replace", watched)
    error = pytest.raises(OSError, match="no") if fails else contextlib.nullcontext()
    with error, atomic.replacing(path, second) as written:
        written.write_text("new")
        written.with_suffix(".bin").write_text("new")
    assert {path.read_text(), second.read_text()} == {"old" if fails else "new"}
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_written_is_an_error(tmp_path):
    (tmp_path / "thing").mkdir()
    with pytest.raises(FileNotFoundError), atomic.replacing(tmp_path / "thing"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full", "x"),
        OSError(errno.EFBIG, "too large"),
        RuntimeError("ResourceExhausted: out/variables; No space left on device"),
    ],
)
def test_a_full_disk_is_explained_in_one_line(error):
    assert atomic.is_full(error)
    with pytest.raises(OSError) as raised, atomic.explaining_full("Free some."):
        raise error
    assert str(raised.value) == "No space is left on the disk. Free some."
    assert raised.value.errno == errno.ENOSPC


def test_other_errors_are_not_explained_away():
    assert not atomic.is_full(OSError(errno.EACCES, "denied"))
    with pytest.raises(PermissionError), atomic.explaining_full("Free some."):
        raise PermissionError(errno.EACCES, "denied")


def test_names_that_are_not_utf_8_come_back(tmp_path):
    value = {"caf\udce9.png": "größer"}
    atomic.write_text(tmp_path / "x.json", json.dumps(value, ensure_ascii=False))
    assert json.loads((tmp_path / "x.json").read_bytes()) == value


def test_text(tmp_path):
    atomic.write_text(tmp_path / "thing.txt", "größer")
    assert (tmp_path / "thing.txt").read_bytes() == "größer".encode()


def test_a_link_stays_one(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    atomic.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"


def test_the_longest_name(tmp_path):
    path = tmp_path / ("n" * 255)
    for text in ("one", "two"):
        atomic.write_text(path, text)
        assert path.read_text() == text


def test_a_file_never_takes_the_place_of_a_folder(tmp_path, monkeypatch):
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(IsADirectoryError, match=r"a folder, not a file.*results"):
        atomic.write_rows(folder, ["a"], [])
    with (
        pytest.raises(IsADirectoryError),
        atomic.replacing(folder, tmp_path / "labels.txt") as written,
    ):
        written.write_text("")
        written.with_name("labels.txt").write_text("")
    assert (folder / "mine.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["results"]

    monkeypatch.setenv("HOME", str(tmp_path))
    assert atomic.write_rows("~/rows.csv", ["a"], []) == tmp_path / "rows.csv"
    assert (tmp_path / "rows.csv").is_file()


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder until it is killed."""
    program = (
        "import sys, time; from nf_zoo import atomic\n"
        "with atomic.alone_in(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_is_held_as_long_as_the_process_lives(holder, tmp_path):
    with pytest.raises(BlockingIOError, match="Another run is writing"), atomic.alone_in(tmp_path):
        pass
    holder.kill()
    holder.wait()
    for _ in range(2):
        with atomic.alone_in(tmp_path):
            pass


def test_a_file_system_without_locks_holds_nothing(monkeypatch, tmp_path):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with atomic.alone_in(tmp_path), atomic.alone_in(tmp_path):
        pass


@pytest.mark.parametrize("path", [".", "..", "../here", "../../tests"])
def test_the_working_folder_is_not_replaced(path, tmp_path, monkeypatch):
    here = tmp_path / "tests" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    with (
        pytest.raises(OSError, match="working folder is in it: choose a folder inside it"),
        atomic.replacing(path),
    ):
        pass
    assert os.getcwd() == str(here) and not list(here.iterdir())
    with atomic.replacing("inside") as written:
        written.mkdir()
    assert (here / "inside").is_dir()


def test_a_mount_point_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    with pytest.raises(OSError, match="a mount point"), atomic.replacing(tmp_path):
        pass


def test_an_interruption_between_two_moves_puts_the_folder_back(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").write_text("old")
    moves, replace = [], os.replace

    def interrupted(*paths):
        moves.append(paths)
        if len(moves) == 2:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic.replacing(tmp_path / "folder") as written:
        written.mkdir()
    assert (tmp_path / "folder" / "old").read_text() == "old"
