"""Names in checkpoints: which network they belong to, and which tensor fills which variable.

The names are in the families' own files; see :class:`nf_zoo.models.family.Part`.
"""

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
"""Suffixes of entries that evaluation does not read: counters, and the averages' raw sums."""


@dataclasses.dataclass(frozen=True)
class Assignment:
    """One tensor of a checkpoint and the variable it fills."""

    name: str  # our published name, ``"stage1/block2/conv1/kernel"``
    variable: Any
    key: str  # the tensor's name in the source
    # source array -> array in our layout, of the variable's shape
    convert: Callable[[np.ndarray], np.ndarray]


def plan(model, source: str) -> list[Assignment]:
    """Return the assignments with which a checkpoint fills ``model``, one per variable.

    ``source`` is ``"timm"``, ``"nf_zoo"``, or ``"haiku"`` for a tree of DeepMind's, whose keys are
    ``module_path/parameter`` and whose moving averages are the ``average`` of the state. A variable
    for which the source has no name raises ``KeyError``.
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
    """Return the conversion to our layout: (..., in, out) for kernels, vectors for the rest."""
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
    """Return the architecture that the tensors belong to, or None if it is not recognized."""
    name, attention = recognize_but_for_attention(file)
    return None if attention else name


def recognize_but_for_attention(file: WeightsFile) -> tuple[str | None, dict[str, str | None]]:
    """Return the architecture, and its ``attention`` field if the file differs in that."""
    named = file.metadata.get("architecture", "")
    with contextlib.suppress(ValueError):  # a file may name anything
        if is_architecture(named):
            return named, {}
    keys = [key for key in file.shapes if not key.endswith(IGNORED_SUFFIXES)]
    source = "haiku" if any("/~/" in key for key in keys) else "timm"
    if "head/kernel" in file.shapes:
        source = "nf_zoo"
    # Most architectures are ruled out at once, by their number of blocks.
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
    """Return the record of a row's network in files of that source; None if there are none."""
    if source != "haiku":
        return row.config
    # For a row without a network of theirs, the variant belongs to another row.
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
    """Check that the keys are those of the network, and that its classifier fits its features."""
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
    """Check that weights of DeepMind's code give the same outputs in this model as there."""
    family = architecture(model.architecture).record
    fields = family.variants.get("paper", {})
    return all(getattr(model.config, x) == fields[x] for x in family.form if x in fields)


def is_the_papers(model) -> bool:
    """Check that a model is DeepMind's network in every field that the variant sets."""
    fields = architecture(model.architecture).record.variants.get("paper", {})
    return bool(fields) and all(getattr(model.config, name) == fields[name] for name in fields)


def check_variant(model, file: WeightsFile) -> None:
    """Refuse a file of timm's for DeepMind's network, and the reverse.

    Two networks share a name. Their tensors can agree in names and shapes while their outputs
    differ.
    """
    if file.format == "haiku" and not has_paper_form(model):
        name = recognize(file) or model.architecture
        raise WeightsMismatch(
            f"{file.path} holds weights of DeepMind's code, whose networks differ from this "
            f"{model.architecture} in ways that weights do not show (padding, epsilons, GELU).",
            f"Build theirs: nf_zoo.create_model({name!r}, variant='paper', pretrained=...).",
        )
    if file.format == "timm" and is_the_papers(model):
        name = recognize(file) or model.architecture
        raise WeightsMismatch(
            f"{file.path} holds timm's weights, but this {model.architecture} is the network of "
            "DeepMind's code (variant='paper'), whose outputs with them would be wrong.",
            f"Leave variant out: nf_zoo.create_model({name!r}, pretrained=...).",
        )
