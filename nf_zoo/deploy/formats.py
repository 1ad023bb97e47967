"""The formats that a network is exported to, one row each.

The rows define ``nf-zoo export`` with its choices and its help, the public ``export_*`` functions,
the checks before the work and of the written file, and the table in docs/deploy.md
(``python docs/make_formats_table.py``).
"""

from __future__ import annotations

import dataclasses
import importlib
import numbers
import operator
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nf_zoo import atomic
from nf_zoo.extras import require
from nf_zoo.options import Kind, Options, flag_of, flags_of, option, text

OLDEST_OPSET = 13
"""The first opset of ONNX in which weights have a scale per channel and axes may be inputs."""
NEWEST_OPSET = 20
"""The first one with Gelu; ONNX Runtime 1.17 reads it."""


def _layers(value: Any) -> int | tuple[str, ...]:
    """Return a number of layers, or their names; nothing at all for 0."""
    if isinstance(value, numbers.Integral):
        return operator.index(value) or ()
    return (value,) if isinstance(value, str) else tuple(value)


def _are_layers(value: Any) -> bool:
    layers = _layers(value)
    return layers >= 0 if isinstance(layers, int) else all(isinstance(x, str) for x in layers)


_LAYERS = Kind(
    "a number of layers, 0 or more, or names of layers",
    {"type": lambda word: int(word) if word.isdecimal() else word.split(","), "metavar": "N|NAMES"},
    _are_layers,
    _layers,
)


@dataclasses.dataclass(frozen=True)
class SavedModelOptions(Options):
    """Options of ``export_saved_model``."""

    fold: bool = option(
        True, "write the folded network, which computes the same, faster. See :func:`nf_zoo.fold`"
    )
    constants: bool = option(
        False,
        "weights as constants of the graph: faster for small batches on CPU, more memory. oneDNN "
        "lays them out once, not at every call; loading from Python takes 24 times the size of the "
        "weights (docs/deploy.md)",
    )


@dataclasses.dataclass(frozen=True)
class EightBitOptions(Options):
    """Options of formats that have eight bits; ``eight_bits=True`` marks those that need them."""

    precision: str = option(
        "float32",
        'precision of the file. ``"float16"``, not for ONNX: weights of half the size, computed in '
        'float32; ``"int8"``: weights and activations of convolutions and matrix products in 8 '
        "bits, weights with a scale per channel",
        Kind(flag={"choices": ["float32", "float16", "int8"]}),
    )
    pictures: Any = option(
        None,
        'for ``"int8"``, pictures like those the model will see. A few hundred are enough, in any '
        "form that :func:`nf_zoo.preprocess` takes: the ranges of the activations are measured on "
        "them",
        text("FOLDER"),
        eight_bits=True,
    )
    keep_float: int | Sequence[str] = option(
        (),
        'for ``"int8"``, layers to leave in float32, or how many. A number n leaves the n worst of '
        ":func:`nf_zoo.quantization_report` on the pictures",
        _LAYERS,
        eight_bits=True,
    )

    def __post_init__(self):
        super().__post_init__()
        given = [
            field.name
            for field in dataclasses.fields(self)
            if field.metadata.get("eight_bits") and getattr(self, field.name) is not field.default
        ]
        if self.precision == "int8" and self.pictures is None:
            raise ValueError(
                "int8 needs pictures of the kind that the model will see, to measure the ranges of "
                "its activations: pass pictures=[...] (--pictures FOLDER), a few hundred of them. "
                "Received: none"
            )
        if self.precision != "int8" and given:
            raise ValueError(
                f"These options need precision='int8': {', '.join(given)}. "
                f"Received: precision={self.precision!r}"
            )


@dataclasses.dataclass(frozen=True)
class OnnxOptions(EightBitOptions):
    """Options of ``export_onnx``."""

    symmetric: bool = option(
        False,
        'for ``"int8"``, no zero points, as TensorRT requires. Activations are signed, biases '
        "float32; slower in ONNX Runtime on x86",
        eight_bits=True,
    )
    opset: int = option(
        NEWEST_OPSET,
        f"version of ONNX's operations, {OLDEST_OPSET} to {NEWEST_OPSET}, for runtimes that read "
        "no newer one",
        Kind(
            f"{OLDEST_OPSET} to {NEWEST_OPSET}",
            {"type": int, "metavar": "N"},
            lambda value: OLDEST_OPSET <= value <= NEWEST_OPSET,
            operator.index,
        ),
    )


