"""The parts that all exports share: the frame, the check of the file, names and metadata.

The module of a format has one function, which prepares the export. :func:`exporter` does the rest.
It checks target and options first. It writes the file beside its final place, runs it, compares it
with the model, and moves it into place if the answers agree.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

import nf_zoo
from nf_zoo import atomic, functional
from nf_zoo.deploy.formats import FORMATS
from nf_zoo.deploy.inference_graph import Names
from nf_zoo.deploy.lowering import input_shapes
from nf_zoo.options import Options, takes
from nf_zoo.pictures.predictions import class_names

LABELS_FILE, PREPROCESSING_FILE = "labels.txt", "preprocessing.json"
Arrays = list[np.ndarray]
LARGEST_CHANGE = 0.3
"""Largest change of the outputs in eight bits: its root mean square over that of the outputs."""
HALF = 5e-2
"""Tolerance for models in half precision."""


@dataclasses.dataclass(frozen=True)
class Export:
    """A model that is ready to be written."""

    # writes to a path, and returns a function that runs the written model: one array for each
    # input -> the outputs in order
    write: Callable[[Path], Callable[..., Arrays]]
    # (inputs, expected outputs) to run it on; None means those of :func:`trials`
    trials: list[tuple[Arrays, Arrays]] | None = None


def exporter(prepare: Callable[..., Export]) -> Callable[..., Path]:
    """Return the public function of a format, made from its function that prepares an export.

    The preparing function takes the options as one record, ``settings``. The public function has
    them as keyword arguments. Its attribute ``measured`` takes the record too, and returns the path
    and the largest deviation that the check found.
    """
    row = FORMATS[prepare.__name__.removeprefix("export_")]

    def measured(model, path: str | os.PathLike, overwrite: bool, settings: Options):
        allowed, found = row.tolerance(settings), []
        path = row.target(path, overwrite)
        row.require()
        made = prepare(model, path, overwrite, settings=settings)
        with atomic.replacing(path, *row.second_of(path)) as written:
            run = made.write(written)
            for inputs, expected in made.trials or trials(model):
                actual = run(*inputs)
                if allowed is None:
                    found.append(check_rounded(expected, actual))
                else:
                    found.append(check_answers(expected, actual, tolerance_for(model, allowed)))
        return path, max(found)

    @takes(row.options)
    @functools.wraps(prepare)
    def export(model, path: str | os.PathLike, overwrite: bool = False, *, settings) -> Path:
        return measured(model, path, overwrite, settings)[0]

    export.measured = measured
    return export


def check_answers(expected: Arrays, actual: Arrays, tolerance: float) -> float:
    """Check that the answers have the Keras model's shapes, and its values within a tolerance.

    The tolerance is a share of the largest expected value, or of 1 if that is larger; so is the
    largest difference, which is returned.
    """
    largest = 0.0
    for wanted, found in zip(expected, actual, strict=True):
        wanted, found = np.asarray(wanted, "float32"), np.asarray(found, "float32")
        gap = np.inf
        if wanted.shape == found.shape:
            gap = float(np.abs(found - wanted).max(initial=0.0))
        scale = max(1.0, float(np.abs(wanted).max(initial=0.0)))
        largest = max(largest, gap / scale)
        if not gap <= tolerance * scale:
            raise RuntimeError(
                "The exported model does not answer as the Keras model does, so nothing was "
                f"written. Received: a difference of {gap:.2g}"
            )
    return largest


def check_rounded(expected: Arrays, actual: Arrays) -> float:
    """Check that eight bits change the answers by no more than :data:`LARGEST_CHANGE`.

    The largest change is returned.
    """
    changes = []
    for wanted, found in zip(expected, actual, strict=True):
        changes.append(change := relative_change(found, wanted))
        if not change <= LARGEST_CHANGE:
            raise RuntimeError(
                "In eight bits the model does not answer as it does in float32, so nothing was "
                "written: pass more pictures of the kind it will see, or keep_float=, the number "
                f"of layers to leave in float32. Received: a change of {100 * change:.0f} % (rms)"
            )
    return max(changes)


def relative_change(changed: np.ndarray, exact: np.ndarray) -> float:
    """Return the root mean square of a change over that of the exact values."""
    return float(np.sqrt(np.mean((changed - exact) ** 2) / max(np.mean(exact**2), 1e-30)))


def trials(model) -> list[tuple[Arrays, Arrays]]:
    """Return inputs for a file, and the answers of a functional or Sequential model to them.

    The inputs are float32 noise in the range of the model's pictures: one picture of the model's
    size, and two pictures, of another size if the model takes it.
    """
    preprocessing = getattr(model, "preprocessing", None)
    size = preprocessing.input_size if preprocessing else (64, 64)
    # If maps of several strides are joined, every stride must divide the sides.
    plans = [[(1, *size), (1, 256, 256)], [(2, 37, 48), (2, 128, 64)]]
    found, tensors = [], functional.as_functional(model).inputs
    has_whole = any("int" in str(tensor.dtype) for tensor in tensors)
    for plan in plans:
        error = None
        # Whole numbers may be categories: try few if 100 are too many.
        for (count, *sides), below in itertools.product(plan, (100, 2) if has_whole else (100,)):
            inputs = noise(model, count, sides, below)
            try:
                found.append((inputs, flat_outputs(model, inputs)))
                break
            except Exception as caught:
                error = caught
        else:
            if not found:
                raise error
    return found


def noise(model, count: int, sides: Sequence[int], below: int = 100) -> Arrays:
    """Return noise in the range of a model's inputs: one array each, of ``count`` pictures.

    Whole numbers are less than ``below``.
    """
    rng, raw = np.random.default_rng(0), getattr(model, "include_preprocessing", False)
    arrays = []
    kinds = [str(tensor.dtype) for tensor in functional.as_functional(model).inputs]
    for wanted, kind in zip(input_shapes(model), kinds, strict=True):
        free = [count, *sides] if len(wanted) == 4 else [count]
        free += [8] * (len(wanted) - len(free))
        shape = [side or other for side, other in zip(wanted, free, strict=True)]
        if "int" in kind:
            arrays.append(rng.integers(0, below, shape).astype("float32"))
        elif raw:
            arrays.append(255 * rng.random(shape, "float32"))
        else:
            arrays.append(rng.standard_normal(shape, "float32"))
    return arrays


def flat_outputs(model, inputs: Any) -> Arrays:
    """Return a model's answers to one array or several, as a flat list of float32 arrays."""
    structure, _ = functional.structures_of(functional.as_functional(model))
    packed = keras.tree.pack_sequence_as(structure, keras.tree.flatten(inputs))
    answers = keras.tree.flatten(model(packed, training=False))
    return [np.asarray(keras.ops.convert_to_numpy(x), "float32") for x in answers]


