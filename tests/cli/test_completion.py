"""``nf-zoo completion``, asked by the shells themselves."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from nf_zoo.cli import main

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "nf-zoo.bash"
    command = [sys.executable, "-m", "nf_zoo.cli", "completion", "bash"]
    path.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    return path


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["do"], ["doctor"]),
        (["signal-propagation", "me"], ["measure"]),
        (["export", "m", "x", "--format", ""], ["saved-model", "onnx", "litert"]),
        (["predict", "nf_resnet26.t"], ["nf_resnet26.tiny_imagenet"]),
        (["predict", "run"], ["runs"]),
        (["predict", "runs", "pic"], ["picture.png"]),
        (["evaluate", "runs", "ru"], ["runs"]),
        (["info", "nf_resnet10"], ["nf_resnet101"]),
        (["predict", "m", "f", "--ba"], ["--batch-size"]),
    ],
    ids=" ".join,
)
def test_bash(words, wanted, script, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "picture.png").touch()
    quoted = " ".join(f"'{word}'" for word in ["nf-zoo", *words])
    asking = f"""
        source {script}
        COMP_WORDS=({quoted}); COMP_CWORD={len(words)}
        completing=$(complete -p nf-zoo | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        $completing nf-zoo '{words[-1]}' '' 2>/dev/null
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    run = subprocess.run(["bash", "-c", asking], capture_output=True, text=True, cwd=tmp_path)
    assert set(wanted) <= set(run.stdout.split()), run.stderr


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells(shell, capsys):
    assert main(["completion", shell]) == 0
    printed = capsys.readouterr().out
    assert "quickstart" in printed and "batch-size" in printed


def test_shtab_is_imported_for_this_command_only():
    code = "import sys, nf_zoo.cli as c; c.main(['list', 'tiny']); print('shtab' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False"
