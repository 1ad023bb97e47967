from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[1]


def run(script: str, **environment) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    )
    return done.stdout.splitlines()[-1]


def test_import_is_lazy():
    script = "import sys, json, nf_zoo; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(run(script))
    assert not {"keras", "tensorflow", "numpy", "PIL", "huggingface_hub"} & set(loaded)


def test_listing_models_needs_no_keras():
    script = (
        "import sys, nf_zoo; names = nf_zoo.list_models(pretrained=True); "
        "print(len(names) > 30, 'keras' in sys.modules)"
    )
    assert run(script) == "True False"


def test_every_public_name_exists():
    import nf_zoo

    for name in nf_zoo._HOMES:
        assert callable(getattr(nf_zoo, name)), name
    assert not set(nf_zoo._HOMES) - set(dir(nf_zoo))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nf_zoo.nothing


NOISY = """
import os, sys
os.write(2, b"cuda\\n")
print("more", file=sys.stderr)
class saving:
    get_custom_objects = staticmethod(dict)
"""


@pytest.fixture
def import_noisily(tmp_path):
    """Import nf_zoo, then a Keras that writes on stderr; return what appears there."""

    def run(keras: str, **environment) -> str:
        (tmp_path / "keras.py").write_text(keras)
        places = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)])]
        settings = {name: x for name, x in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
        settings |= {"PYTHONPATH": os.pathsep.join(places), **environment}
        script = "import nf_zoo, keras, sys; print('after', file=sys.stderr)"
        command = [sys.executable, "-c", script]
        return subprocess.run(command, capture_output=True, text=True, env=settings).stderr

    return run


@pytest.mark.parametrize("level", [None, "1", "3"])
def test_the_import_of_keras_is_silent(level, import_noisily):
    environment = {} if level is None else {"TF_CPP_MIN_LOG_LEVEL": level}
    assert import_noisily(NOISY, **environment) == "after\n"


def test_at_level_0_everything_is_shown(import_noisily):
    printed = import_noisily(NOISY, TF_CPP_MIN_LOG_LEVEL="0")
    assert printed.splitlines() == ["cuda", "more", "after"]


def test_an_import_that_fails_shows_what_was_held_back(import_noisily):
    lines = import_noisily(f"{NOISY}\nraise ImportError('no luck')").splitlines()
    assert lines[:2] == ["cuda", "more"] and lines[-1] == "ImportError: no luck"


@pytest.mark.slow
@pytest.mark.parametrize("command", [False, True])
def test_nothing_is_printed_from_python_or_the_command(command):
    script = "import nf_zoo\n"
    script += "from nf_zoo.cli.output import import_backend; import_backend()\n" * command
    script += "nf_zoo.NFResNet50(); import keras; keras.ops.ones(1) + 1; print('done')"
    settings = {name: x for name, x in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=settings
    )
    assert (run.stdout, run.stderr) == ("done\n", "")


@pytest.mark.slow
def test_a_level_that_is_set_stays():
    script = "import os, nf_zoo, keras; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    assert run(script, TF_CPP_MIN_LOG_LEVEL="1") == "1"
