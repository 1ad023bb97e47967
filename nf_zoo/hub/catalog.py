"""The catalog: one ``PretrainedWeights`` record per [[weights]] entry of weights/catalog.toml.

The catalog is read once and checked as it is read: a field that is missing, unknown or of the
wrong type raises a ``CatalogError`` that names the record. To add a checkpoint, add a record.
"""

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from nf_zoo.hub.errors import CatalogError
from nf_zoo.pictures.preprocessing import Preprocessing

IMAGENET_LABELS = "imagenet1k"
LABELS_IN_CONFIG = "config.json"


@dataclass(frozen=True)
class PretrainedWeights:
    """One checkpoint: its network, its location and its evaluation."""

    architecture: str  # the network it belongs to, e.g. "nf_resnet50"
    tag: str  # the checkpoint's name among that network's, e.g. "ra2_in1k"
    license: str  # SPDX identifier in lower case, e.g. "apache-2.0"
    preprocessing: Preprocessing  # how pictures were prepared when the checkpoint was evaluated
    variant: str | None = None  # the variant of the architecture that it fits: None or "paper"
    # "hf" (a Hugging Face repository), "url" (a file elsewhere on the web) or "shipped" (a file in
    # the weights directory).
    source: str = "hf"
    repository: str | None = None  # "owner/name" on the Hugging Face Hub; None for the others
    url: str | None = None  # address of the file; None for the others
    # The file in the repository, or its path relative to the weights directory.
    filename: str = "model.safetensors"
    revision: str = "main"  # branch, tag or commit of the repository
    sha256: str | None = None  # checksum of the file; None if the download is not pinned
    format: str = "timm"  # or "haiku" (DeepMind's names and layouts), or "nf_zoo" (ours)
    num_classes: int = 1000  # of the checkpoint's classifier; 0 if it has none
    train_input_size: tuple[int, int] | None = None  # (height, width) in pixels during training
    top1: float | None = None  # published top-1 accuracy in per cent
    top5: float | None = None  # published top-5 accuracy in per cent
    accuracy_source: str | None = None  # where the accuracies were published
    parameters: int | None = None  # number of trainable parameters
    # "imagenet1k"; "config.json" (in a repository that nf_zoo wrote); or a JSON file with a
    # "labels" list, relative to the weights directory.
    labels: str = IMAGENET_LABELS
    dataset: str = "ImageNet"  # the data set whose classes it knows, in words; empty if unknown
    default: bool = False  # pretrained=True takes this checkpoint

    @property
    def name(self) -> str:
        """Name of the checkpoint in timm's form: ``"architecture.tag"``."""
        return f"{self.architecture}.{self.tag}"

    @property
    def pinned(self) -> bool:
        """True if a checksum is on record, so that the file cannot change unnoticed."""
        return self.sha256 is not None

    @property
    def trust(self) -> str:
        """Evidence that the file is the published one, in words."""
        if self.source == "shipped":
            return "comes with nf_zoo, SHA-256 checked"
        return "pinned: SHA-256 checked" if self.pinned else "not pinned: no SHA-256 on record"


_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys((f.name for f in fields(PretrainedWeights)), str),
    **dict.fromkeys(("num_classes", "parameters"), int),
    **dict.fromkeys(("top1", "top5"), (int, float)),
    "train_input_size": list,
    "default": bool,
}
_FORMATS = ("timm", "haiku", "nf_zoo")
_SUFFIX = {"hf": ".safetensors", "url": ".npz", "shipped": ".safetensors"}
_REQUIRED = tuple(f.name for f in fields(PretrainedWeights) if f.default is MISSING)


def weights_directory() -> Path:
    """Return the directory of catalog.toml and the shipped checkpoints.

    It is the package's own weights/ when nf_zoo is installed, and the checkout's top-level weights/
    when nf_zoo runs from a clone.
    """
    package = Path(__file__).resolve().parent.parent
    places = (package / "weights", package.parent / "weights")
    for place in places:
        if (place / "catalog.toml").is_file():
            return place
    raise CatalogError(
        "The catalog of weights is missing from this installation: reinstall nf-zoo. "
        f"Looked for catalog.toml in: {', '.join(map(str, places))}"
    )


@lru_cache(maxsize=8)
def read_catalog(path: Path | None = None) -> tuple[PretrainedWeights, ...]:
    """Return every record of a catalog, by default nf_zoo's own; the file is read once."""
    records, problems = examine_catalog(path or weights_directory() / "catalog.toml")
    if problems:
        raise CatalogError(problems[0])
    return records


def examine_catalog(path: Path) -> tuple[tuple[PretrainedWeights, ...], list[str]]:
    """Return the sound records of a catalog, and a line for each problem of the others."""
    document = read_tables(path)
    recipes = {
        name: _preprocessing(name, table)
        for name, table in document.get("preprocessing", {}).items()
    }
    sources = document.get("accuracy_sources", {})
    records, problems = [], []
    for position, table in enumerate(document.get("weights", ()), start=1):
        try:
            records.append(_record(position, table, recipes, sources))
        except CatalogError as error:
            problems.append(str(error))
    if not problems:
        problems = list(_problems_together(records))
    return tuple(records), problems


