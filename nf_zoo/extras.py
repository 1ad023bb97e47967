"""Packages that only some features need, and the extra of pip that brings each."""

from __future__ import annotations

import importlib
from types import ModuleType

EXTRAS = {
    "ai_edge_litert": "litert",
    "dp_accounting": "privacy",
    "gradio": "demo",
    "jax": "jax",
    "jax_privacy": "privacy",
    "ml_collections": "training",
    "nncf": "openvino",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "pillow_heif": "heic",
    "tensorboard": "training",
    "tensorflow_datasets": "training",
}
"""Package -> extra."""


def remedy(module: str, extra: str | None = None) -> str:
    """Return the command that installs a module's package: ``pip install 'nf-zoo[heic]'``."""
    package = module.partition(".")[0]
    if extra or package in EXTRAS:
        return f"pip install 'nf-zoo[{extra or EXTRAS[package]}]'"
    return f"pip install {package.replace('_', '-')}"


def require(
    module: str, what: str, error: type[Exception] = ImportError, extra: str | None = None
) -> ModuleType:
    """Return a module of an optional package, or raise an error that says what to install.

    ``what`` needs it, the subject of the message in the plural. ``extra`` is the extra to name, if
    several have the package.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        package = module.partition(".")[0]
        if str(missing.name).partition(".")[0] != package:
            raise
        raise error(
            f"{what} need {package}, which is not installed: {remedy(module, extra)}"
        ) from missing
