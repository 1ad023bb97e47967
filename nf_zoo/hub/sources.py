"""Where weights come from: `pretrained=...` resolved to a source, and the source to a local file.

A source is a catalogue record, "hf://owner/name[@revision]", or the path of a weights file
(.safetensors; .npz for DeepMind's) or of a folder that holds model.safetensors (and, if nf_zoo
wrote it, config.json).
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from nf_zoo.hub.catalog import (
    PretrainedWeights,
    find_record,
    read_catalog,
    records_of,
    weights_directory,
)
from nf_zoo.hub.diagnosis import refuse_pickle
from nf_zoo.hub.downloads import fetch_url
from nf_zoo.hub.errors import (
    UnknownWeights,
    WeightsAccessDenied,
    WeightsError,
    WeightsNotFound,
    WeightsOffline,
    first_few,
)
from nf_zoo.hub.files import WEIGHTS_FILE

HUB = "hf://"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class HubRepository:
    """A repository of the Hugging Face Hub at a revision."""

    name: str
    revision: str = "main"

    @classmethod
    def parse(cls, uri: str) -> HubRepository:
        """Read "hf://owner/name[@revision]".

        Raises:
            UnknownWeights: if the text is not of that form.
        """
        name, at, revision = uri.removeprefix(HUB).partition("@")
        if not uri.startswith(HUB) or not _REPOSITORY.fullmatch(name) or (at and not revision):
            raise UnknownWeights(
                f"A hub repository is written hf://owner/name or hf://owner/name@revision. "
                f"Received: {uri!r}"
            )
        return cls(name, revision or "main")

    def __str__(self) -> str:
        return f"{HUB}{self.name}@{self.revision}"


Source = PretrainedWeights | HubRepository | Path


def resolve_pretrained(
    architecture: str, pretrained: bool | str | os.PathLike, variant: str | None = None
) -> Source:
    """Turn the `pretrained` argument of a factory into a source of weights. Fetches nothing.

    Args:
        architecture: The network the weights are for, e.g. "nf_resnet50".
        pretrained: True (the architecture's default checkpoint), a tag ("ra2_in1k", or with its
            architecture "nf_resnet50.ra2_in1k"), "hf://owner/name[@revision]", or a local path.
        variant: Which of the architecture's variants True is to take the checkpoint of.

    Raises:
        UnknownWeights: if there is no such tag, or the architecture has no published weights;
            the message offers what there is.
        UnsafeWeights: for a pickle (.pth, .pt, .bin, ...).
        WeightsNotFound: if a path leads nowhere.
        TypeError: for anything else.

    Example:
        >>> from nf_zoo.hub.sources import resolve_pretrained
        >>> resolve_pretrained("nf_resnet50", True).tag
        'ra2_in1k'
    """
    if pretrained is True:
        found = find_record(architecture, variant=variant)
        return found or _no_weights(architecture, variant)
    if isinstance(pretrained, os.PathLike):
        return _local(Path(pretrained))
    if not isinstance(pretrained, str) or not pretrained:
        raise TypeError(
            "pretrained must be True, False, a tag, 'hf://owner/name[@revision]' or a path. "
            f"Received: {pretrained!r}"
        )
    if pretrained.startswith(HUB):
        return HubRepository.parse(pretrained)
    record = find_record(architecture, pretrained.removeprefix(f"{architecture}."))
    if record is not None:
        return record
    if _looks_like_a_path(pretrained):
        return _local(Path(pretrained))
    if not records_of(architecture):
        _no_weights(architecture)
    raise _unknown_tag(architecture, pretrained)


def fetch_weights(source: Source) -> Path:
    """The local path of a source's weights file, downloaded to the hub's cache if need be.

    HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and the access token are huggingface_hub's affair.

    Raises:
        WeightsNotFound: if the repository, revision or file does not exist.
        WeightsAccessDenied: if the hub refuses this user.
        WeightsOffline: if the hub cannot be reached and the file is not cached.
    """
    if isinstance(source, PretrainedWeights):
        if source.source == "shipped":
            return weights_directory() / source.filename
        if source.source == "url":
            return fetch_url(source.url, source.filename)
        return fetch_file(HubRepository(source.repository, source.revision), source.filename)
    if isinstance(source, HubRepository):
        return fetch_file(source, WEIGHTS_FILE)
    return source / WEIGHTS_FILE if source.is_dir() else source


def fetch_file(repository: HubRepository, filename: str) -> Path:
    """One file of a hub repository, from the cache or over the network. Raises as above."""
    import huggingface_hub

    try:
        path = huggingface_hub.hf_hub_download(
            repository.name, filename, revision=repository.revision
        )
    except Exception as error:
        explained = _explain(error, repository, filename)
        if explained is None:
            raise
        raise explained from error
    return Path(path)


def has_file(repository: HubRepository, filename: str) -> bool:
    """Whether a hub repository holds a file; its absence is remembered in the cache.

    Raises:
        WeightsError: as `fetch_file`, except for the absence of the file.
    """
    import huggingface_hub

    try:
        fetch_file(repository, filename)
    except WeightsNotFound as error:
        if isinstance(error.__cause__, huggingface_hub.errors.RemoteEntryNotFoundError):
            return False
        raise
    except WeightsOffline:
        # Neither None (not known) nor a path (it would have been found): known to be absent.
        if huggingface_hub.try_to_load_from_cache(
            repository.name, filename, revision=repository.revision
        ):
            return False
        raise
    return True


def _explain(error: Exception, repository: HubRepository, filename: str) -> WeightsError | None:
    """A hub client's error in our words; None if it is none of the client's."""
    from huggingface_hub import errors as hub

    where = f"{repository.name} (revision {repository.revision})"
    if isinstance(error, hub.GatedRepoError) or _status(error) in (401, 403):
        return WeightsAccessDenied(
            f"The hub refuses access to {repository.name}: it does not exist, is private, or its "
            f"conditions must be accepted first. Check the name, log in with `hf auth login`, and "
            f"visit the repository's page. The hub says: {error}"
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return WeightsNotFound(
            f"{repository.name} has no revision {repository.revision!r}: leave '@revision' out for "
            "'main', or name an existing branch, tag or commit."
        )
    if isinstance(error, hub.RepositoryNotFoundError | hub.HFValidationError):
        return WeightsNotFound(
            f"There is no repository {repository.name} on the hub: check its name."
        )
    if isinstance(error, hub.LocalEntryNotFoundError):
        return _offline(error, where, filename)
    if isinstance(error, hub.EntryNotFoundError):
        return WeightsNotFound(
            f"{where} holds no {filename}. nf_zoo reads safetensors only; older repositories may "
            "hold just a pickle, which must be converted first."
        )
    if isinstance(error, OSError) or type(error).__module__.startswith("httpx"):
        return WeightsOffline(
            f"The download of {filename} from {where} broke off: {error}. Load again to resume it."
        )
    return None


def _offline(error: Exception, where: str, filename: str) -> WeightsOffline:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        cause = "HF_HUB_OFFLINE is set"
    else:
        cause = f"the hub at {constants.ENDPOINT} cannot be reached ({error.__cause__ or error})"
    shipped = [record.name for record in read_catalog() if record.source == "shipped"]
    return WeightsOffline(
        f"{filename} of {where} is not in the cache ({constants.HF_HUB_CACHE}), and {cause}. "
        "Either connect to the network (unset HF_HUB_OFFLINE, or point HF_ENDPOINT at a mirror); "
        "or set HF_HOME to a cache that holds the file; or pass a file you have, "
        "pretrained='path/to/model.safetensors'; or use weights that come with nf_zoo: "
        f"{first_few(shipped) or 'none in this version'}."
    )


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    known_error = response is not None and response.headers.get("X-Error-Code")
    return getattr(response, "status_code", None) if not known_error else None


def _looks_like_a_path(text: str) -> bool:
    return "/" in text or os.sep in text or bool(Path(text).suffix) or Path(text).exists()


def _local(path: Path) -> Path:
    refuse_pickle(path)
    path = path.expanduser()
    if path.is_dir() and not (path / WEIGHTS_FILE).is_file():
        raise WeightsNotFound(
            f"The folder {path} holds no {WEIGHTS_FILE}. "
            f"It holds: {first_few(sorted(p.name for p in path.iterdir())) or 'nothing'}"
        )
    if not path.exists():
        raise WeightsNotFound(
            f"There is no file or folder {path}. A tag contains no '/' and no file suffix; "
            "a hub repository is written hf://owner/name."
        )
    return path


def _unknown_tag(architecture: str, tag: str) -> UnknownWeights:
    tags = [record.tag for record in records_of(architecture)]
    near = difflib.get_close_matches(tag.removeprefix(f"{architecture}."), tags, cutoff=0.4)
    meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return UnknownWeights(
        f"{architecture} has no weights called {tag!r}.{meant} There are: {', '.join(tags)}."
    )


def _no_weights(architecture: str, variant: str | None = None) -> PretrainedWeights:
    from nf_zoo.models.registry import architectures

    for record in records_of(architecture):
        if variant is None and record.variant is not None:
            raise UnknownWeights(
                f"No weights are published for the plain {architecture}, but for its "
                f"{record.variant!r} variant: pass variant={record.variant!r} too, or name the "
                f"checkpoint, nf_zoo.create_model({record.name!r}, pretrained=True)."
            )
    if variant is not None:
        plain = ", ".join(record.name for record in records_of(architecture)) or "none"
        raise UnknownWeights(
            f"No weights are published for the {variant!r} variant of {architecture}. For the "
            f"plain network: {plain}. Leave variant out for those, or pass a file of your own."
        )

    known = architectures()
    with_weights = list(dict.fromkeys(record.architecture for record in read_catalog()))
    family = known[architecture].family if architecture in known else None
    relatives = [name for name in with_weights if name in known and known[name].family == family]
    raise UnknownWeights(
        f"No weights are published for {architecture}. Of its family, these have some: "
        f"{', '.join(relatives) or 'none'}; in all: {', '.join(with_weights)}. "
        "Or pass a file of your own, pretrained='path/to/model.safetensors'."
    )
