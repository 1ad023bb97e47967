"""The formats that a network is exported to, one row each.

The rows define ``nf-zoo export`` with its choices and its help, the public ``export_*`` functions,
the checks before the work and of the written file, and the table in docs/deploy.md
(``python docs/make_formats_table.py``).
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nf_zoo.extras import require


@dataclasses.dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: name behind ``export_`` in the function; ``--format`` spells it with hyphens.
        title: name of the format in sentences.
        module: module that defines the function, and ``read_NAME`` for :meth:`read`; imported
            at its first use.
        checks: precision -> the share by which an answer may differ from the model's; None for
            precisions that round, which :func:`~nf_zoo.deploy.exporting.check_rounded` judges.
            The first one is the default.
        suffix: suffix of the file; empty for a folder.
        second: suffix of a second file beside it, which the runtime finds by its name; then the
            path must have ``suffix``.
        extra: extra of pip that installs ``packages``; empty for none.
        packages: modules beside TensorFlow that writing and checking need.
        runtime: module that runs a file, one of ``packages``; ``"tensorflow"`` for a folder.
        tensorflow: whether Keras must run on TensorFlow.
        options: keyword arguments of the function -> their flags on the command line, as
            ``ArgumentParser.add_argument`` takes them.
        runs_on: runtimes, in words.
        usage: text printed after an export to ``{path}``.
    """

    name: str
    title: str
    module: str
    checks: Mapping[str, float | None]
    suffix: str = ""
    second: str = ""
    extra: str = ""
    packages: tuple[str, ...] = ()
    runtime: str = "tensorflow"
    tensorflow: bool = True
    options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    runs_on: str = ""
    usage: str = ""

    @property
    def flag(self) -> str:
        """Value of ``--format``."""
        return self.name.replace("_", "-")

    @property
    def function(self) -> str:
        """Name of the public function."""
        return f"export_{self.name}"

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions to choose from; none if the model's own is kept."""
        return tuple(self.checks) if "precision" in self.options else ()

    def load(self):
        """Import the module and return the public function."""
        return getattr(importlib.import_module(self.module), self.function)

    def read(self, path: Path) -> tuple[Callable, Mapping[str, Any], Sequence]:
        """Open an exported file.

        Returns:
            a function that runs it, array -> list of arrays; its metadata, those of
            :func:`nf_zoo.deploy.exporting.metadata_of`; and the shape of its input.

        Raises:
            ImportError: if a package is missing.
            FileNotFoundError: if there is no such file.
            ValueError: if the runtime cannot read it, or it has no such metadata.
        """
        require(self.runtime, f"{self.title} files", extra=self.extra)
        if not path.is_file():
            raise FileNotFoundError(f"There is no such {self.title} file. Received: {path}")
        try:
            return getattr(importlib.import_module(self.module), f"read_{self.name}")(path)
        except Exception as error:
            raise ValueError(
                f"The {self.title} file must be one that nf-zoo exported. Received: {path}, which "
                f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            ) from error

    def target(self, path: str | os.PathLike, overwrite: bool) -> Path:
        """Return the path after checking that the export may be written there.

        Raises:
            FileExistsError: if it exists and may not be replaced, or is a folder instead of a file
                or the reverse.
            ValueError: if it must end in the format's suffix and does not.
        """
        path, kind = Path(path), "file" if self.suffix else "folder"
        if self.second and path.suffix != self.suffix:
            raise ValueError(
                f"The path must end in {self.suffix}: {self.title} looks for the weights in a file "
                f"of the same name that ends in {self.second}. Received: {path}"
            )
        for found in filter(Path.exists, [path, *self.second_of(path)]):
            if not overwrite:
                raise FileExistsError(
                    f"The {kind} exists already: choose another, or pass overwrite=True "
                    f"(--overwrite). Received: {found}"
                )
            if found.is_dir() == bool(self.suffix):
                raise FileExistsError(
                    f"The path must be free, or hold a {kind} to replace: choose another path. "
                    f"Received: {found}"
                )
        return path

    def second_of(self, path: Path) -> list[Path]:
        """Return the second file that belongs to ``path``, if the format has one."""
        return [path.with_suffix(self.second)] if self.second else []

    def check_flags(self, given: list[str]) -> None:
        """Check that the format has the given options of the command line."""
        refused = [name for name in given if name not in self.options]
        if refused:
            flags = ", ".join(map(flag_of, refused))
            others = [
                f"--format {row.flag} has "
                + " and ".join(row.precisions or map(flag_of, row.options))
                for row in FORMATS.values()
                if not set(refused).isdisjoint(row.options)
            ]
            raise ValueError(
                f"{self.title} does not take {flags}: leave {flags} out. "
                f"{'; '.join(others)}. Received: {flags} with --format {self.flag}"
            )

    def check_options(
        self, precision: str = "float32", pictures: Any = None, keep_float=(), **switches: bool
    ) -> str:
        """Return the precision after checking it and the options that go with it.

        ``switches`` are the options that only eight bits have.

        Raises:
            ValueError: if the format does not have the precision, or an option does not fit it.
        """
        if precision not in self.checks:
            raise ValueError(
                f"The precision of {self.title} files must be one of {', '.join(self.checks)}. "
                f"Received: {precision!r}"
            )
        if precision == "int8" and pictures is None:
            raise ValueError(
                "int8 needs pictures of the kind that the model will see, to measure the ranges of "
                "its activations: pass pictures=[...], a few hundred of them. Received: none"
            )
        given = {"pictures": pictures is not None, "keep_float": keep_float, **switches}
        given = [name for name, value in given.items() if value]
        if precision != "int8" and given:
            raise ValueError(
                f"These options need precision='int8': {', '.join(given)}. "
                f"Received: precision={precision!r}"
            )
        if switches.get("full_integer") and keep_float:
            raise ValueError(
                "A network in integers alone keeps no layer in float32: leave out keep_float, or "
                f"full_integer. Received: keep_float={keep_float!r} with full_integer=True"
            )
        return precision

    def require(self) -> None:
        """Import the needed packages, or raise an error that names what to install.

        Raises:
            ImportError: if a package is missing.
            RuntimeError: if Keras runs on another backend than the format needs.
        """
        if self.tensorflow:
            from nf_zoo.backend import require_tensorflow

            require_tensorflow(f"{self.title} export")
        for name in self.packages:
            require(name, f"{self.title} files", extra=self.extra)


