"""Sources of weights, to which ``pretrained=...`` is resolved.

A source is a record of the catalog (``Cataloged``), ``"hf://owner/name[@revision]"``
(``HubRepository``), or the path of a weights file (.safetensors; .npz for DeepMind's) or of a
folder that holds model.safetensors and, if nf_zoo or timm wrote it, config.json (``Local``). All
sources answer the same questions:

- ``weights()``: the local path of its weights, fetched if needed;
- ``description()``: the path of its config.json, or None; ``files()``: all that a load needs;
- ``pinned()``: the source at one commit, even if another is published meanwhile;
- ``tag``: the name that a model keeps of it; ``record``, ``sha256``: the catalog's, or None;
- ``branch()``: the file in the hub's cache that holds its version, or None.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from pathlib import Path

from nf_zoo.deploy.formats import SUFFIXES
from nf_zoo.hub.catalog import (
    PretrainedWeights,
    find_record,
    read_catalog,
    records_of,
    weights_directory,
)
from nf_zoo.hub.checkpoint import INDEX_FILE, WEIGHTS_FILE, open_weights
from nf_zoo.hub.description import CONFIG_FILE
from nf_zoo.hub.errors import UnknownWeights, WeightsNotFound, first_few
from nf_zoo.hub.repository import HUB, MODEL_SUFFIXES, HubRepository, earlier_version_kept
from nf_zoo.hub.untrusted.documents import MOST_BYTES, refuse_way_out
from nf_zoo.hub.untrusted.headers import (
    is_index,
    is_pickle,
    pickle_remedy,
    read_index,
    refuse_pickle,
)
from nf_zoo.hub.web_files import fetch_url
from nf_zoo.models.registry import architecture as row_of
from nf_zoo.models.registry import architectures, is_architecture


@dataclasses.dataclass(frozen=True)
class Cataloged:
    """A checkpoint of the catalog as a source."""

    record: PretrainedWeights

    @property
    def tag(self) -> str:
        return self.record.tag

    @property
    def sha256(self) -> str | None:
        return self.record.sha256

    def weights(self) -> Path:
        record = self.record
        if record.source == "shipped":
            return weights_directory() / record.filename
        if record.source == "url":
            return fetch_url(record.url, record.filename)
        return self._repository().fetch(record.filename)

    def description(self) -> Path | None:
        """Return its config.json, if nf_zoo wrote one. Raises as ``HubRepository.fetch``."""
        if self.record.source == "shipped":
            path = self.weights().with_name(CONFIG_FILE)
            return path if path.is_file() else None
        if self.record.format == "nf_zoo":
            return self._repository().fetch(CONFIG_FILE, MOST_BYTES)
        return None

    def files(self) -> list[Path]:
        is_here = self.record.source == "shipped"
        config = None if is_here else self.description()
        return [*filter(None, [config]), self.weights()]

    def pinned(self) -> Cataloged:
        return self

    def branch(self) -> Path | None:
        return None if self.record.repository is None else self._repository().branch()

    def _repository(self) -> HubRepository:
        return HubRepository(self.record.repository, self.record.revision)


@dataclasses.dataclass(frozen=True)
class Local:
    """A file or a folder as a source."""

    path: Path

    record = sha256 = None

    def __post_init__(self):
        refuse_pickle(self.path)
        path = self.path.expanduser()
        object.__setattr__(self, "path", path)
        if path.is_dir():
            self._weights_in(path)
        if not path.exists():
            raise WeightsNotFound(
                f"There is no file or folder {path}. A tag contains no '/' and no file suffix; "
                "a hub repository is written hf://owner/name."
            )

    def __str__(self) -> str:
        return str(self.path)

    @property
    def tag(self) -> str:
        return f"./{self.path.resolve().name}"  # no tag of the catalog

    def weights(self) -> Path:
        """Return the weights file, or the index of several."""
        if not self.path.is_dir():
            return self.path
        path = self._weights_in(self.path)
        refuse_way_out(path)
        return path

    def description(self) -> Path | None:
        if not self.path.is_dir() and self.path.name not in (WEIGHTS_FILE, INDEX_FILE):
            return None
        folder = self.path if self.path.is_dir() else self.path.parent
        path = folder / CONFIG_FILE
        if not path.is_file():
            return None
        refuse_way_out(path)
        return path

    def pinned(self) -> Local:
        return self

    def branch(self) -> None:
        """Return None: the hub's cache holds no part of it."""

    def _weights_in(self, folder: Path) -> Path:
        for name in (WEIGHTS_FILE, INDEX_FILE):
            if (folder / name).is_file():
                return folder / name
        names = sorted(path.name for path in folder.iterdir())
        pickles = [name for name in names if is_pickle(name)]
        raise WeightsNotFound(
            f"The folder {folder} holds no {WEIGHTS_FILE}. It holds: "
            f"{first_few(names) or 'nothing'}. "
            + (pickle_remedy(folder / pickles[0]) if pickles else "")
        )


