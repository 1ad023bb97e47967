"""Grad-CAM: the parts of a picture that speak for a class (Selvaraju et al., ICCV 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from nf_zoo.functional import deep_graphs, operation_of


def grad_cam(model, images: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return how strongly every place of the last map supports a class.

    Each channel of the map counts with the mean gradient of the class's logit. Only the linear
    classifier follows global pooling, so this gradient is its weight: no gradient is taken, and
    the answer is the same on every backend.

    Args:
        model: an ImageClassifier with a classifier.
        images: (N, H, W, C) prepared pictures, as ``model.preprocess`` makes them.
        classes: N class indices.

    Returns:
        (N, h, w) float32, 0 to 1, of the last map's size; zeros where nothing supports the class.

    Raises:
        ValueError: if the model has no classifier.

    Example:
        >>> import numpy as np, nf_zoo
        >>> model = nf_zoo.create_model("wide_resnet16_1.cifar10")
        >>> pixels = model.preprocess(np.full((2, 32, 32, 3), 90, "uint8"))
        >>> grad_cam(model, pixels, [3, 5]).shape
        (2, 8, 8)
    """
    if not getattr(model, "num_classes", None):
        raise ValueError("Grad-CAM needs a model with a classifier. Received: num_classes=0")
    maps, _ = with_last_map(model).predict_on_batch(images)
    return heat_maps(model, maps, classes)


def with_last_map(model) -> keras.Model:
    """Return a network of the same weights that gives its last map and its output."""
    last = model.get_layer("pool").input
    while len(last.shape) < 4:  # a folded network may have a scale after the pooling
        last = operation_of(last).input
    with deep_graphs():
        return keras.Model(model.inputs, [last, model.output])


def heat_maps(model, maps, classes: Sequence[int]) -> np.ndarray:
    """Return what :func:`grad_cam` does, from last maps (N, h, w, channels)."""
    maps = np.asarray(keras.ops.convert_to_numpy(maps), "float32")
    weights = np.asarray(keras.ops.convert_to_numpy(model.head.kernel), "float32")[:, list(classes)]
    scale = getattr(model.get_layer("pool"), "scale", None)  # a folded network may have one there
    if scale is not None:
        weights *= np.reshape(keras.ops.convert_to_numpy(scale), (-1, 1))
    heat = np.maximum(np.einsum("nhwc,cn->nhw", maps, weights), 0)
    return heat / np.maximum(heat.max(axis=(1, 2), keepdims=True), 1e-12)