def flag_of(name: str) -> str:
    """Return the flag of an option."""
    return f"--{name.replace('_', '-')}"


def _switch(help: str) -> dict[str, Any]:
    return {"action": "store_true", "help": help}


_EIGHT_BITS = {
    "precision": {"help": "(float32)"},
    "pictures": {
        "metavar": "FOLDER",
        "help": "for int8: pictures like those the model will see",
    },
    "keep_float": {
        "metavar": "N|NAMES",
        "help": "for int8: layers to leave in float32, or how many",
    },
}
ONLY_EIGHT_BITS = ("pictures", "keep_float", "symmetric", "full_integer")
"""Options that need ``precision="int8"``."""
_FILE = "To run it without nf_zoo: docs/deploy.md and examples/predict_{name}.py of its source"

FORMATS = {
    row.name: row
    for row in (
        Format(
            "saved_model",
            "SavedModel",
            "nf_zoo.deploy.saved_model",
            checks={"float32": 1e-5},
            options={
                "constants": _switch(
                    "for a SavedModel: weights as constants; faster on CPU, more memory"
                )
            },
            runs_on="TensorFlow",
            usage="Signatures: serving_default, serving_uint8, serving_bytes, features\n"
            'In Python:  tf.saved_model.load("{path}").predict(images)  # (N, H, W, 3)',
        ),
        Format(
            "onnx",
            "ONNX",
            "nf_zoo.deploy.onnx_file",
            checks={"float32": 1e-4, "int8": None},
            suffix=".onnx",
            extra="onnx",
            packages=("onnx", "onnxruntime"),
            runtime="onnxruntime",
            tensorflow=False,
            options={
                **_EIGHT_BITS,
                "opset": {"type": int, "help": "for ONNX: 13 to 20 (20)"},
                "symmetric": _switch("for ONNX in int8: no zero points, as TensorRT requires"),
            },
            runs_on="any ONNX runtime, opset 13 to 20",
            usage=_FILE,
        ),
        Format(
            "litert",
            "LiteRT",
            "nf_zoo.deploy.litert_file",
            checks={"float32": 1e-4, "float16": 2e-2, "int8": None},
            suffix=".tflite",
            extra="litert",
            packages=("ai_edge_litert.interpreter",),
            runtime="ai_edge_litert.interpreter",
            options={
                **_EIGHT_BITS,
                "full_integer": _switch("for LiteRT in int8: input and output in int8 too"),
            },
            runs_on="LiteRT",
            usage=_FILE,
        ),
        Format(
            "openvino",
            "OpenVINO",
            "nf_zoo.deploy.openvino_file",
            checks={"float32": 1e-4, "float16": 2e-2, "int8": None},
            suffix=".xml",
            second=".bin",
            extra="openvino",
            packages=("onnx", "openvino", "nncf"),
            runtime="openvino",
            tensorflow=False,
            options=_EIGHT_BITS,
            runs_on="OpenVINO",
            usage=_FILE,
        ),
    )
}
"""Name -> row. A new format is one module and one row here."""

SUFFIXES = {row.suffix: row for row in FORMATS.values() if row.suffix}
"""Suffix of an exported file -> row."""


def format_of(path: str | os.PathLike, flag: str | None = None) -> Format:
    """Return the format of the flag, else of the path's suffix, else SavedModel.

    Example:
        >>> format_of("pets.tflite").name, format_of("pets").name
        ('litert', 'saved_model')
    """
    suffix = Path(path).suffix
    if flag:
        return next(row for row in FORMATS.values() if row.flag == flag)
    return SUFFIXES.get(suffix, FORMATS["saved_model"])
