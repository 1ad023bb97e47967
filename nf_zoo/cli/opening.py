"""Opening of a MODEL argument: a checkpoint's name, a hub repository, a file or a folder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from nf_zoo.backend import import_tensorflow
from nf_zoo.pictures.images import preprocess


class SavedModel:
    """Folder that ``export_saved_model`` wrote, as a classifier of pictures."""

    def __init__(self, path: Path):
        self._tf = tf = import_tensorflow("A SavedModel")
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


def open_model(source: str):
    """Open the ImageClassifier, FoldedModel or :class:`SavedModel` that a MODEL argument names.

    Raises:
        ValueError: if it is neither a name nor a path; suggests near names.
        nf_zoo.hub.errors.WeightsError: if it holds no model, or its weights cannot be loaded.
    """
    from nf_zoo.hub.pretrained import RUN_MODEL_FILE, SAVED_MODEL_FILE, load_pretrained

    path = Path(source).expanduser()
    if (path / SAVED_MODEL_FILE).is_file() and not (path / RUN_MODEL_FILE).is_file():
        return SavedModel(path)
    return load_pretrained(source)


def open_classifier(source: str):
    """Open a model that can be trained and exported, which a SavedModel cannot."""
    model = open_model(source)
    if isinstance(model, SavedModel):
        raise ValueError(
            "A SavedModel can only predict: take the .keras file or the folder it was made from. "
            f"Received: {source}"
        )
    return model


def answers(model, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Return (N, classes) logits or probabilities for uint8 pictures (H, W, 3) of any sizes.

    Raises:
        ValueError: if the model has no classifier.
    """
    if isinstance(model, SavedModel):
        return model.probabilities(pictures)
    if not model.num_classes:
        raise ValueError("The model has no classifier: it gives features. Received: num_classes=0")
    return np.asarray(model.predict_on_batch(preprocess(pictures, model)), dtype=np.float32)
