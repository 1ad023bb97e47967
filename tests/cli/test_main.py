from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
from programs import succeed

import nf_zoo
from nf_zoo import cli
from nf_zoo.cli import catalog, output

pytestmark = pytest.mark.fast


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"nf-zoo {nf_zoo.__version__}\n"


def test_alone_it_prints_help(capsys):
    assert cli.main([]) == 0
    printed = capsys.readouterr().out
    for command in ("list", "info", "predict", "evaluate", "finetune", "export", "quickstart"):
        assert f"\n    {command}" in printed


def test_an_error_is_one_line_and_exit_code_2(capsys):
    assert cli.main(["info", "nf_resnet51"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("nf-zoo: Unknown architecture. Did you mean nf_resnet50")


@pytest.mark.parametrize("arguments", [["--debug", "info", "x"], ["info", "x", "--debug"]])
def test_debug_shows_the_traceback(arguments):
    with pytest.raises(ValueError, match="Unknown architecture"):
        cli.main(arguments)


def test_a_bug_is_not_dressed_up(monkeypatch):
    monkeypatch.setattr(catalog, "list_command", lambda args: {}["missing"])
    with pytest.raises(KeyError):
        cli.main(["list"])


def test_interrupted(monkeypatch, capsys):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(catalog, "list_command", interrupt)
    assert cli.main(["list"]) == 130
    assert capsys.readouterr().err == "nf-zoo: interrupted\n"


ENDED_FROM_OUTSIDE = """
import os, signal, sys, time
from nf_zoo import atomic, cli
from nf_zoo.cli import catalog

def write(args):
    with atomic.replacing(sys.argv[1]) as written:
        written.write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

catalog.list_command = write
before = signal.getsignal(signal.SIGTERM)
assert cli.main(["list"]) == 130 and signal.getsignal(signal.SIGTERM) is before
"""


def test_sigterm_leaves_nothing_half_written(tmp_path):
    done = succeed(ENDED_FROM_OUTSIDE, tmp_path / "file.txt")
    assert done.stderr == "nf-zoo: interrupted\n" and not list(tmp_path.iterdir())


def test_a_reader_that_leaves_is_no_error():
    script = "import sys; from nf_zoo.cli import main; sys.exit(main(['list', '--pretrained']))"
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run([sys.executable, "-c", script], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (run.returncode, run.stderr) == (1, b"")


def test_errors_speak_of_options():
    options = {"overwrite": False, "validation_data": None}
    messages = {
        "Pass overwrite=True.": "Pass --overwrite.",
        "Pass overwrite=True (--overwrite).": "Pass --overwrite.",
        "Pass resume=True.": "Pass resume=True.",
    }
    for message, expected in messages.items():
        assert cli._in_terms_of_options(message, options) == expected


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("quickstart --output nowhere --pictures 0", "--pictures must be a positive integer"),
        ("finetune x --output y --accumulate foo", "expected a number or auto, not 'foo'"),
    ],
)
def test_errors_name_the_flags_there_are(words, told, capsys):
    try:
        assert cli.main(words.split()) == 2
    except SystemExit as end:
        assert end.code == 2
    assert told in capsys.readouterr().err


def test_own_warnings_are_one_line_and_others_are_dropped(capsys):
    with output.plain_warnings():
        warnings.warn_explicit("a [broken] file", UserWarning, output.__file__, 1)
        warnings.warn_explicit("not yours to know", UserWarning, "/elsewhere/module.py", 1)
    assert capsys.readouterr().err == "warning: a [broken] file\n"


def test_text_is_taken_literally(capsys):
    output.console().print("[bold]x[/bold] :smile:")
    assert capsys.readouterr().out == "[bold]x[/bold] :smile:\n"


@pytest.mark.parametrize("command", ["export m x", "export m x.tflite"])
def test_commands_that_need_tensorflow_say_so(command, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    monkeypatch.chdir(tmp_path)
    assert cli.main(command.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "works with TensorFlow only" in line and "set KERAS_BACKEND=tensorflow" in line
    assert "Received: backend 'jax'" in line
    assert list(tmp_path.iterdir()) == []