Source = Cataloged | HubRepository | Local


def is_name(source: str | os.PathLike) -> bool:
    """Check for the name of an architecture or checkpoint; ``"./name"`` and a Path are no names."""
    return (
        isinstance(source, str)
        and not source.lower().endswith((*MODEL_SUFFIXES, *SUFFIXES))
        and is_architecture(source.partition(".")[0])
    )


def resolve_pretrained(
    architecture: str,
    pretrained: bool | str | os.PathLike | Source | PretrainedWeights,
    variant: str | None = None,
) -> Source:
    """Turn the ``pretrained`` argument of a factory into a source of weights; fetch nothing.

    It may also be a record or a source, which stands for itself. A tag must belong to ``variant``,
    and True takes that variant's default checkpoint; None stands for any tag, and for the plain
    network's default.
    """
    if isinstance(pretrained, Source):
        return pretrained
    if isinstance(pretrained, PretrainedWeights):
        return Cataloged(pretrained)
    if isinstance(pretrained, os.PathLike):
        return Local(Path(pretrained))
    if pretrained is True:
        record = find_record(architecture, variant=variant)
        if record is None:
            raise _no_weights(architecture, variant)
        return Cataloged(record)
    if not isinstance(pretrained, str) or not pretrained:
        raise TypeError(
            "pretrained must be True, False, a tag, 'hf://owner/name[@revision]' or a path. "
            f"Received: {pretrained!r}"
        )
    if pretrained.startswith(HUB):
        return HubRepository.parse(pretrained)
    tag = pretrained.removeprefix(f"{architecture}.")
    record = find_record(architecture, tag)
    if record is not None:
        if variant not in (None, record.variant):
            raise UnknownWeights(
                f"{record.name} are weights of the plain {architecture}, not of its {variant!r} "
                "variant, whose outputs with them would be wrong: leave variant out, or give a "
                "path to weights of that variant."
            )
        return Cataloged(record)
    path = Path(pretrained)
    if "/" in pretrained or os.sep in pretrained or path.suffix or path.exists():
        return Local(path)
    tags = [record.tag for record in records_of(architecture)]
    if not tags:
        raise _no_weights(architecture)
    near = difflib.get_close_matches(tag, tags, cutoff=0.4)
    meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise UnknownWeights(
        f"{architecture} has no weights called {tag!r}.{meant} There are: {', '.join(tags)}."
    )


def fetch_pretrained(name: str) -> list[Path]:
    """Fetch and check everything that a later load of a checkpoint needs; return the files.

    ``name`` is a checkpoint, an architecture for its default one, or
    ``"hf://owner/name[@revision]"``. Nothing is built, and damaged files do not stay in the cache.
    """
    if name.startswith(HUB):
        source = HubRepository.parse(name)
    else:
        bare, _, tag = name.partition(".")
        source = resolve_pretrained(row_of(bare).name, tag or True)
    with earlier_version_kept(source):
        files = source.files()
        if files[-1].suffix not in (".keras", ".h5"):
            with open_weights(files[-1], source.sha256):
                pass
    index = files[-1]
    if is_index(index):
        files += [index.with_name(name) for name in dict.fromkeys(read_index(index).values())]
    return files


def _no_weights(architecture: str, variant: str | None = None) -> UnknownWeights:
    tags = [record.tag for record in records_of(architecture) if record.variant == variant]
    if tags:
        return UnknownWeights(
            f"{architecture} has no default weights; its checkpoints have other widths or fields. "
            f"Ask for them by name: {' or '.join(f'{architecture}.{tag}' for tag in tags)}.",
            f"In Python also: pretrained={' or '.join(map(repr, tags))}.",
        )
    for record in records_of(architecture):
        if variant is None and record.variant is not None:
            return UnknownWeights(
                f"No weights are published for the plain {architecture}, only for its "
                f"{record.variant!r} variant: name the checkpoint, {record.name}.",
                f"Pass variant={record.variant!r} too, or call "
                f"nf_zoo.create_model({record.name!r}).",
            )
    if variant is not None:
        plain = ", ".join(record.name for record in records_of(architecture)) or "none"
        return UnknownWeights(
            f"No weights are published for the {variant!r} variant of {architecture}. For the "
            f"plain network: {plain}. Leave variant out to use those, or pass a file of your own."
        )
    known = architectures()
    with_weights = list(dict.fromkeys(record.architecture for record in read_catalog()))
    family = known[architecture].family if architecture in known else None
    relatives = [name for name in with_weights if name in known and known[name].family == family]
    return UnknownWeights(
        f"No weights are published for {architecture}. In its family, these have weights: "
        f"{', '.join(relatives) or 'none'}; in all: {', '.join(with_weights)}.",
        "Or pass a file of your own, pretrained='path/to/model.safetensors'.",
    )
