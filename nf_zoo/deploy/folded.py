"""The folded model: a Keras model of plain layers with a record of its origin."""

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
    """Functional Keras model without standardization, gains and normalization, for inference.

    :func:`nf_zoo.fold` makes it. It predicts, evaluates, saves and loads like any Keras model, but
    it cannot be trained.

    Attributes:
        folded_from: ``{"name", "class", "nf_zoo_version"}`` of the original model; for an
            ImageClassifier also ``"architecture"``, ``"weights_tag"`` and ``"options"``, with
            which ``nf_zoo.create_model`` makes that network again.
        remaining: name of a layer -> the factor or term in it that no convolution could take, or a
            note that folding does not know the layer; empty if everything was folded.
        architecture, num_classes, classifier_activation, include_preprocessing, preprocessing,
            labels, weights_tag: those of the ImageClassifier; None for any other model.
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
        """Raise a RuntimeError: a folded model is for inference."""
        raise RuntimeError(
            "A folded model cannot be trained: its standardization and gains are gone. Train "
            f"the original {self.folded_from['class']} {self.folded_from['name']!r} "
            f"and fold it again. Received: {self.name!r}, which is folded"
        )

    train_on_batch = with_classifier = fit

    def options(self):
        """Raise a RuntimeError: no architecture record describes this graph."""
        raise RuntimeError(
            "The weights of a folded model fit no architecture of nf_zoo: save it as a file with "
            "model.save('name.keras'), or save the original model. "
            f"Received: {self.name!r}, which is folded"
        )

    def get_config(self) -> dict[str, Any]:
        record = {key: getattr(self, key) for key in _RECORD}
        if self.preprocessing is not None:
            record["preprocessing"] = self.preprocessing.to_dict()
        if self.labels is not None:
            record["labels"] = list(self.labels)
        for key in ("folded_from", "remaining"):
            record[key] = dict(record[key] or {})
        return {**super().get_config(), **record}
