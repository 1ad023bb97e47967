"""``nf-zoo doctor``: what a report of a bug should say about the machine."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from rich.text import Text

import nf_zoo
from nf_zoo.cli.output import console, import_backend, print_json
from nf_zoo.deploy.formats import FORMATS
from nf_zoo.extras import remedy

_LIBRARIES = ("keras", "tensorflow", "jax", "torch", "numpy", "pillow", "huggingface-hub")
_OPTIONAL = (
    *("onnx", "nncf", "matplotlib", "scikit-learn", "gradio"),
    *("pillow-heif", "tensorflow-datasets", "jax-privacy"),
)
_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
_STATES = {None: "on in nf-zoo's commands, in Python as TensorFlow decides", "0": "off", "1": "on"}
MISSING = "not installed"
SECONDS = 5
"""Time that the hub has to answer."""


def doctor_command(args: Namespace) -> int:
    """Print what is installed and found; say what cannot be determined, without failing."""
    onednn = os.environ.get(_ONEDNN)  # before import_backend sets it
    questions: dict[str, Callable[[], str]] = {
        "nf-zoo": lambda: f"{nf_zoo.__version__}, in {Path(nf_zoo.__file__).parent}",
        "Python": lambda: f"{platform.python_version()} ({platform.python_implementation()})",
        "System": lambda: f"{platform.platform()}, {os.cpu_count()} processors",
        **{name: lambda name=name: _version(name) for name in _LIBRARIES},
        "Backend": lambda: _backend(args.debug),
        "Devices": _devices,
        "oneDNN": lambda: f"{_STATES.get(onednn, repr(onednn))} ({_ONEDNN})",
        **{f"Runs {row.title}": lambda row=row: _runtime(row) for row in FORMATS.values()},
        **{name: lambda name=name: _version(name) for name in _OPTIONAL},
        "Cache": _cache,
        "Hub": _hub,
    }
    answers = {name: _answer(ask) for name, ask in questions.items()}
    if args.json:
        print_json(answers)
        return 0
    width = max(map(len, answers)) + 3
    for name, answer in answers.items():
        console().print(Text.assemble((f"{name:{width}}", "bold"), answer), soft_wrap=True)
    return 0


def _answer(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except Exception as error:
        return f"could not be determined: {type(error).__name__}: {' '.join(str(error).split())}"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return MISSING


def _runtime(row) -> str:
    package = row.runtime.partition(".")[0].replace("_", "-")
    found = _version(package)
    return f"{package} {found}" + (f": {remedy(row.runtime)}" if found == MISSING else "")


def _backend(debug: bool) -> str:
    import_backend(debug)
    import keras

    precision, floats = keras.config.dtype_policy().name, keras.config.floatx()
    return f"{keras.backend.backend()}; layers compute in {precision}, other arrays are {floats}"


def _devices() -> str:
    import keras

    if keras.backend.backend() != "tensorflow":
        return ", ".join(keras.distribution.list_devices())
    import tensorflow as tf

    names = []
    for device in tf.config.list_physical_devices():
        model = tf.config.experimental.get_device_details(device).get("device_name")
        names.append(f"{device.device_type} ({model})" if model else device.device_type)
    return ", ".join(names)


def _cache() -> str:
    from huggingface_hub import constants

    path = Path(constants.HF_HUB_CACHE)
    if not path.is_dir():
        return f"{path}, which does not exist yet"
    files = [entry for entry in path.rglob("*") if entry.is_file() and not entry.is_symlink()]
    size = sum(entry.stat().st_size for entry in files)
    writable = "" if os.access(path, os.W_OK) else ", not writable"
    return f"{path}, {size / 1e6:,.1f} MB{writable}"


def _hub() -> str:
    from huggingface_hub import constants, get_session, get_token

    if constants.HF_HUB_OFFLINE:
        return f"{constants.ENDPOINT}, not contacted: HF_HUB_OFFLINE is set"
    token = "with a token" if get_token() else "without a token"
    try:
        answer = get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:
        return f"{constants.ENDPOINT}, not reachable: {type(error).__name__}"
    return f"{constants.ENDPOINT}, reachable (status {answer.status_code}), {token}"
