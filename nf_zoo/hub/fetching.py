"""Checkpoints into the cache ahead of time, for machines that will have no network."""

from __future__ import annotations

from pathlib import Path

from nf_zoo.hub import haiku_files, keras_files
from nf_zoo.hub.catalog import PretrainedWeights
from nf_zoo.hub.errors import WeightsNotFound
from nf_zoo.hub.files import open_weights
from nf_zoo.hub.model_config import CONFIG_FILE, MOST_BYTES, is_keras_config
from nf_zoo.hub.repository import (
    HUB,
    HubRepository,
    earlier_version_kept,
    fetch_file,
    find_file,
    list_files,
)
from nf_zoo.hub.shards import is_index, read_index
from nf_zoo.hub.sources import Source, fetch_weights, resolve_pretrained


def fetch_pretrained(name: str) -> list[Path]:
    """Fetch everything that a later load of a checkpoint needs, and check it; builds nothing.

    Args:
        name: A checkpoint ("nf_resnet50.ra2_in1k"), an architecture for its default one, or
            "hf://owner/name[@revision]".

    Returns:
        The files, in the hub client's cache; a shipped checkpoint is where it was installed.

    Raises:
        WeightsError: as a load of it; what is damaged does not stay in the cache.
        ValueError: if there is no such architecture.

    Example:
        >>> fetch_pretrained("wide_resnet16_2.cifar10")[0].name
        'model.safetensors'
    """
    source = HubRepository.parse(name) if name.startswith(HUB) else _named(name)
    with earlier_version_kept(source):
        if isinstance(source, HubRepository):
            return _fetch_repository(source)
        return _fetch_record(source)


def only_model_file(repository: HubRepository) -> str | None:
    """The one .keras file or .npz of DeepMind's in a repository; None if there is not just one."""
    suffixes = (keras_files.SUFFIX, *haiku_files.SUFFIXES)
    names = [name for name in list_files(repository) if name.endswith(suffixes) and "/" not in name]
    return names[0] if len(names) == 1 else None


def _named(name: str) -> Source:
    from nf_zoo.models.registry import architecture

    bare, _, tag = name.partition(".")
    architecture(bare)
    return resolve_pretrained(bare, tag or True)


def _fetch_record(record: PretrainedWeights) -> list[Path]:
    path = fetch_weights(record)
    with open_weights(path, record.sha256):
        files = [path]
    if record.source == "hf" and record.format == "nf_zoo":
        repository = HubRepository(record.repository, record.revision)
        files.append(fetch_file(repository, CONFIG_FILE, MOST_BYTES))
    return files


def _fetch_repository(repository: HubRepository) -> list[Path]:
    files = []
    version = repository
    config = find_file(repository, CONFIG_FILE, MOST_BYTES)
    if config is not None:
        files.append(config)
        version = repository.at_commit_of(config)
        if is_keras_config(config):
            return [fetch_file(version, name) for name in keras_files.PARTS]
    try:
        path = fetch_weights(version)
    except WeightsNotFound:
        if (name := only_model_file(version)) is None:
            raise
        return [*files, fetch_file(version, name)]
    with open_weights(path):
        files.append(path)
    if is_index(path):
        files += [path.with_name(name) for name in dict.fromkeys(read_index(path).values())]
    return files
