"""``load_pretrained``: a model and its weights from a self-describing source."""

import os
from pathlib import Path

from nf_zoo.deploy.formats import SUFFIXES
from nf_zoo.hub.catalog import find_record
from nf_zoo.hub.checkpoint import open_weights
from nf_zoo.hub.description import CONFIG_FILE, is_keras_config
from nf_zoo.hub.errors import InvalidConfig, WeightsMismatch, WeightsNotFound, first_few
from nf_zoo.hub.foreign_names import recognize
from nf_zoo.hub.loading import check_described, classes_of, fill
from nf_zoo.hub.models import create_model
from nf_zoo.hub.repository import HUB, MODEL_SUFFIXES, HubRepository, earlier_version_kept
from nf_zoo.hub.sources import Local, Source, is_name
from nf_zoo.hub.untrusted import keras_files
from nf_zoo.hub.untrusted.documents import refuse_way_out
from nf_zoo.models.classifier import build_model
from nf_zoo.models.registry import architecture

RUN_MODEL_FILE = "model.keras"
"""The fitted model in a folder of ``finetune``."""
SAVED_MODEL_FILE = "saved_model.pb"
_ONLY_PREDICTS = (
    "can only predict: load the .keras file or the folder it was made from, or run it with "
    "`nf-zoo predict`"
)


def load_pretrained(source: str | os.PathLike):
    """Load a model with its weights from a name, a folder, a file or a hub repository.

    No code of the source runs, and nothing is allocated before its description has been checked,
    also against its weights. If anything fails, the hub's cache stays as it was.

    Args:
        source: one of

            - the name of an architecture or checkpoint of the catalog, as for ``create_model``;
              write a folder of such a name as ``"./name"``;
            - a folder written by ``save_pretrained``, by ``finetune``, by timm's ``save_for_hf``,
              or by Keras's ``model.save(folder, zipped=False)``;
            - ``"hf://owner/name[@revision]"``: a repository that holds such a folder or one .keras
              file, or timm's repository for an architecture of nf_zoo;
            - a .keras file of a model of nf_zoo, folded or not;
            - an .npz or .npy of DeepMind's code, recognized by its tensors.

    Returns:
        an ``ImageClassifier``, or a ``FoldedModel`` if that was saved. Architecture, preprocessing
        and labels come from the source; for DeepMind's files, which have none, from the catalog.

    Raises:
        WeightsError: one of its subclasses; ``InvalidConfig`` if the description fits no model.
        ValueError: if the source is neither a name nor a path.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.load_pretrained("hf://timm/nf_resnet50.ra2_in1k")  # doctest: +SKIP
    """
    text = os.fspath(source)
    if text.startswith(HUB):
        repository = HubRepository.parse(text)
        with earlier_version_kept(repository):
            model = _from_hub(repository)
    elif is_name(source):
        return create_model(text, pretrained=True)
    else:
        model = _from_path(Path(text).expanduser(), text)
    # A .keras file may remember where its training began, but not where it lies by now.
    if (model.weights_tag or "./").startswith("./"):
        # Told apart from the catalog's tags, which have no separator.
        model.weights_tag = text if "/" in text or os.sep in text else f"./{text}"
    return model


def _from_path(path: Path, text: str):
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        return _from_file(path)
    _check_unfinished(path)
    if path.suffix in (keras_files.SUFFIX, ".safetensors") or os.sep in text:
        raise WeightsNotFound(f"There is no such model file or folder. Received: {text}")
    try:
        architecture(text)
    except ValueError as error:
        raise ValueError(f"{error}, and there is no such file or folder.") from None
    raise WeightsNotFound(
        f"There is no such file or folder; a Path is no name. Received: Path({text!r})",
        f"Pass the name as text: {text!r}.",
    )


def _check_unfinished(path: Path) -> None:
    partial = path.with_name(f"{path.name}.partial")
    for run in (path, partial):
        if run.suffix == ".partial" and (run / "run.json").is_file():
            raise WeightsNotFound(
                "This fine-tuning run is unfinished and has no model yet: resume it, "
                f"nf-zoo finetune ... --output {run.with_suffix('')} --resume. Received: {path}"
            )


def _from_hub(repository: HubRepository):
    path = repository.description()
    if path is not None:
        repository = repository.at_commit_of(path)
        if not is_keras_config(path):
            return _described(path, repository)
        for name in keras_files.PARTS:
            repository.fetch(name)
        return keras_files.open_keras(path.parent)
    name = repository.model_file()
    if name is None:
        raise WeightsNotFound(
            f"{repository} holds neither a {CONFIG_FILE} that describes its weights, nor exactly "
            "one .keras file or .npz of DeepMind's.",
            "For a lone weights file, pass the repository to a factory as pretrained=.",
        )
    return _from_file(repository.fetch(name))


def _from_folder(folder: Path):
    if (folder / RUN_MODEL_FILE).is_file():
        refuse_way_out(folder / RUN_MODEL_FILE)
        return keras_files.open_keras(folder / RUN_MODEL_FILE)
    path = folder / CONFIG_FILE
    if (folder / SAVED_MODEL_FILE).is_file() and not path.is_file():
        raise InvalidConfig(f"A SavedModel {_ONLY_PREDICTS}. Received: {folder}")
    if not path.is_file():
        _check_unfinished(folder)
        held = sorted(entry.name for entry in folder.iterdir())
        raise WeightsNotFound(
            f"The folder holds no model: neither the {RUN_MODEL_FILE} of finetune nor the "
            f"{CONFIG_FILE} of save_pretrained. "
            f"Received: {folder} with {first_few(held) or 'nothing'}.",
            "Pass a lone weights file to a factory as pretrained=.",
        )
    refuse_way_out(path)
    if is_keras_config(path):
        for name in keras_files.PARTS:
            refuse_way_out(folder / name)
        return keras_files.open_keras(folder)
    return _described(path, Local(folder))


def _from_file(path: Path):
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        raise InvalidConfig(f"An exported file {_ONLY_PREDICTS}. Received: {path}")
    if suffix not in MODEL_SUFFIXES or path.suffix == keras_files.SUFFIX.upper():
        raise WeightsNotFound(
            "A model file must be called *.keras, or *.npz if it is DeepMind's. A file of weights "
            "alone does not say which network it is for: load the folder that holds it with its "
            f"{CONFIG_FILE}. Received: {path}.",
            "Or pass it to a factory as pretrained=.",
        )
    if path.suffix == keras_files.SUFFIX:
        return keras_files.open_keras(path)
    return _of_deepmind(path)


def _described(path: Path, source: Source):
    config = check_described(path, source)
    model = config.build(path)
    fill(model, source)
    return model


def _of_deepmind(path: Path):
    with open_weights(path) as file:
        name, classes = recognize(file), classes_of(file)
    if name is None:
        raise WeightsMismatch(
            f"The tensors of {path} do not show which network they belong to.",
            "Name it: nf_zoo.create_model(name, variant='paper', pretrained=path).",
        )
    options = {} if classes is None else {"num_classes": classes}
    if (record := find_record(name, variant="paper")) is not None:
        options["preprocessing"] = record.preprocessing
    model = build_model(name, variant="paper", **options)
    fill(model, Local(path))
    return model
