"""The folded model: a Keras model of plain layers that knows what it was folded from."""

from __future__ import annotations

from typing import Any

import keras

from nf_zoo.functional import deep_graphs
from nf_zoo.models.picture_model import PictureModel
from nf_zoo.pictures.preprocessing import Preprocessing

OF_CLASSIFIER = (
    *("architecture", "num_classes", "classifier_activation", "include_preprocessing"),
    *("preprocessing", "labels", "weights_tag"),
)
_RECORD = (*OF_CLASSIFIER, "folded_from", "remaining")


@keras.saving.register_keras_serializable("nf_zoo")
class FoldedModel(PictureModel):
    """A functional Keras model without standardization, gains and normalization, for inference.

    Made by :func:`nf_zoo.fold`. It predicts, evaluates and is saved and loaded as any Keras model;
    it cannot be trained.

    Attributes:
        folded_from: ``{"name", "class", "nf_zoo_version"}`` of the model it was, and of an
            ImageClassifier ``"architecture"``, ``"weights_tag"`` and ``"options"``, with which
            ``nf_zoo.create_model`` makes that network again.
        remaining: name of a layer -> the factor or term in it that no convolution could take, or
            that folding did not know it; empty where everything was folded.
        architecture, num_classes, classifier_activation, include_preprocessing, preprocessing,
            labels, weights_tag: those of the ImageClassifier; None of any other model.
    """

    def __init__(self, inputs, outputs, name=None, **kwargs):
        record = {key: kwargs.pop(key, None) for key in _RECORD}
        kwargs.pop("trainable", None)
        with deep_graphs():
            super().__init__(inputs, outputs, name=name, **kwargs)
        if isinstance(record["preprocessing"], dict):
            record["preprocessing"] = Preprocessing.from_dict(record["preprocessing"])
        if record["labels"] is not None:
            record["labels"] = tuple(record["labels"])
        for key, value in record.items():
            setattr(self, key, value)
        self.trainable = False

    def fit(self, *args, **kwargs):
        """Raises RuntimeError: a folded model is for inference."""
        raise RuntimeError(
            "A folded model cannot be trained: its standardization and gains are gone. Train "
            f"the {self.folded_from['class']} {self.folded_from['name']!r} it was folded from, "
            f"and fold again. Received: {self.name!r}, folded"
        )

    train_on_batch = with_classifier = fit

    def options(self):
        """Raises RuntimeError: no architecture record makes this graph."""
        raise RuntimeError(
            "The weights of a folded model fit no architecture of nf_zoo: save it as a file with "
            "model.save('name.keras'), or save the model it was folded from. "
            f"Received: {self.name!r}, folded"
        )

    def get_config(self) -> dict[str, Any]:
        record = {key: getattr(self, key) for key in _RECORD}
        if self.preprocessing is not None:
            record["preprocessing"] = self.preprocessing.to_dict()
        if self.labels is not None:
            record["labels"] = list(self.labels)
        for key in ("folded_from", "remaining"):
            record[key] = dict(record[key])
        return {**super().get_config(), **record}
