"""Maintenance of the catalog: add the record of a published repository, check all records."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nf_zoo import atomic
from nf_zoo.hub.card import CARD_FILE, UNKNOWN
from nf_zoo.hub.catalog import (
    IMAGENET_LABELS,
    LABELS_IN_CONFIG,
    PretrainedWeights,
    examine_catalog,
    label_names,
    read_catalog,
    read_tables,
    weights_directory,
)
from nf_zoo.hub.checkpoint import WEIGHTS_FILE, file_sha256, open_weights
from nf_zoo.hub.client_errors import in_words
from nf_zoo.hub.description import CONFIG_FILE, build_blueprint, count_parameters, read_config
from nf_zoo.hub.errors import CatalogError, WeightsError, first_few, printable
from nf_zoo.hub.repository import HUB, HubRepository, earlier_version_kept
from nf_zoo.hub.untrusted.documents import MOST_BYTES
from nf_zoo.models.registry import architecture
from nf_zoo.pictures.preprocessing import Preprocessing

LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "zlib"),
    *("cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
    *("gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "openrail", "unlicense", "other"),
)
"""Identifiers of the hub under which weights are published."""


def add_record(
    uri: str,
    tag: str | None = None,
    license: str | None = None,
    default: bool | None = None,
    path: Path | None = None,
) -> PretrainedWeights:
    """Write a record for a repository that ``push_to_hub`` published, or for one of timm's.

    The record is pinned to the current commit of the revision and to the checksum of its weights.
    Accuracies come from the repository's model card, and so does the license unless given. By
    default the tag is derived from the repository's name, and the record becomes the default if the
    architecture has none. A catalog that would become malformed stays as it is.
    """
    path = path or weights_directory() / "catalog.toml"
    repository = HubRepository.parse(uri)
    with earlier_version_kept(repository):
        config_path = repository.fetch(CONFIG_FILE, MOST_BYTES)
        repository = repository.at_commit_of(config_path)
        config = read_config(config_path)
        weights = repository.fetch(WEIGHTS_FILE)
        with open_weights(weights) as file:
            origin = file.format
    card = _card(repository)
    blueprint = config.blueprint(config_path)
    classes = config.options.get("num_classes", blueprint.num_classes)
    is_imagenet = config.labels is None and classes == 1000
    if origin == "timm":
        _refuse_changes(blueprint, repository)
    record = PretrainedWeights(
        architecture=config.architecture,
        tag=tag or _tag(repository.name, config.architecture),
        license=license or card.license or UNKNOWN,
        preprocessing=config.preprocessing,
        repository=repository.name,
        revision=repository.revision,
        sha256=file_sha256(weights),
        format=origin or "",
        num_classes=classes,
        parameters=count_parameters(blueprint),
        labels=IMAGENET_LABELS if config.labels is None else LABELS_IN_CONFIG,
        dataset="ImageNet" if is_imagenet else _dataset(card),
        default=has_no_default(path, config.architecture) if default is None else default,
        **_accuracies(card, repository),
    )
    if record.license == UNKNOWN:
        raise CatalogError(
            f"{uri} states no license, which a record needs: add one to its model card, or pass "
            "one, such as license='apache-2.0'."
        )
    write_record(path, record)
    return next(r for r in read_catalog(path) if r.name == record.name)


def _refuse_changes(blueprint, repository: HubRepository) -> None:
    """Refuse changed networks: a record of timm's holds only a name and a class count."""
    plain = build_blueprint(blueprint.architecture, num_classes=blueprint.num_classes).options()
    changes = [
        f"{name}={value!r}" for name, value in blueprint.options().items() if value != plain[name]
    ]
    if changes:
        raise CatalogError(
            f"{repository} holds a {blueprint.architecture} with {first_few(changes)}, which a "
            "record of timm's files cannot express: open it with load_pretrained, publish it with "
            "push_to_hub, and add that repository."
        )


def _tag(repository: str, architecture: str) -> str:
    name = repository.rpartition("/")[2].removeprefix(architecture).strip(".-_")
    return re.sub(r"\W+", "_", name, flags=re.ASCII).lower() or "hub"


def has_no_default(path: Path, architecture: str) -> bool:
    """Check that the catalog has no default checkpoint of the plain architecture yet."""
    records = (r for r in read_catalog(path) if r.architecture == architecture and not r.variant)
    return not any(record.default for record in records)


def _card(repository: HubRepository):
    from huggingface_hub import ModelCard

    path = repository.fetch(CARD_FILE, MOST_BYTES)
    try:
        return ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    # The card may not be YAML or UTF-8, or its fields may have wrong types.
    except Exception as error:
        raise CatalogError(
            f"The model card of {repository} cannot be read: {printable(error)}"
        ) from error


def _dataset(card) -> str:
    return next((str(result.dataset_name) for result in card.eval_results or ()), "")


def _accuracies(card, repository: HubRepository) -> dict[str, Any]:
    """Return top1, top5 and their source from a card of ours, preferably of the test pictures."""
    results = sorted(card.eval_results or (), key=lambda r: r.dataset_split == "test")
    found: dict[str, Any] = {}
    for field, name in (("top1", "Top-1 accuracy"), ("top5", "Top-5 accuracy")):
        for result in results:
            if result.metric_name == name and isinstance(result.metric_value, float):
                found[field] = round(100 * result.metric_value, 4)
                pictures = f"{result.dataset_name}, {result.dataset_split or 'evaluation'}"
    if found:
        found["accuracy_source"] = f"{pictures}; model card of {HUB}{repository.name}"
    return found