def tolerance_for(model, exact: float) -> float:
    """Return ``exact``, or :data:`HALF` if any layer computes in half precision."""
    kinds = {layer.compute_dtype for layer in model._flatten_layers(include_self=False)}
    return HALF if kinds & {"float16", "bfloat16"} else exact


def metadata_of(model) -> dict[str, Any]:
    """Return the metadata of a model as JSON-able values.

    Every model has ``nf_zoo_version``. A network of the zoo also has ``architecture``, ``labels``
    (class names in the order of the outputs), ``preprocessing`` (the fields of
    :class:`nf_zoo.Preprocessing`), ``input`` (``"pixels"``, 0..255, or ``"normalized"``) and
    ``output`` (``"logits"``, ``"features"``, or the name of the classifier's activation).
    """
    record: dict[str, Any] = {"nf_zoo_version": nf_zoo.__version__}
    if getattr(model, "architecture", None) is None:
        return record
    output = (model.classifier_activation or "logits") if model.num_classes else "features"
    return {
        **record,
        "architecture": model.architecture,
        "labels": class_names(model) if model.num_classes else [],
        "preprocessing": model.preprocessing.to_dict(),
        "input": "pixels" if model.include_preprocessing else "normalized",
        "output": output,
    }


def labels_text(names: Iterable[str]) -> str:
    """Return the text of labels.txt: one class name per line, in the order of the outputs."""
    return "".join(f"{name}\n" for name in names)


def write_metadata(model, folder: Path) -> None:
    """Write labels.txt and preprocessing.json into a folder."""
    if model.num_classes:
        (folder / LABELS_FILE).write_text(labels_text(class_names(model)), encoding="utf-8")
    record = {"architecture": model.architecture, **model.preprocessing.to_dict()}
    atomic.write_text(folder / PREPROCESSING_FILE, json.dumps(record, indent=2) + "\n")


def input_names(model) -> list[str]:
    """Return the names of the inputs for TensorFlow; a character that it refuses becomes ``_``."""
    inputs, given = functional.as_functional(model).inputs, Names()
    names = [re.sub(r"[^\w./>-]", "_", functional.operation_of(x).name, flags=re.A) for x in inputs]
    return [given.unique(x if re.match(r"[A-Za-z0-9.]", x) else f"input{x}") for x in names]


def output_names(model) -> list[str]:
    """Return the names of the outputs in a file.

    These are ``["logits"]`` or the name of the classifier's activation; ``["features"]`` without a
    classifier; ``["features_0", "features_1", ...]`` for several maps; and the keys of a model
    that returns a dict.
    """
    structure = functional.structures_of(functional.as_functional(model))[1]
    if isinstance(structure, dict) and len(structure) == len(model.outputs):
        return [str(path[0]) for path, _ in keras.tree.flatten_with_path(structure)]
    if len(model.outputs) > 1:
        return [f"features_{index}" for index in range(len(model.outputs))]
    if not getattr(model, "num_classes", None):
        return ["features"]
    return [model.classifier_activation or "logits"]
