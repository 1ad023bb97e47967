"""Loading of checkpoints: find, fetch, verify, check against the model, and only then assign.

Nothing is assigned before everything has been checked, so a failed load leaves the model unchanged,
bit for bit. Names, types and shapes are in a file's header; tensors are read one at a time, so a
load needs little more memory than the model it fills.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nf_zoo.hub.catalog import PretrainedWeights, label_names
from nf_zoo.hub.checkpoint import WeightsFile, open_weights
from nf_zoo.hub.description import ModelConfig, is_readable_config, read_config
from nf_zoo.hub.errors import CatalogError, WeightsMismatch, first_few
from nf_zoo.hub.foreign_names import (
    IGNORED_SUFFIXES,
    OWNERS,
    Assignment,
    check_variant,
    has_paper_form,
    plan,
    recognize_but_for_attention,
)
from nf_zoo.hub.sources import Source, resolve_pretrained
from nf_zoo.models.registry import architecture

logger = logging.getLogger("nf_zoo")
_HARMLESS = re.compile(r"drop_rate|stochastic_depth_.*|zero_init_.*|momentum|rematerialize")
_HEAD_KEY = re.compile(r"((fc|head|classifier)[./]|\w+/~/linear/)")
_HEAD_BIAS = re.compile(r"[./](bias|b)$")


def fill(model, source: Source) -> None:
    """Fill a model with the weights of a checkpoint.

    A classifier keeps its initial values if the checkpoint has another number of classes, or no
    classifier; that is logged once. A stem whose input channels are not three gets the RGB kernel
    summed (one channel) or repeated (any other number). float16 and bfloat16 checkpoints are cast
    to the dtype of the model's variables.
    """
    record = source.record
    if record is not None:
        _check_record(model, record)
    with open_weights(source.weights(), source.sha256) as file:
        assignments = plan_assignments(model, file, expect_head=bool(record and record.num_classes))
        for assignment in assignments:
            assignment.variable.assign(assignment.convert(file.read(assignment.key)))
    if model.num_classes and not any(a.name.startswith("head/") for a in assignments):
        logger.warning(
            "%s: the body is pretrained, the classifier for %d classes is new (%s has %s)",
            model.architecture,
            model.num_classes,
            file.path,
            classes_of(file) or "none",
        )


def build_options(name: str, source: Source | PretrainedWeights | os.PathLike) -> dict[str, Any]:
    """Return the ``build_model`` options that a checkpoint prescribes for its model.

    In a factory the user's own arguments take precedence over these. A record gives its
    preprocessing, labels and number of classes; a shipped checkpoint, a folder and a hub repository
    also give the contents of their config.json; a lone file gives its number of classes, if its
    head shows it.
    """
    source = resolve_pretrained(name, source)
    record, path = source.record, source.description()
    recorded = (
        {}
        if record is None
        else {
            "num_classes": record.num_classes,
            "preprocessing": record.preprocessing,
            "labels": label_names(record),
            "variant": record.variant,
        }
    )
    recorded = {field: value for field, value in recorded.items() if value is not None}
    if path is not None and (record is not None or is_readable_config(path)):
        config = read_config(path)
        if record is not None and config.architecture != record.architecture:
            raise CatalogError(f"{record.name}: {path} describes a {config.architecture}")
        if config.architecture != name:
            raise WeightsMismatch(
                f"{source} holds a {config.architecture}, not a {name}.",
                f"Use nf_zoo.create_model({config.architecture!r}, pretrained=...).",
            )
        return {**config.arguments(), **recorded}
    if record is not None:
        return recorded
    with open_weights(source.weights()) as file:
        classes = classes_of(file)
    return {} if classes is None else {"num_classes": classes}


def check_described(
    path: Path, source: Source, make: Callable[[], Any] | None = None
) -> ModelConfig:
    """Read a model's config.json and check it against its weights, before allocating anything.

    ``make`` builds the blueprint of a factory's network, which may have a new classifier.
    """
    config = read_config(path)
    with open_weights(source.weights()) as file:
        config.check_blocks(path, len(file.shapes))
        blueprint = make() if make else config.blueprint(path)
        assignments = plan_assignments(blueprint, file)
    has_head = any(a.name.startswith("head/") for a in assignments)
    if make is None and blueprint.num_classes and not has_head:
        raise WeightsMismatch(
            f"{path} promises a classifier for {blueprint.num_classes} classes, but {file.path} "
            f"has {classes_of(file) or 'none'}."
        )
    return config


def _check_record(model, record: PretrainedWeights) -> None:
    """Check that a record fits the model; warn of overrides that keep shapes but change outputs."""
    if record.architecture != model.architecture:
        raise WeightsMismatch(
            f"{record.name} are weights of {record.architecture}, not of {model.architecture}: "
            f"build that network, or use weights of {model.architecture}.",
            f"It is nf_zoo.create_model({record.name!r}, pretrained=True).",
        )
    if record.variant is not None and not has_paper_form(model):
        raise WeightsMismatch(
            f"{record.name} are weights of the {record.variant!r} variant of {model.architecture}, "
            f"not of this network.",
            f"Build it: nf_zoo.create_model({model.architecture!r}, variant={record.variant!r}, "
            "pretrained=True).",
        )
    trained = architecture(record.architecture).configure(record.variant)
    changed = model.config.changes_from(trained)
    changed = {name: value for name, value in changed.items() if not _HARMLESS.fullmatch(name)}
    if changed and record.format != "nf_zoo":
        logger.warning(
            "%s was trained in the published network; this one differs in %s, so expect its "
            "outputs to differ too",
            record.name,
            ", ".join(f"{name}={value!r}" for name, value in changed.items()),
        )


def plan_assignments(model, file: WeightsFile, expect_head: bool = False) -> list[Assignment]:
    """Plan which tensor of a file fills which variable; check all names and shapes, assign nothing.

    A classifier gets no assignment if the file has none (unless ``expect_head``), or one for
    another number of classes.
    """
    assignments = _plan(model, file)
    head = [a for a in assignments if a.name.startswith("head/")]
    if head and _head_is_new(head, file, expect_head):
        assignments = [a for a in assignments if not a.name.startswith("head/")]
        head = []
    assignments = _adapt_stem(model, file, assignments)
    _check(model, file, assignments, ignore_head=not head)
    return assignments


def classes_of(file: WeightsFile) -> int | None:
    """Return the number of classes of a checkpoint's classifier; None if none is found."""
    for key, shape in file.shapes.items():
        if _HEAD_KEY.match(key) and _HEAD_BIAS.search(key) and len(shape) == 1:
            return shape[0]
    return None