def write_record(path: Path, record: PretrainedWeights) -> None:
    """Append a record to a catalog.toml, with the source of its accuracies."""
    text = path.read_text(encoding="utf-8").rstrip() + "\n"
    tables = read_tables(path)
    values = {
        field.name: getattr(record, field.name)
        for field in dataclasses.fields(record)
        if getattr(record, field.name) != field.default
    }
    if any(known.name == record.name for known in read_catalog(path)):
        raise CatalogError(f"{record.name}: more than one record of that name; pass another tag")
    name = _free_name(tables, re.sub(r"\W+", "_", record.name, flags=re.ASCII))
    values["preprocessing"], recipe = _recipe(tables, name, record.preprocessing)
    if record.accuracy_source is not None:
        values["accuracy_source"] = name
        text = _with_source(text, name, record.accuracy_source)
    lines = [f"{key} = {_toml(value)}" for key, value in values.items()]
    text += recipe + "\n[[weights]]\n" + "\n".join(lines) + "\n"
    with atomic.replacing(path) as written:
        written.write_text(text, encoding="utf-8")
        _, problems = examine_catalog(written)
        if problems:
            raise CatalogError(f"{path} was not changed: {problems[0]}")
    read_catalog.cache_clear()


def _free_name(tables: dict[str, Any], name: str) -> str:
    """Return the name, with a number if an entry of the catalog already has it."""
    taken = {*tables.get("preprocessing", {}), *tables.get("accuracy_sources", {})}
    numbered = (f"{name}_{number}" for number in range(2, len(taken) + 3))
    return next(free for free in (name, *numbered) if free not in taken)


def _recipe(tables: dict[str, Any], name: str, wanted: Preprocessing) -> tuple[str, str]:
    """Return the name of the [preprocessing] table wanted, and the text of a new one if needed."""
    for known, table in tables.get("preprocessing", {}).items():
        if Preprocessing.from_dict(table) == wanted:
            return known, ""
    lines = [f"{key} = {_toml(value)}" for key, value in wanted.to_dict().items()]
    return name, f"\n[preprocessing.{name}]\n" + "\n".join(lines) + "\n"


def _with_source(text: str, name: str, source: str) -> str:
    entry = f"{name} = {_toml(source)}\n"
    head = "[accuracy_sources]\n"
    if f"\n{head}" in f"\n{text}":
        return text.replace(head, head + entry, 1)
    return f"{text}\n{head}{entry}"


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    # JSON's strings, numbers and booleans are valid TOML.
    return json.dumps(value, ensure_ascii=False)


@dataclasses.dataclass(frozen=True)
class Finding:
    """Result of checking one record."""

    # the record, ``"nf_resnet50.ra2_in1k"``, or ``"catalog"`` for problems of the catalog itself
    name: str
    problems: tuple[str, ...]  # problems, in words; empty if there are none
    notes: tuple[str, ...] = ()  # remarks that are no problems
    # if asked online, the hub's size in bytes, revision (commit) and sha256
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


def check_catalog(path: Path | None = None, online: bool = False) -> list[Finding]:
    """Check every record of a catalog.

    The check covers fields, architecture, license and labels of each record; checksum, card and
    config.json of the shipped ones; online also existence, size, revision and checksum of the rest.
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
        if not facts.get("file", True):
            problems.append(f"{record.repository} holds no {record.filename}")
        if not facts.get("card", True):
            problems.append(f"{record.repository} has no model card")
        found = facts.get("sha256")
        if record.pinned and found and found != record.sha256:
            problems.append(
                f"{record.filename} has SHA-256 {found} on the hub, {record.sha256} on record"
            )
    return Finding(record.name, tuple(problems), tuple(notes), facts)


def _offline_problems(record: PretrainedWeights) -> Iterator[str]:
    try:
        architecture(record.architecture).configure(record.variant)
    except ValueError as error:
        yield str(error)
    if record.license not in LICENSES:
        yield f"license {record.license!r} is not one of the hub's identifiers"
    try:
        labels = label_names(record)
    except WeightsError as error:
        yield str(error)
    else:
        if labels is not None and len(labels) != record.num_classes:
            yield f"{len(labels)} labels for {record.num_classes} classes"
    if record.labels == LABELS_IN_CONFIG and record.format != "nf_zoo":
        yield "only repositories written by nf_zoo have their labels in config.json"
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
        yield f"{CONFIG_FILE} describes a {config.architecture}"
    if config.preprocessing != record.preprocessing:
        yield f"{CONFIG_FILE} prepares pictures differently"
    card = path.with_name(CARD_FILE)
    if not card.is_file():
        yield f"there is no model card, {card}"
        return
    from huggingface_hub import ModelCard

    data = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    if data.license != record.license:
        yield f"the model card's license is {data.license!r}, the record's {record.license!r}"


def _ask(record: PretrainedWeights) -> dict[str, Any]:
    """Ask the hub, or the server of a url, about a file."""
    import huggingface_hub

    repository = HubRepository(record.repository or record.url, record.revision)
    with in_words(repository, record.filename):
        if record.source == "url":
            metadata = huggingface_hub.get_hf_file_metadata(record.url)
            return {"size": metadata.size}
        info = huggingface_hub.HfApi().model_info(
            record.repository, revision=record.revision, files_metadata=True
        )
    files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    file = files.get(record.filename)
    return {
        "revision": info.sha,
        "size": file.size if file else None,
        "sha256": file.lfs.sha256 if file and file.lfs else None,
        "file": file is not None,
        "card": CARD_FILE in files,
    }
