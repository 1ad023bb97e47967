"""Is every record of the catalog true? Of itself and of what is shipped; online, of the hub."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nf_zoo.hub.card import CARD_FILE
from nf_zoo.hub.catalog import (
    LABELS_IN_CONFIG,
    PretrainedWeights,
    examine_catalog,
    label_names,
    weights_directory,
)
from nf_zoo.hub.errors import WeightsError
from nf_zoo.hub.files import open_weights
from nf_zoo.hub.model_config import CONFIG_FILE, read_config
from nf_zoo.hub.repository import HubRepository, explain

LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "zlib"),
    *("cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
    *("gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "openrail", "unlicense", "other"),
)
"""Identifiers of the hub under which weights are published."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What the check found of one record.

    Attributes:
        name: the record, "nf_resnet50.ra2_in1k", or "catalog" for what is of no record.
        problems: what is wrong, in words; empty if nothing is.
        notes: what is worth knowing.
        facts: online: size in bytes, revision (commit) and sha256 as the hub gives them.
    """

    name: str
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


def check_catalog(path: Path | None = None, online: bool = False) -> list[Finding]:
    """Examine every record of a catalog.

    Fields, architecture, license and labels of each; checksum, card and config.json of those that
    are shipped; online also whether the others exist, their size, revision and checksum.

    Args:
        path: A catalog.toml; None for the one that comes with nf_zoo.
        online: Ask the hub.

    Returns:
        A `Finding` for each record, and one for what is wrong with the catalog itself.

    Raises:
        CatalogError: if the file is not TOML.

    Example:
        >>> [finding for finding in check_catalog() if finding.problems]
        []
    """
    records, problems = examine_catalog(path or weights_directory() / "catalog.toml")
    findings = [Finding("catalog", tuple(problems))] if problems else []
    return [*findings, *(_examine(record, online) for record in records)]


def _examine(record: PretrainedWeights, online: bool) -> Finding:
    problems = list(_offline_problems(record))
    notes = [] if record.pinned else [record.trust]
    facts: dict[str, Any] = {}
    if online and record.source != "shipped":
        try:
            facts = _ask(record)
        except WeightsError as error:
            problems.append(str(error))
        else:
            problems += _online_problems(record, facts)
    return Finding(record.name, tuple(problems), tuple(notes), facts)


def _offline_problems(record: PretrainedWeights) -> Iterator[str]:
    from nf_zoo.models.registry import architecture

    try:
        architecture(record.architecture).configure(record.variant)
    except ValueError as error:
        yield str(error)
    if record.license not in LICENSES:
        yield f"license {record.license!r} is none of the hub's identifiers"
    try:
        labels = label_names(record)
    except WeightsError as error:
        yield str(error)
    else:
        if labels is not None and len(labels) != record.num_classes:
            yield f"{len(labels)} labels for {record.num_classes} classes"
    if record.labels == LABELS_IN_CONFIG and record.format != "nf_zoo":
        yield "only repositories of nf_zoo have their labels in config.json"
    if record.source == "shipped":
        yield from _shipped_problems(record)


def _shipped_problems(record: PretrainedWeights) -> Iterator[str]:
    path = weights_directory() / record.filename
    try:
        with open_weights(path, record.sha256):
            pass
        config = read_config(path.with_name(CONFIG_FILE))
    except WeightsError as error:
        yield str(error)
        return
    if config.architecture != record.architecture:
        yield f"{CONFIG_FILE} is of {config.architecture}"
    if config.preprocessing != record.preprocessing:
        yield f"{CONFIG_FILE} prepares pictures differently"
    card = path.with_name(CARD_FILE)
    if not card.is_file():
        yield f"there is no model card, {card}"
        return
    yield from _card_problems(record, card.read_text(encoding="utf-8"))


def _card_problems(record: PretrainedWeights, text: str) -> Iterator[str]:
    from huggingface_hub import ModelCard

    data = ModelCard(text, ignore_metadata_errors=True).data
    if data.license != record.license:
        yield f"the model card's license is {data.license!r}, the record's {record.license!r}"


def _ask(record: PretrainedWeights) -> dict[str, Any]:
    """What the hub, or the server of a url, says of a file."""
    import huggingface_hub

    repository = HubRepository(record.repository or record.url, record.revision)
    try:
        if record.source == "url":
            metadata = huggingface_hub.get_hf_file_metadata(record.url)
            return {"size": metadata.size}
        info = huggingface_hub.HfApi().model_info(
            record.repository, revision=record.revision, files_metadata=True
        )
    except Exception as error:
        raise (explain(error, repository, record.filename) or error) from error
    files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    file = files.get(record.filename)
    return {
        "revision": info.sha,
        "size": file.size if file else None,
        "sha256": file.lfs.sha256 if file and file.lfs else None,
        "file": file is not None,
        "card": CARD_FILE in files,
    }


def _online_problems(record: PretrainedWeights, facts: dict[str, Any]) -> Iterator[str]:
    if not facts.get("file", True):
        yield f"{record.repository} holds no {record.filename}"
    if not facts.get("card", True):
        yield f"{record.repository} has no model card"
    found = facts.get("sha256")
    if record.pinned and found and found != record.sha256:
        yield f"{record.filename} has SHA-256 {found} on the hub, {record.sha256} on record"