def _plan(model, file: WeightsFile) -> list[Assignment]:
    """Return the assignments for a file of any format, before any check of its tensors."""
    check_variant(model, file)
    if file.format is None:
        raise WeightsMismatch(
            f"{file.path} is a safetensors file, but its tensors have neither timm's nor nf_zoo's "
            f"names. Received: {first_few(list(file.shapes)) or 'no tensors'}"
        )
    try:
        return plan(model, file.format)
    except KeyError as error:
        raise WeightsMismatch(
            f"{file.path} holds {OWNERS[file.format]} names, but {model.architecture} as "
            f"configured here has a variable without such a name: {error.args[0]}"
        ) from error


def _head_is_new(head: list[Assignment], file: WeightsFile, expect_head: bool) -> bool:
    """Check that the classifier must stay as initialized: other classes, or none in the file."""
    present = [a for a in head if a.key in file.shapes]
    if not present:
        return not expect_head
    return all(differs_in(a, file) == [len(a.variable.shape) - 1] for a in present)


def _adapt_stem(model, file: WeightsFile, assignments: list[Assignment]) -> list[Assignment]:
    """Fit an RGB stem kernel to another number of input channels.

    Standardization removes a kernel's scale, so the stem's gain takes up the change of scale that
    comes with the change of channels.
    """
    kernel = next((a for a in assignments if _other_channels(a, file) == 3), None)
    if kernel is None:
        return assignments
    channels = model.input_shape[-1]
    rgb = kernel.convert(file.read(kernel.key))
    adapted = adapt_input_channels(rgb, channels)
    changes = {}
    gain = next((a for a in assignments if a.name == kernel.name.replace("/kernel", "/gain")), None)
    if gain is not None and gain.key in file.shapes and not differs_in(gain, file):
        adapted, factor = _scale_into_gain(rgb, adapted)
        changes[gain.name] = lambda array: gain.convert(array) * factor
    changes[kernel.name] = lambda _: adapted
    return [
        dataclasses.replace(step, convert=changes.get(step.name, step.convert))
        for step in assignments
    ]


