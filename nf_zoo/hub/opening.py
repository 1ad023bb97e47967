"""Opening of whatever predicts: a name, a hub repository, a file or a folder, exported or not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from nf_zoo.deploy.formats import SUFFIXES, Format
from nf_zoo.extras import require
from nf_zoo.pictures.images import preprocess
from nf_zoo.pictures.preprocessing import Preprocessing


class SavedModel:
    """Folder that ``export_saved_model`` wrote, as a classifier of pictures."""

    classifier_activation = "softmax"  # or another: it answers with probabilities

    def __init__(self, path: Path):
        self._tf = tf = require("tensorflow", "SavedModels")
        self._loaded = tf.saved_model.load(str(path))
        labels = path / "assets.extra" / "labels.txt"
        if "serving_bytes" not in self._loaded.signatures or not labels.is_file():
            raise ValueError(
                "The SavedModel must be a classifier that nf-zoo exported. "
                f"Received: {path} with signatures {sorted(self._loaded.signatures)}"
            )
        self.labels = tuple(labels.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
        self.num_classes = len(self.labels)

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return (N, classes) probabilities for uint8 pictures (H, W, 3) of any sizes."""
        serve = self._loaded.signatures["serving_uint8"]
        answers = [
            serve(images=self._tf.constant(np.stack(list(group))))["probabilities"].numpy()
            for _, group in groupby(pictures, key=np.shape)
        ]
        return np.concatenate(answers)

    def probabilities_of_files(self, files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
        """Return (N, classes) probabilities, and (N,) bool, False for files it cannot decode."""
        contents = self._tf.constant([file.read_bytes() for file in files])
        answer = self._loaded.signatures["serving_bytes"](image_bytes=contents)
        return answer["probabilities"].numpy(), answer["valid"].numpy()


class ExportedFile:
    """File that ``nf-zoo export`` wrote, as a classifier of pictures.

    It has what :func:`nf_zoo.preprocess` and :func:`nf_zoo.evaluate` ask of a model.
    """

    def __init__(self, path: Path, row: Format):
        self._run, record, self.input_shape = row.read(path)
        try:
            self.preprocessing = Preprocessing.from_dict(record["preprocessing"])
            self.labels = tuple(map(str, record["labels"]))
            self.include_preprocessing = record["input"] == "pixels"
            output = record["output"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"The {row.title} file must be a classifier that nf-zoo exported. "
                f"Received: {path}, whose metadata say otherwise ({error!r})"
            ) from error
        self.name, self.num_classes = path.name, len(self.labels)
        self.classifier_activation = None if output == "logits" else output

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        """Return (N, classes) logits or probabilities for prepared pictures."""
        return self._run(images)[0]


def open_model(source: str | os.PathLike):
    """Open the model that a MODEL argument names: one that can predict.

    It is an ImageClassifier, a FoldedModel, a :class:`SavedModel` or an :class:`ExportedFile`.
    """
    from nf_zoo.hub.pretrained import RUN_MODEL_FILE, SAVED_MODEL_FILE
    from nf_zoo.hub.sources import is_name

    path = Path(source).expanduser()
    if is_name(source):
        return load_model(source)
    if (path / SAVED_MODEL_FILE).is_file() and not (path / RUN_MODEL_FILE).is_file():
        return SavedModel(path)
    if path.suffix.lower() in SUFFIXES:
        return ExportedFile(path, SUFFIXES[path.suffix.lower()])
    return load_model(source)


def load_model(source: str | os.PathLike):
    """Return ``nf_zoo.load_pretrained(source)``; errors name what can take its place."""
    from nf_zoo.hub.pretrained import load_pretrained

    with offline_in_words(f"in place of {source}"):
        return load_pretrained(source)


@contextlib.contextmanager
def offline_in_words(place: str) -> Iterator[None]:
    """Add to an error of the hub the weights that need no network, and where to type them."""
    from nf_zoo.hub.client_errors import shipped_names
    from nf_zoo.hub.errors import WeightsOffline

    try:
        yield
    except WeightsOffline as error:
        without = f"Or type a name of weights that need no network, {place}: {shipped_names()}."
        raise WeightsOffline(f"{error.message} {without}") from error


def answers(model, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Return (N, classes) logits or probabilities for uint8 pictures (H, W, 3) of any sizes."""
    if isinstance(model, SavedModel):
        return model.probabilities(pictures)
    if not model.num_classes:
        raise ValueError("The model has no classifier: it gives features. Received: num_classes=0")
    return np.asarray(model.predict_on_batch(preprocess(pictures, model)), dtype=np.float32)
