"""MODEL, as the commands take it: a checkpoint's name, a hub repository, a file or a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from nf_zoo.backend import import_tensorflow
from nf_zoo.preprocessing import preprocess

KERAS_FILE = "model.keras"
MODEL_SUFFIXES = (".keras", ".npz", ".npy")
SAVED_MODEL_FILE = "saved_model.pb"


class SavedModel:
    """A folder that ``export_saved_model`` wrote, as far as pictures and classes go.

    Attributes:
        labels: class names.
    """

    def __init__(self, path: Path):
        self._tf = tf = import_tensorflow("A SavedModel")
        self._loaded = tf.saved_model.load(str(path))
        labels = path / "assets.extra" / "labels.txt"
        if "serving_uint8" not in self._loaded.signatures or not labels.is_file():
            raise ValueError(
                "This SavedModel is no classifier that nf-zoo exported. "
                f"Received: {path} with signatures {sorted(self._loaded.signatures)}"
            )
        self.labels = tuple(labels.read_text(encoding="utf-8").removesuffix("\n").split("\n"))

    @property
    def num_classes(self) -> int:
        """How many classes it tells apart."""
        return len(self.labels)

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(N, classes) for uint8 pictures (H, W, 3) of any sizes."""
        serve = self._loaded.signatures["serving_uint8"]
        answers = [
            serve(images=self._tf.constant(np.stack(list(group))))["probabilities"].numpy()
            for _, group in groupby(pictures, key=np.shape)
        ]
        return np.concatenate(answers)


def open_model(source: str):
    """The model that a MODEL argument names.

    Args:
        source: a checkpoint ("nf_resnet50.ra2_in1k", "nf_resnet50"), "hf://owner/name", the path
            of a .keras file, or of a folder that ``finetune``, ``save_pretrained`` or
            ``export_saved_model`` wrote.

    Returns:
        An ``ImageClassifier``, a ``FoldedModel`` or a :class:`SavedModel`.

    Raises:
        ValueError: if it is none of these; says what it is or what is near.
        FileNotFoundError: if a path leads nowhere.
        nf_zoo.hub.errors.WeightsError: if weights cannot be had.
    """
    from nf_zoo.hub.factory import create_model
    from nf_zoo.hub.pretrained import load_pretrained
    from nf_zoo.models.registry import architectures

    if source.startswith("hf://"):
        return load_pretrained(source)
    path = Path(source).expanduser()
    if source.partition(".")[0] in architectures() and path.suffix != ".keras":
        return create_model(source, pretrained=True)
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return _open_file(path)
    _check_unfinished(path)
    if path.suffix in (".keras", ".safetensors") or os.sep in source:
        raise FileNotFoundError(f"There is no such model file or folder. Received: {source}")
    try:
        return create_model(source, pretrained=True)
    except ValueError as error:
        raise ValueError(f"{error} Nor is there a file or folder of that name.") from None


def open_classifier(source: str):
    """The same, but only what can be trained and exported.

    Raises:
        ValueError: for a SavedModel, and as :func:`open_model`.
    """
    model = open_model(source)
    if isinstance(model, SavedModel):
        raise ValueError(
            "A SavedModel can only predict: take the .keras file or the folder it was made from. "
            f"Received: {source}"
        )
    return model


def answers(model, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """(N, classes) logits or probabilities of either kind of model, for ``decode_predictions``.

    Args:
        model: what :func:`open_model` returned.
        pictures: uint8 (H, W, 3), of any sizes.

    Raises:
        ValueError: if the model has no classifier.
    """
    if isinstance(model, SavedModel):
        return model.probabilities(pictures)
    if not model.num_classes:
        raise ValueError("The model has no classifier: it gives features. Received: num_classes=0")
    return np.asarray(model.predict_on_batch(preprocess(pictures, model)), dtype=np.float32)


def _open_folder(path: Path):
    from nf_zoo.hub.pretrained import load_pretrained

    if (path / KERAS_FILE).is_file():
        return _open_file(path / KERAS_FILE)
    if (path / SAVED_MODEL_FILE).is_file():
        return SavedModel(path)
    if (path / "config.json").is_file():
        return load_pretrained(path)
    _check_unfinished(path)
    held = sorted(entry.name for entry in path.iterdir())
    raise ValueError(
        f"The folder holds no model: no {KERAS_FILE}, {SAVED_MODEL_FILE} or config.json. "
        f"Received: {path} with {', '.join(held[:8]) or 'nothing'}"
    )


def _open_file(path: Path):
    from nf_zoo.deploy.folded import open_folded
    from nf_zoo.hub.pretrained import load_pretrained

    if path.suffix not in MODEL_SUFFIXES:
        raise ValueError(
            "A model file must be called *.keras, or *.npz if it is DeepMind's. A file of weights "
            "alone does not say what network it is for: give the folder that holds it with its "
            f"config.json. Received: {path}"
        )
    return open_folded(path) or load_pretrained(path)


def _check_unfinished(path: Path) -> None:
    partial = path.with_name(f"{path.name}.partial")
    for run in (path, partial):
        if run.suffix == ".partial" and (run / "run.json").is_file():
            raise ValueError(
                "This fine-tuning run is unfinished and has no model yet: go on with it, "
                f"nf-zoo finetune ... --output {run.with_suffix('')} --resume. Received: {path}"
            )