def _other_channels(assignment: Assignment, file: WeightsFile) -> int | None:
    """Return the input channels of the file's first kernel if nothing else differs from ours."""
    if (
        re.fullmatch(r"stem/conv1?/kernel", assignment.name)
        and assignment.key in file.shapes
        and file.is_float(assignment.key)
        and differs_in(assignment, file) == [2]
    ):
        return _converted_shape(assignment, file)[2]
    return None


def adapt_input_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Convert an RGB kernel, (height, width, 3, out), to another number of input channels.

    One channel gets the sum, so that a gray picture gets the same output as in three equal
    channels. More get R, G, B, R, ... scaled by 3 / channels, which keeps the size of the output.
    """
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % 3] * np.asarray(3 / channels, kernel.dtype)


def _scale_into_gain(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``after`` with the spread of ``before``, and the gain's factor that makes up for it.

    Both are per output channel: standardization divides by the spread and the root of the fan-in.
    """
    spread, new_spread = before.std((0, 1, 2)), after.std((0, 1, 2))
    shrink = np.where(new_spread > 0, spread / np.where(new_spread > 0, new_spread, 1), 1)
    fan_in_ratio = after[..., 0].size / before[..., 0].size
    return after * shrink, np.sqrt(fan_in_ratio) / np.where(shrink > 0, shrink, 1)


def _check(model, file: WeightsFile, assignments: list[Assignment], ignore_head: bool) -> None:
    """Check that a file holds every tensor wanted, in the right shape, and no others."""
    known = {a.key for a in assignments}
    missing = [a.key for a in assignments if a.key not in file.shapes]
    unexpected = [
        key
        for key in file.shapes
        if key not in known
        and not key.endswith(IGNORED_SUFFIXES)
        and not (ignore_head and _HEAD_KEY.match(key))
    ]
    misshapen = [
        f"{a.key} {list(file.shapes[a.key])} of {file.tensors[a.key].dtype} for {a.name} "
        f"{list(a.variable.shape)}"
        for a in assignments
        if a.key in file.shapes and (differs_in(a, file) or not file.is_float(a.key))
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape or type": misshapen}
    found = [f"{len(keys)} {fault} ({first_few(keys)})" for fault, keys in faults.items() if keys]
    if not found:
        return
    remedy, *in_python = _remedy(model, file, assignments, missing)
    raise WeightsMismatch(
        f"{file.path} does not fit {model.architecture}. Tensors {'; '.join(found)}. {remedy}",
        *in_python,
    )


def _remedy(model, file: WeightsFile, assignments: list[Assignment], missing: list[str]):
    """Return a sentence, and perhaps one for Python."""
    other, fields = recognize_but_for_attention(file)
    differ = any(getattr(model.config, name, None) != value for name, value in fields.items())
    if other is not None and (other != model.architecture or differ):
        options = {"variant": "paper", **fields} if file.format == "haiku" else fields
        written = "".join(f"{name}={value!r}, " for name, value in options.items())
        return (
            f"The file looks like {other}{' with other attention' if fields else ''}: build that "
            f"network, or use weights of {model.architecture}.",
            f"It is nf_zoo.create_model({other!r}, {written}...).",
        )
    for channels in filter(None, (_other_channels(a, file) for a in assignments)):
        return (
            f"The file's network takes {channels} input channels and this one "
            f"{model.input_shape[-1]}.",
            f"Build it so: nf_zoo.create_model({model.architecture!r}, "
            f"input_shape=(None, None, {channels}), pretrained=...).",
        )
    if missing and all(key.endswith("_ema/average") for key in missing):
        return ("Only the moving averages are missing: save both trees, (params, state).",)
    return ("Check that the file belongs to this architecture and its options.",)


def _converted_shape(assignment: Assignment, file: WeightsFile) -> tuple[int, ...] | None:
    """Return a tensor's shape in our layout without reading it; None if it has no such shape."""
    try:
        return assignment.convert(np.broadcast_to(np.float32(0), file.shapes[assignment.key])).shape
    except (ValueError, IndexError):
        return None


def differs_in(assignment: Assignment, file: WeightsFile) -> list[int]:
    """Return the axes on which tensor and variable disagree; [-1] if the ranks differ."""
    wanted, found = tuple(assignment.variable.shape), _converted_shape(assignment, file)
    if found is None or len(found) != len(wanted):
        return [-1]
    return [axis for axis, (a, b) in enumerate(zip(wanted, found, strict=True)) if a != b]
