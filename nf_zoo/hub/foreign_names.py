"""Checkpoints by the names in them: which network's they are, and what fills which variable.

The names stand in the families' own files; see :class:`nf_zoo.models.family.Part`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nf_zoo.hub.checkpoint import WeightsFile
from nf_zoo.hub.errors import WeightsMismatch
from nf_zoo.models.configuration import Config
from nf_zoo.models.registry import Architecture, architecture, architectures, is_architecture

OWNERS = {"timm": "timm's", "haiku": "DeepMind's"}

IGNORED_SUFFIXES = ("num_batches_tracked", "_ema/hidden", "_ema/counter")
"""Of entries that evaluation does not read: counters, and what the averages are made from."""


@dataclasses.dataclass(frozen=True)
class Assignment:
    """One tensor of a checkpoint and where it goes.

    Attributes:
        name: our published name, ``"stage1/block2/conv1/kernel"``.
        variable: the Keras variable.
        key: the tensor's name in the source.
        convert: source array -> array in our layout, of the variable's shape.
    """

    name: str
    variable: Any
    key: str
    convert: Callable[[np.ndarray], np.ndarray]


def plan(model, source: str) -> list[Assignment]:
    """Return how a checkpoint of ``model``'s architecture fills it.

    Args:
        model: an ImageClassifier.
        source: ``"timm"``; ``"haiku"`` for a tree of DeepMind's, whose keys are
            ``module_path/parameter``, and moving averages the ``average`` of the state; or
            ``"nf_zoo"``.

    Returns:
        One :class:`Assignment` per variable, in model order.

    Raises:
        KeyError: if the source has no name for a variable.
    """
    from nf_zoo.models.classifier import variable_names

    ours = variable_names(model)
    if source == "nf_zoo":
        return [Assignment(name, variable, name, np.asarray) for name, variable in ours.items()]
    family = architecture(model.architecture).record
    keys = {name: key for name, key, _ in family.names(model.config, source) if key}
    return [
        Assignment(name, variable, keys[name], _layout(source, name, len(variable.shape)))
        for name, variable in ours.items()
    ]


def _layout(source: str, name: str, rank: int) -> Callable[[np.ndarray], np.ndarray]:
    """Theirs -> ours: (..., in, out) for kernels, vectors for all else."""
    if rank == 1:
        return _vector  # gains are (C, 1, 1, 1) in timm, BN parameters (1, 1, 1, C) in Haiku
    if source == "timm" and name.endswith("/kernel"):
        # OIHW -> HWIO, OIW -> WIO; (out, in), or (out, in, 1, 1) of a 1x1 convolution.
        axes = {4: (2, 3, 1, 0), 3: (2, 1, 0)}
        return functools.partial(np.transpose, axes=axes[rank]) if rank in axes else _dense
    return np.asarray


def _dense(array: np.ndarray) -> np.ndarray:
    return array.reshape(array.shape[:2]).T


def _vector(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1) if array.ndim == 4 else array


def recognize(file: WeightsFile) -> str | None:
    """Return the architecture whose tensors these are, or None if that cannot be told."""
    name, attention = recognize_but_for_attention(file)
    return None if attention else name


def recognize_but_for_attention(file: WeightsFile) -> tuple[str | None, dict[str, str | None]]:
    """Return the architecture, and {"attention": ...} if the file has another than it."""
    named = file.metadata.get("architecture", "")
    with contextlib.suppress(ValueError):  # what a file says may be of no network
        if is_architecture(named):
            return named, {}
    keys = [key for key in file.shapes if not key.endswith(IGNORED_SUFFIXES)]
    source = "haiku" if any("/~/" in key for key in keys) else "timm"
    if "head/kernel" in file.shapes:
        source = "nf_zoo"
    # Most architectures fall at the first glance, at the number of their blocks.
    for attention in ((), (None,), ("se",), ("eca",)):
        for row in architectures().values():
            config = _config_in(source, row)
            if attention and hasattr(config, "attention"):
                config = dataclasses.replace(config, attention=attention[0])
            elif attention:
                continue
            if config is not None and _is_of(file.shapes, set(keys), row, config, source):
                return row.name, {"attention": attention[0]} if attention else {}
    return None, {}


def _config_in(source: str, row: Architecture) -> Config | None:
    """The record of a row's network in files of that source; None if it is in none."""
    if source != "haiku":
        return row.config
    # Of a row that is no network of theirs, the variant is one that another row has.
    family, config = row.record.resolve(row.config)
    has_names = all(part.haiku for part in family.parts(config))
    return row.configure("paper") if has_names and "paper" in row.record.variants else None


def _is_of(
    shapes: Mapping[str, tuple[int, ...]],
    keys: set[str],
    row: Architecture,
    config: Config,
    source: str,
) -> bool:
    """Whether the keys are those of the network, and its classifier takes its features."""
    needed, known = set(), set()
    inputs = 1 if source == "timm" else 0
    for name, key, optional in row.record.names(config, source):
        if not key or (not optional and key not in keys):
            return False
        if name == "head/kernel" and config.features != shapes[key][inputs]:
            return False
        known.add(key)
        if not optional:
            needed.add(key)
    return needed <= keys <= known


def has_paper_form(model) -> bool:
    """Return whether weights of DeepMind's code compute in this model what they did there."""
    return architecture(model.architecture).record.has_form_of(model.config, "paper")


def is_the_papers(model) -> bool:
    """Return whether a model is DeepMind's network in every field that the variant sets."""
    return architecture(model.architecture).record.is_variant(model.config, "paper")


def check_variant(model, file: WeightsFile) -> None:
    """Refuse a file of timm's in DeepMind's network and the reverse.

    Two networks share a name. Their tensors can have the same names and shapes and their outputs
    still differ.

    Raises:
        WeightsMismatch: saying which network to build for the file.
    """
    if file.format == "haiku" and not has_paper_form(model):
        name = recognize(file) or model.architecture
        raise WeightsMismatch(
            f"{file.path} is of DeepMind's code, whose networks differ from this "
            f"{model.architecture} where weights do not tell (padding, epsilons, GELU). "
            f"Build theirs: nf_zoo.create_model({name!r}, variant='paper', pretrained=...)."
        )
    if file.format == "timm" and is_the_papers(model):
        name = recognize(file) or model.architecture
        raise WeightsMismatch(
            f"{file.path} holds timm's weights, but this {model.architecture} is the network of "
            "DeepMind's code (variant='paper'), whose outputs with them would be wrong. Leave "
            f"variant out: nf_zoo.create_model({name!r}, pretrained=...)."
        )
