"""Where weights come from: `pretrained=...` resolved to a source, and the source to a local file.

A source is a catalog record, "hf://owner/name[@revision]", or the path of a weights file
(.safetensors; .npz for DeepMind's) or of a folder that holds model.safetensors (and, if nf_zoo or
timm wrote it, config.json).
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from nf_zoo.hub.catalog import (
    PretrainedWeights,
    find_record,
    read_catalog,
    records_of,
    weights_directory,
)
from nf_zoo.hub.diagnosis import is_pickle, pickle_remedy, refuse_pickle
from nf_zoo.hub.downloads import fetch_url
from nf_zoo.hub.errors import (
    UnknownWeights,
    WeightsNotFound,
    first_few,
)
from nf_zoo.hub.files import WEIGHTS_FILE, refuse_way_out
from nf_zoo.hub.model_config import CONFIG_FILE, MOST_BYTES
from nf_zoo.hub.repository import HUB, HubRepository, fetch_file, find_file
from nf_zoo.hub.shards import INDEX_FILE, read_index

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
        WeightsNotFound: if the repository, revision or file does not exist, or a folder holds none.
        WeightsAccessDenied: if the hub refuses this user.
        WeightsOffline: if the hub cannot be reached and the file is not cached.
        CacheNotWritable: if the disk is full or closed.
        UnsafeWeights: if a file leads out of its folder.
    """
    if isinstance(source, PretrainedWeights):
        if source.source == "shipped":
            return weights_directory() / source.filename
        if source.source == "url":
            return fetch_url(source.url, source.filename)
        return fetch_file(HubRepository(source.repository, source.revision), source.filename)
    if isinstance(source, HubRepository):
        return _fetch_from_hub(source)
    if not source.is_dir():
        return source
    path = _weights_in(source)
    refuse_way_out(path)
    return path


def pinned(source: Source) -> Source:
    """A hub repository at the commit its revision stands for now; anything else as it is.

    Raises:
        WeightsError: as `fetch_weights`.
    """
    if not isinstance(source, HubRepository):
        return source
    path = find_file(source, CONFIG_FILE, MOST_BYTES)
    return source if path is None else source.at_commit_of(path)


def _fetch_from_hub(repository: HubRepository) -> Path:
    path = find_file(repository, WEIGHTS_FILE)
    if path is not None:
        return path
    index = find_file(repository, INDEX_FILE, MOST_BYTES)
    if index is None:
        return fetch_file(repository, WEIGHTS_FILE)
    version = repository.at_commit_of(index)
    for name in dict.fromkeys(read_index(index).values()):
        fetch_file(version, name)
    return index


def _weights_in(folder: Path) -> Path:
    for name in (WEIGHTS_FILE, INDEX_FILE):
        if (folder / name).is_file():
            return folder / name
    names = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in names if is_pickle(name)]
    raise WeightsNotFound(
        f"The folder {folder} holds no {WEIGHTS_FILE}. It holds: {first_few(names) or 'nothing'}. "
        + (pickle_remedy(folder / pickles[0]) if pickles else "")
    )


def _looks_like_a_path(text: str) -> bool:
    return "/" in text or os.sep in text or bool(Path(text).suffix) or Path(text).exists()


def _local(path: Path) -> Path:
    refuse_pickle(path)
    path = path.expanduser()
    if path.is_dir():
        _weights_in(path)
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

    tags = [record.tag for record in records_of(architecture) if record.variant == variant]
    if tags:
        raise UnknownWeights(
            f"{architecture} has no default weights; those that there are have other widths or "
            f"fields. Ask for them by name: pretrained={' or '.join(map(repr, tags))}."
        )
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