def read_tables(path: Path) -> dict[str, Any]:
    """Return the raw tables of a catalog.toml."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogError(f"{path} cannot be read as TOML: {error}") from error
    unknown = set(document) - {"weights", "preprocessing", "accuracy_sources"}
    if unknown:
        raise CatalogError(f"{path}: unknown table. Received: {sorted(unknown)}")
    return document


def records_of(architecture: str) -> tuple[PretrainedWeights, ...]:
    """Return the records of one architecture, in the catalog's order; empty if there are none."""
    return tuple(record for record in read_catalog() if record.architecture == architecture)


def find_record(
    architecture: str, tag: str | None = None, variant: str | None = None
) -> PretrainedWeights | None:
    """Return the record of a tag, or the variant's default record; None if there is none."""
    for record in records_of(architecture):
        is_default = record.default and record.variant == variant
        if is_default if tag is None else record.tag == tag:
            return record
    return None


def label_names(record: PretrainedWeights) -> tuple[str, ...] | None:
    """Return a record's class names; None for ImageNet's and for those in its config.json."""
    if record.labels in (IMAGENET_LABELS, LABELS_IN_CONFIG):
        return None
    path = weights_directory() / record.labels
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))["labels"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CatalogError(f"{record.name}: no 'labels' list can be read from {path}") from error
    return tuple(map(str, labels))


def _preprocessing(name: str, table: Any) -> Preprocessing:
    try:
        return Preprocessing.from_dict(table)
    except (TypeError, ValueError) as error:
        raise CatalogError(
            f"[preprocessing.{name}] of the catalog is malformed: {error}"
        ) from error


def _record(
    position: int, table: Mapping[str, Any], recipes: Mapping[str, Preprocessing], sources: Mapping
) -> PretrainedWeights:
    """Make a record of a [[weights]] table, with its two references resolved."""
    name = f"{table.get('architecture', '?')}.{table.get('tag', '?')} (record {position})"
    values = dict(table)
    _check_fields(name, values)
    for field, targets in (("preprocessing", recipes), ("accuracy_source", sources)):
        if field not in values:
            continue
        if values[field] not in targets:
            raise CatalogError(
                f"{name}: no such {field} in the catalog. Received: {values[field]!r}"
            )
        values[field] = targets[values[field]]
    if "train_input_size" in values:
        values["train_input_size"] = tuple(values["train_input_size"])
    record = PretrainedWeights(**values)
    _check_values(name, record)
    return record


def _check_fields(name: str, values: Mapping[str, Any]) -> None:
    for field in _REQUIRED:
        if field not in values:
            raise CatalogError(f"{name}: the field {field!r} is missing")
    for field, value in values.items():
        if field not in _TYPES:
            raise CatalogError(
                f"{name}: unknown field {field!r}. Known: {', '.join(sorted(_TYPES))}"
            )
        wanted = _TYPES[field]
        is_misplaced_bool = isinstance(value, bool) and wanted is not bool
        if is_misplaced_bool or not isinstance(value, wanted):
            raise CatalogError(f"{name}: {field!r} is of the wrong type. Received: {value!r}")


def _check_values(name: str, record: PretrainedWeights) -> None:
    size, accuracies = record.train_input_size, (record.top1, record.top5)
    problems = {
        "source must be 'hf', 'url' or 'shipped'": record.source not in _SUFFIX,
        "format must be 'timm', 'haiku' or 'nf_zoo'": record.format not in _FORMATS,
        "variant must be absent or 'paper', and is for the format 'haiku'": record.variant
        not in (None, "paper")
        or (record.format == "haiku" and record.variant is None)
        or (record.format == "timm" and record.variant is not None),
        "a hub checkpoint needs its repository, as 'owner/name'": record.source == "hf"
        and (record.repository or "").count("/") != 1,
        "a shipped checkpoint has no repository and needs its sha256": record.source == "shipped"
        and (record.repository is not None or record.sha256 is None),
        "a url must be an https address, and belongs to the source 'url' only": (
            record.source == "url"
        )
        != (record.url or "").startswith("https://"),
        "sha256 must be 64 lower-case hexadecimal digits": record.sha256 is not None
        and not re.fullmatch("[0-9a-f]{64}", record.sha256),
        "num_classes must not be negative": record.num_classes < 0,
        "filename must end in .safetensors, or in .npz if it has a url": not (
            record.filename.endswith(_SUFFIX.get(record.source, ""))
        ),
        "train_input_size must be two positive integers": size is not None
        and not (len(size) == 2 and all(type(side) is int and side > 0 for side in size)),
        "an accuracy must lie between 0 and 100": any(
            accuracy is not None and not 0 < accuracy <= 100 for accuracy in accuracies
        ),
        "accuracies and accuracy_source belong together": (record.accuracy_source is None)
        != (accuracies == (None, None)),
    }
    for problem, found in problems.items():
        if found:
            raise CatalogError(f"{name}: {problem}")


def _problems_together(records: Sequence[PretrainedWeights]) -> Iterator[str]:
    """Check that names are unique, and that each variant has at most one default.

    A variant may have none: if its checkpoints differ in size from the architecture, users must
    name a tag.
    """
    names = Counter(record.name for record in records)
    yield from (f"{name}: more than one record of that name" for name in names if names[name] > 1)
    for place in dict.fromkeys((record.architecture, record.variant) for record in records):
        of_place = [record for record in records if (record.architecture, record.variant) == place]
        defaults = [record.tag for record in of_place if record.default]
        if len(defaults) > 1:
            yield f"{place[0]}: only one record can have default = true. Received: {defaults}"
