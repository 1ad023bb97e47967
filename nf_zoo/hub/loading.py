"""A checkpoint into a model: find, fetch, verify, check every tensor, and only then assign.

Nothing is assigned before everything has been checked, so a load that fails leaves the model bit
for bit as it was. Tensors are read one at a time, so that a load needs little more memory than the
model it fills.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from nf_zoo.hub.catalog import PretrainedWeights, label_names, weights_directory
from nf_zoo.hub.errors import CatalogError, WeightsMismatch
from nf_zoo.hub.files import WEIGHTS_FILE, open_weights
from nf_zoo.hub.fitting import classes_of, plan_assignments
from nf_zoo.hub.foreign_names import has_paper_form, is_the_papers
from nf_zoo.hub.model_config import (
    CONFIG_FILE,
    MOST_BYTES,
    ModelConfig,
    is_readable_config,
    read_config,
)
from nf_zoo.hub.repository import HubRepository, earlier_version_kept, fetch_file, find_file
from nf_zoo.hub.sources import Source, fetch_weights, resolve_pretrained

logger = logging.getLogger("nf_zoo")
_HARMLESS = re.compile(r"drop_rate|stochastic_depth_.*|zero_init_.*|momentum|rematerialize")


def load_pretrained_weights(model, source: Source | str | os.PathLike | bool) -> None:
    """Fill a model with the weights of a checkpoint.

    A classifier for another number of classes than the checkpoint's keeps its initial values, and
    so does any classifier if the checkpoint has none; that is logged once. A stem with other than
    three input channels gets the RGB kernel summed (one channel) or repeated (any other number).
    float16 and bfloat16 checkpoints are cast to the dtype of the model's variables.

    Args:
        model: An `ImageClassifier`.
        source: A `PretrainedWeights` record, a `HubRepository`, the path of a safetensors file
            (timm's format or ours: told by its keys) or of an .npz of DeepMind's code or of a
            folder with model.safetensors, or anything else that `resolve_pretrained` takes.

    Raises:
        WeightsError: one of its subclasses, with the cause and the remedy; the model is unchanged.

    Example:
        >>> import nf_zoo
        >>> from nf_zoo.hub.loading import load_pretrained_weights
        >>> model = nf_zoo.create_model("nf_resnet50", num_classes=12)
        >>> load_pretrained_weights(model, "ra2_in1k")  # doctest: +SKIP
    """
    if not isinstance(source, PretrainedWeights | HubRepository):
        variant = "paper" if source is True and is_the_papers(model) else None
        source = resolve_pretrained(model.architecture, source, variant)
    record = source if isinstance(source, PretrainedWeights) else None
    if record is not None:
        _check_record(model, record)
    with (
        earlier_version_kept(source),
        open_weights(fetch_weights(source), record.sha256 if record else None) as file,
    ):
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


def build_options(architecture: str, source: Source) -> dict[str, Any]:
    """What a checkpoint prescribes to the model it is meant for, as arguments of `build_model`.

    A factory lays the user's own arguments over these. A record gives its preprocessing, labels
    and number of classes; a shipped checkpoint, a folder and a hub repository also give what their
    config.json says; a lone file gives its number of classes, where its head tells.

    Args:
        architecture: The network that is about to be built.
        source: What `resolve_pretrained` returned.

    Raises:
        WeightsError: if the source has to be fetched and cannot be.
        WeightsMismatch: if its config.json is of another architecture.
        InvalidConfig: if its config.json is malformed.

    Example:
        >>> from nf_zoo.hub.sources import resolve_pretrained
        >>> build_options("nf_resnet50", resolve_pretrained("nf_resnet50", True))["num_classes"]
        1000
    """
    with earlier_version_kept(source):
        return _options(architecture, source)


def _options(architecture: str, source: Source) -> dict[str, Any]:
    if isinstance(source, PretrainedWeights):
        return _record_options(source)
    config = _config_of(source)
    if config is not None:
        if config.architecture != architecture:
            raise WeightsMismatch(
                f"{source} holds a {config.architecture}, not a {architecture}: use "
                f"nf_zoo.create_model({config.architecture!r}, pretrained=...)."
            )
        return config.arguments()
    with open_weights(fetch_weights(source)) as file:
        classes = classes_of(file)
    return {} if classes is None else {"num_classes": classes}


def _record_options(record: PretrainedWeights) -> dict[str, Any]:
    options = {"num_classes": record.num_classes, "preprocessing": record.preprocessing}
    labels = label_names(record)
    if labels is not None:
        options["labels"] = labels
    if record.variant is not None:
        options["variant"] = record.variant
    if record.source == "shipped":
        path = (weights_directory() / record.filename).with_name(CONFIG_FILE)
    elif record.format == "nf_zoo":
        path = fetch_file(HubRepository(record.repository, record.revision), CONFIG_FILE)
    else:
        return options
    if not path.is_file():
        return options
    config = read_config(path)
    if config.architecture != record.architecture:
        raise CatalogError(f"{record.name}: {path} is of {config.architecture}")
    return {**config.arguments(), **options}


def _config_of(source: HubRepository | Path) -> ModelConfig | None:
    """The config.json that lies beside the weights, if it is nf_zoo's or timm's."""
    if isinstance(source, HubRepository):
        path = find_file(source, CONFIG_FILE, MOST_BYTES)
        if path is None:
            return None
    else:
        path = (source / CONFIG_FILE) if source.is_dir() else source.with_name(CONFIG_FILE)
        if not source.is_dir() and source.name != WEIGHTS_FILE:
            return None
    return read_config(path) if is_readable_config(path) else None


def _check_record(model, record: PretrainedWeights) -> None:
    """Published weights belong to one architecture; overrides that keep its shapes are risky."""
    from nf_zoo.models.registry import architecture

    if record.architecture != model.architecture:
        raise WeightsMismatch(
            f"{record.name} are weights of {record.architecture}, not of {model.architecture}: "
            f"build that, nf_zoo.create_model({record.name!r}, pretrained=True), or take weights "
            f"of {model.architecture}."
        )
    if record.variant is not None and not has_paper_form(model):
        raise WeightsMismatch(
            f"{record.name} are weights of the {record.variant!r} variant of {model.architecture}, "
            f"not of this network: build that, nf_zoo.create_model({model.architecture!r}, "
            f"variant={record.variant!r}, pretrained=True)."
        )
    trained = architecture(record.architecture).configure(record.variant)
    changed = model.config.changes_from(trained)
    changed = {name: value for name, value in changed.items() if not _HARMLESS.fullmatch(name)}
    if changed and record.format != "nf_zoo":
        logger.warning(
            "%s was trained in the published network; this one differs from it in %s, so expect "
            "other outputs than the published ones",
            record.name,
            ", ".join(f"{name}={value!r}" for name, value in changed.items()),
        )
