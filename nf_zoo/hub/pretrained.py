"""`load_pretrained`: a model and its weights from a source that says itself what it is."""

from __future__ import annotations

import os
from pathlib import Path

from nf_zoo.hub import haiku_files, keras_files
from nf_zoo.hub.catalog import find_record
from nf_zoo.hub.errors import InvalidConfig, WeightsMismatch, WeightsNotFound
from nf_zoo.hub.fetching import only_model_file
from nf_zoo.hub.files import WeightsFile, open_weights, refuse_way_out
from nf_zoo.hub.fitting import classes_of, plan_assignments
from nf_zoo.hub.loading import load_pretrained_weights
from nf_zoo.hub.model_config import (
    CONFIG_FILE,
    MOST_BYTES,
    ModelConfig,
    is_keras_config,
    read_config,
)
from nf_zoo.hub.recognise import recognise
from nf_zoo.hub.repository import (
    HUB,
    HubRepository,
    earlier_version_kept,
    fetch_file,
    find_file,
)
from nf_zoo.hub.sources import Source, fetch_weights


def load_pretrained(source: str | os.PathLike):
    """The model that a folder, a file or a hub repository describes, with its weights.

    No code of the source runs, and nothing is allocated before its description has been checked
    and held against its weights. Whatever goes wrong, the cache of the hub answers afterwards as
    before.

    Args:
        source: One of

            - a folder written by `save_pretrained`, or by Keras' `model.save(folder,
              zipped=False)`;
            - "hf://owner/name[@revision]": a repository that holds such a folder, or one .keras
              file, or is one of timm's of an architecture of nf_zoo;
            - a .keras file of a model of nf_zoo;
            - an .npz or .npy of DeepMind's code, told by its tensors.

    Returns:
        An `ImageClassifier`: architecture, preprocessing and labels come from the source; for
        DeepMind's files, which have none, from the catalogue.

    Raises:
        WeightsError: one of its subclasses; `InvalidConfig` if the description is of no model.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.load_pretrained("hf://timm/nf_resnet50.ra2_in1k")  # doctest: +SKIP
    """
    text = os.fspath(source)
    if text.startswith(HUB):
        origin = HubRepository.parse(text)
        with earlier_version_kept(origin):
            model = _from_hub(origin)
    else:
        path = Path(text).expanduser()
        model = _from_folder(path) if path.is_dir() else _from_file(path)
    # A .keras file may remember an earlier one.
    model.weights_tag = model.weights_tag or text
    return model


def _from_hub(origin: HubRepository):
    path = find_file(origin, CONFIG_FILE, MOST_BYTES)
    if path is not None:
        version = origin.at_commit_of(path)
        if not is_keras_config(path):
            return _described(path, version)
        for name in keras_files.PARTS:
            fetch_file(version, name)
        return keras_files.open_keras(path.parent)
    name = only_model_file(origin)
    if name is None:
        raise WeightsNotFound(
            f"{origin} holds no {CONFIG_FILE} that describes its weights, nor just one .keras file "
            "or .npz of DeepMind's. For a lone weights file, give the repository to a factory as "
            "pretrained=."
        )
    return _from_file(fetch_file(origin, name))


def _from_folder(folder: Path):
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise WeightsNotFound(
            f"{path} is missing: load_pretrained takes a folder that save_pretrained wrote, or "
            "hf://owner/name. For a lone weights file, give it to a factory as pretrained=."
        )
    refuse_way_out(path)
    if is_keras_config(path):
        for name in keras_files.PARTS:
            refuse_way_out(folder / name)
        return keras_files.open_keras(folder)
    return _described(path, folder)


def _from_file(path: Path):
    if path.suffix not in (keras_files.SUFFIX, *haiku_files.SUFFIXES) or not path.is_file():
        raise WeightsNotFound(
            f"{path} is no folder, and no .keras file or .npz of DeepMind's that is there. For a "
            "lone weights file, give it to a factory as pretrained=."
        )
    if path.suffix == keras_files.SUFFIX:
        return keras_files.open_keras(path)
    return _of_deepmind(path)


def _described(path: Path, source: Source):
    config = read_config(path)
    with open_weights(fetch_weights(source)) as file:
        _check_before_building(config, file, path)
    model = config.build(path)
    load_pretrained_weights(model, source)
    return model


def _check_before_building(config: ModelConfig, file: WeightsFile, path: Path) -> None:
    """A description costs nothing; what it asks for must be in the file before it is allocated."""
    blocks = config.count_blocks(path)
    if blocks > len(file.shapes):
        raise InvalidConfig(
            f"{path} asks for {blocks} residual blocks, but {file.path} holds "
            f"{len(file.shapes)} tensors in all."
        )
    blueprint = config.blueprint(path)
    assignments = plan_assignments(blueprint, file)
    # A factory may start a new classifier; a description promises the one in the file.
    if blueprint.num_classes and not any(a.name.startswith("head/") for a in assignments):
        raise WeightsMismatch(
            f"{path} promises a classifier for {blueprint.num_classes} classes, but {file.path} "
            f"has {classes_of(file) or 'none'}."
        )


def _of_deepmind(path: Path):
    from nf_zoo.models.registry import build_model

    with open_weights(path) as file:
        name, classes = recognise(file), classes_of(file)
    if name is None:
        raise WeightsMismatch(
            f"{path} does not tell by its tensors which network it is of. Build that, and give it "
            "the file: nf_zoo.create_model(name, variant='paper', pretrained=path)."
        )
    options = {} if classes is None else {"num_classes": classes}
    if (record := find_record(name, variant="paper")) is not None:
        options["preprocessing"] = record.preprocessing
    model = build_model(name, variant="paper", **options)
    load_pretrained_weights(model, path)
    return model