@dataclasses.dataclass(frozen=True)
class LiteRTOptions(EightBitOptions):
    """Options of ``export_litert``."""

    full_integer: bool = option(
        False,
        'for ``"int8"``, input and output in int8 too. They have a scale and zero point in the '
        "file; microcontrollers and some accelerators require it",
        eight_bits=True,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.full_integer and self.keep_float:
            raise ValueError(
                "A network in integers alone keeps no layer in float32: leave out keep_float, or "
                f"full_integer. Received: keep_float={self.keep_float!r} with full_integer=True"
            )


@dataclasses.dataclass(frozen=True)
class Format:
    """One format."""

    name: str  # what follows ``export_`` in the function; ``--format`` spells it with hyphens
    title: str  # name of the format in sentences
    module: str  # defines the function, and ``read_NAME`` for :meth:`read`; imported at first use
    # precision -> the share by which an answer may differ from the model's; None for precisions
    # that round, which ``exporting.check_rounded`` judges. The first one is the default
    checks: Mapping[str, float | None]
    suffix: str = ""  # suffix of the file; empty for a folder
    # suffix of a second file, found by its name; then the path must have ``suffix``
    second: str = ""
    extra: str = ""  # extra of pip that installs ``packages``; empty for none
    packages: tuple[str, ...] = ()  # modules beside TensorFlow that writing and checking need
    runtime: str = "tensorflow"  # module that runs a file, one of ``packages``
    tensorflow: bool = True  # whether Keras must run on TensorFlow
    options: type[Options] = Options  # the function's keyword arguments, which are flags too
    runs_on: str = ""  # runtimes, in words
    usage: str = ""  # text printed after an export to ``{path}``

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
        return tuple(self.checks) if "precision" in self.flags else ()

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the options that are flags on the command line."""
        return flags_of(self.options)

    def load(self):
        """Import the module and return the public function."""
        return getattr(importlib.import_module(self.module), self.function)

    def read(self, path: Path) -> tuple[Callable, Mapping[str, Any], Sequence]:
        """Open an exported file.

        Return a function that runs it, array -> list of arrays; its metadata, those of
        :func:`nf_zoo.deploy.exporting.metadata_of`; and the shape of its input.
        """
        require(self.runtime, f"{self.title} files", extra=self.extra)
        if not path.is_file():
            raise FileNotFoundError(f"There is no such {self.title} file. Received: {path}")
        try:
            return getattr(importlib.import_module(self.module), f"read_{self.name}")(path)
        except Exception as error:
            cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ValueError(
                f"The {self.title} file must be an exported network of nf_zoo, with its labels and "
                f"preprocessing. Received: {path}, which cannot be read ({cause})"
            ) from error

    def target(self, path: str | os.PathLike, overwrite: bool) -> Path:
        """Return the path after checking that the export may be written there."""
        path, kind = Path(path).expanduser(), "file" if self.suffix else "folder"
        if (other := SUFFIXES.get(path.suffix.lower(), self)) is not self:
            raise ValueError(
                f"{path.suffix} is the ending of {other.title} files: choose another path for a "
                f"{self.title}. Received: {path}"
            )
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
        inside = {one.name for one in path.iterdir()} if path.is_dir() else set()
        if inside - _SAVED_MODEL or (inside and "saved_model.pb" not in inside):
            others = ", ".join(sorted(inside - _SAVED_MODEL or inside)[:5])
            raise FileExistsError(
                "The folder holds more than a SavedModel, and all of it would be lost: choose "
                f"another path. Received: {path} with {others}"
            )
        atomic.check_movable(path)
        return path

    def second_of(self, path: Path) -> list[Path]:
        """Return the second file that belongs to ``path``, if the format has one."""
        return [path.with_suffix(self.second)] if self.second else []

    def check_flags(self, given: list[str]) -> None:
        """Check that the format has the given options of the command line."""
        refused = [name for name in given if name not in self.flags]
        if refused:
            flags = ", ".join(map(flag_of, refused))
            others = [
                f"--format {row.flag} has "
                + " and ".join(row.precisions or map(flag_of, row.flags))
                for row in FORMATS.values()
                if not set(refused).isdisjoint(row.flags)
            ]
            raise ValueError(
                f"{self.title} does not take {flags}: leave {flags} out. "
                f"{'; '.join(others)}. Received: {flags} with --format {self.flag}"
            )

    def tolerance(self, settings: Options) -> float | None:
        """Return the entry of ``checks`` for the options of an export, after a check."""
        precision = getattr(settings, "precision", "float32")
        if precision not in self.checks:
            raise ValueError(
                f"The precision of {self.title} files must be one of {', '.join(self.checks)}. "
                f"Received: {precision!r}"
            )
        return self.checks[precision]

    def require(self) -> None:
        """Import the needed packages, or raise an error that names what to install."""
        if self.tensorflow:
            from nf_zoo.backend import require_tensorflow

            require_tensorflow(f"{self.title} export")
        for name in self.packages:
            require(name, f"{self.title} files", extra=self.extra)


_SAVED_MODEL = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}
_FILE = "To run it without nf_zoo: docs/deploy.md and examples/predict_{name}.py in its repository"

FORMATS = {
    row.name: row
    for row in (
        Format(
            "saved_model",
            "SavedModel",
            "nf_zoo.deploy.saved_model",
            checks={"float32": 1e-5},
            options=SavedModelOptions,
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
            options=OnnxOptions,
            runs_on=f"any ONNX runtime, opset {OLDEST_OPSET} to {NEWEST_OPSET}",
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
            options=LiteRTOptions,
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
            options=EightBitOptions,
            runs_on="OpenVINO",
            usage=_FILE,
        ),
    )
}
"""Name -> row. A new format is one module and, here, one row with its options."""

SUFFIXES = {row.suffix: row for row in FORMATS.values() if row.suffix}
"""Suffix of an exported file -> row."""


def format_of(path: str | os.PathLike, flag: str | None = None) -> Format:
    """Return the format of the flag, else of the path's suffix, else SavedModel.

    Another suffix is refused, but a version, as in ``pets.v2`` or ``pets-1.2``, is none.
    """
    suffix = Path(path).suffix.lower()
    if flag:
        return next(row for row in FORMATS.values() if row.flag == flag)
    if suffix not in SUFFIXES and re.fullmatch(r"\.(?!v\d)[A-Za-z]\w*", suffix):
        raise ValueError(
            f"The path of a file must end in {', '.join(SUFFIXES)}. For a SavedModel, which is a "
            f"folder, leave the ending out, or pass --format saved-model. Received: {path}"
        )
    return SUFFIXES.get(suffix, FORMATS["saved_model"])
