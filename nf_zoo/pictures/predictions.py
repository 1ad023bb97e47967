"""The most probable classes of a network's outputs, by name."""

import functools
import importlib.resources
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Prediction(NamedTuple):
    """One class and how probable it is.

    Attributes:
        label: the WordNet id ("n02099601") for ImageNet and its subsets with such labels, the
            index of the class for labels of your own.
        name: the name to show.
        probability: in 0..1.
    """

    label: str | int
    name: str
    probability: float


@functools.cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """Return (WordNet id, name) of the 1000 ImageNet classes, in the order of the outputs.

    Names are the first WordNet lemma, with one more word where two classes would share it.
    """
    table = importlib.resources.files("nf_zoo").joinpath("data", "imagenet1k.tsv")
    lines = table.read_text(encoding="utf-8").splitlines()
    return tuple((wnid, name) for wnid, name in (line.split("\t") for line in lines))


def class_names(model: Any) -> list[str]:
    """Return the names of a model's classes, in the order of its outputs.

    They are the model's labels. Without labels they are ImageNet's names for 1000 classes, else
    class_0, class_1, ...
    """
    if model.labels is not None:
        return list(model.labels)
    if model.num_classes == 1000:
        return [name for _, name in imagenet_classes()]
    return [f"class_{index}" for index in range(model.num_classes)]


def decode_predictions(
    predictions: Any, top: int = 5, labels: Sequence[str] | Any | None = None
) -> list[list[Prediction]]:
    """Name the most probable classes. ``model.decode_predictions`` names a model's own.

    Args:
        predictions: array (N, C), or (C,) for one picture: logits or probabilities. Those of a
            model with a ``classifier_activation`` are probabilities. Others are taken as
            probabilities if no value is negative and every row sums to 1 within 1e-3 (1e-2 for
            16-bit floats); otherwise softmax is applied, or sigmoid if there is one class.
        top: how many classes to return per picture; at most C are.
        labels: C names in class order, or a model, whose :func:`class_names` are taken. Without
            either, 1000 classes are taken to be ImageNet's. Where all of them are WordNet ids of
            ImageNet's classes, as the class folders of its subsets are called, the names to show
            are ImageNet's.

    Returns:
        For each picture a list of :class:`Prediction` (label, name, probability), most probable
        first; equal ones in class order.

    Raises:
        ValueError: predictions hold NaN or infinity or are not of shape (N, C), ``top`` is below
            1, or there are no labels or not C of them.

    Example:
        >>> import nf_zoo
        >>> nf_zoo.decode_predictions([[2.0, 0.0]], top=1, labels=["cat", "dog"])[0][0].name
        'cat'
    """
    scores = np.asarray(predictions)
    scores = scores[None] if scores.ndim == 1 else scores
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ValueError(
            "predictions must have shape (pictures, classes) or (classes,). "
            f"Received: shape {np.shape(predictions)}"
        )
    if not isinstance(top, numbers.Integral) or top < 1:
        raise ValueError(f"top must be a whole number above 0. Received: {top!r}")
    classes = _classes(labels, scores.shape[1])
    probabilities = _probabilities(scores, getattr(labels, "classifier_activation", None))
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [
        [Prediction(*classes[index], float(row[index])) for index in indices]
        for row, indices in zip(probabilities, order, strict=True)
    ]


def of_logits(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits (N, classes): softmax, or sigmoid of a single class."""
    if logits.shape[1] == 1:
        return np.exp(-np.logaddexp(0, -logits))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _probabilities(scores: np.ndarray, activation: str | None) -> np.ndarray:
    tolerance = 1e-2 if scores.dtype.itemsize == 2 else 1e-3
    scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        row = int(np.argmin(np.isfinite(scores).all(axis=1)))
        raise ValueError(f"predictions must be finite. Received: NaN or infinity in row {row}")
    sums = scores.sum(axis=1)
    likely = scores.shape[1] > 1 and (scores >= 0).all() and (abs(sums - 1) <= tolerance).all()
    return scores if likely or activation is not None else of_logits(scores)


def _classes(labels: Any, count: int) -> Sequence[tuple[str | int, str]]:
    if getattr(labels, "num_classes", None):
        # Without labels and of 1000 classes it is ImageNet's, of which more is known than names.
        labels = labels.labels if labels.num_classes == 1000 else class_names(labels)
    names = getattr(labels, "labels", labels)
    if names is None:
        if count == 1000:
            return imagenet_classes()
        raise ValueError(
            "Only the 1000 ImageNet classes have built-in names: call model.decode_predictions("
            f"...), or pass the model or a list of {count} names as labels=. "
            f"Received: {count} classes and no labels"
        )
    if isinstance(names, str) or not isinstance(names, Sequence | np.ndarray):
        raise ValueError(f"labels must be a list of names or a model. Received: {labels!r}")
    if len(names) != count:
        raise ValueError(f"Expected {count} labels, one per class. Received: {len(names)}")
    known = dict(imagenet_classes())
    if all(name in known for name in map(str, names)):
        return [(str(name), known[str(name)]) for name in names]
    return [(index, str(name)) for index, name in enumerate(names)]
