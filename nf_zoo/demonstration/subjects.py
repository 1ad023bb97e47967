"""Models under test, and what each makes of a picture: classes, heat map and input."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any, NamedTuple

import keras
import numpy as np
from PIL import Image

from nf_zoo.hub.errors import printable
from nf_zoo.hub.opening import SavedModel, open_model
from nf_zoo.models.grad_cam import heat_maps, with_last_map
from nf_zoo.pictures.heat import heat_overlay
from nf_zoo.pictures.images import as_input, input_of, resize_and_crop
from nf_zoo.pictures.predictions import Prediction, decode_predictions

TOP = 5
LEAST_SIDE = 320
"""Longer side in pixels that a smaller input is enlarged to, by a whole factor."""


class Answer(NamedTuple):
    """Response of a model to a picture."""

    predictions: list[Prediction]
    heat: Image.Image | None  # the part that the network sees, with what supports the first class
    given: Image.Image | None  # pixels of the network's input, before normalization


class Subject:
    """A model on the page, under its ``title``."""

    def __init__(self, source: Any):
        named = isinstance(source, str | os.PathLike)
        self._model = open_model(source) if named else source
        self.title = printable(source) if named else source.name
        if not getattr(self._model, "num_classes", None):
            raise ValueError(
                f"The model must have a classifier. Received: {self.title}, which has none"
            )
        # An exported file has no layers to look into.
        is_network = isinstance(self._model, keras.Model)
        self._network = with_last_map(self._model) if is_network else None
        # The first call traces the network, which takes seconds.
        self.answer(np.zeros((64, 64, 3), "uint8"))

    def answer(self, picture: np.ndarray) -> Answer:
        """Classify a picture, uint8 (H, W, 3)."""
        model = self._model
        if isinstance(model, SavedModel):  # prepares its pictures itself
            scores = model.probabilities([picture])
            return Answer(decode_predictions(scores, TOP, model)[0], None, None)
        recipe, form = model.preprocessing, input_of(model)
        crop = resize_and_crop(picture, recipe)[None]
        images = as_input(crop, recipe, **form)
        heat = None
        if self._network is None:
            scores = model.predict_on_batch(images)
        else:
            maps, scores = self._network.predict_on_batch(images)
            heat = heat_maps(model, maps, np.argmax(scores, axis=-1))[0]
        factor = math.ceil(LEAST_SIDE / max(recipe.input_size))
        sides = tuple(factor * side for side in recipe.input_size)
        if heat is not None:
            large = dataclasses.replace(recipe, input_size=sides)
            whole = Image.fromarray(resize_and_crop(picture, large)).convert("RGBA")
            whole.alpha_composite(heat_overlay(heat, sides))
            heat = whole.convert("RGB")
        given = as_input(crop, recipe, channels=form["channels"], raw=True)[0]
        given = np.broadcast_to(np.rint(given), crop.shape[1:]).astype("uint8")
        given = Image.fromarray(given).resize(sides[::-1], Image.Resampling.NEAREST)
        scores = np.asarray(scores, "float32")
        return Answer(decode_predictions(scores, TOP, model)[0], heat, given)
