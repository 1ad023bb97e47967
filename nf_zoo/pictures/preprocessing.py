"""How pictures are prepared, as a record; what the classes of predictions are called."""

from __future__ import annotations

import functools
import importlib.resources
import math
import numbers
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos")


@dataclass(frozen=True)
class Preprocessing:
    """How pictures become the input of a network.

    A picture is resized to about ``input_size / crop_fraction``, the center of ``input_size`` is
    cut out, and pixels become ``(pixel / 255 - mean) / std``.

    Args:
        input_size: (height, width) in pixels; one integer for a square.
        crop_fraction: the part of the resized picture that the crop keeps, in (0, 1].
        crop_mode: what "resized" means.
            "center": the aspect ratio is kept and the picture covers the target, so that the
            longer side loses its ends. "squash": both sides are forced to the target. "border":
            the aspect ratio is kept and the picture fits inside; the rest has the mean color.
        interpolation: "bicubic", "bilinear", "nearest" or "lanczos", as Pillow defines them
            (antialiased when shrinking, except nearest).
        mean: per RGB channel, on the scale 0..1.
        std: per RGB channel, on the scale 0..1.

    Raises:
        ValueError: a field is out of range.

    Example:
        >>> Preprocessing(input_size=288, crop_fraction=0.95).scale_size
        (303, 303)
    """

    input_size: tuple[int, int] = (224, 224)
    crop_fraction: float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self):
        if not _is_real(self.crop_fraction) or not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction must be in (0, 1]. Received: {self.crop_fraction!r}")
        for field, choices in (("crop_mode", CROP_MODES), ("interpolation", INTERPOLATIONS)):
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"{field} must be one of {', '.join(choices)}. "
                    f"Received: {getattr(self, field)!r}"
                )
        clean = {
            "input_size": _checked_size(self.input_size),
            "crop_fraction": float(self.crop_fraction),
            "mean": _checked_channels("mean", self.mean),
            "std": _checked_channels("std", self.std),
        }
        if min(clean["std"]) == 0:
            raise ValueError(f"std must be above 0. Received: {self.std!r}")
        for field, value in clean.items():
            object.__setattr__(self, field, value)

    @property
    def scale_size(self) -> tuple[int, int]:
        """(height, width) that pictures are resized towards before the crop."""
        height, width = self.input_size
        return math.floor(height / self.crop_fraction), math.floor(width / self.crop_fraction)

    @property
    def border_color(self) -> tuple[int, int, int]:
        """The mean color as pixel values: what "border" pads with."""
        red, green, blue = (round(255 * value) for value in self.mean)
        return red, green, blue

    def fitted_to(self, input_shape: Sequence[int | None]) -> Preprocessing:
        """The same, with the sides that a network of that (height, width, channels) is fixed to."""
        sides = zip(input_shape[:2], self.input_size, strict=True)
        return replace(self, input_size=tuple(fixed or own for fixed, own in sides))

    def averaged(self) -> Preprocessing:
        """The same, with the mean of ``mean`` and of ``std`` for every channel."""
        return replace(self, mean=(sum(self.mean) / 3,) * 3, std=(sum(self.std) / 3,) * 3)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able values (lists for tuples)."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Preprocessing:
        """The reverse of :meth:`to_dict`; absent fields take their default.

        Raises:
            ValueError: there is an unknown field, or a value is out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ValueError(f"Preprocessing has the fields {known}. Received: {unknown}")
        return cls(**settings)


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _checked_size(size: Any) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, numbers.Integral) else size
    if (
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(isinstance(n, numbers.Integral) and not isinstance(n, bool) for n in pair)
        and min(pair) > 0
    ):
        return int(pair[0]), int(pair[1])
    raise ValueError(
        "input_size must be (height, width) in whole pixels above 0, without the channels. "
        f"Received: {size!r}"
    )


def _checked_channels(field: str, values: Any) -> tuple[float, float, float]:
    if (
        isinstance(values, list | tuple)
        and len(values) == 3
        and all(_is_real(value) and 0 <= value <= 1 for value in values)
    ):
        return float(values[0]), float(values[1]), float(values[2])
    raise ValueError(
        f"{field} must be three numbers (RGB) on the scale 0..1; divide by 255 if they count gray "
        f"levels. Received: {values!r}"
    )


class Prediction(NamedTuple):
    """One class and how probable it is.

    Attributes:
        label: the WordNet id ("n02099601") for ImageNet and its subsets with such labels, the
            index of the class for own labels.
        name: the name to show.
        probability: in 0..1.
    """

    label: str | int
    name: str
    probability: float


@functools.cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """(WordNet id, name) of the 1000 ImageNet classes, in the order of the networks' outputs.

    Names are the first WordNet lemma, with a word more where two classes would share it.

    Example:
        >>> imagenet_classes()[207]
        ('n02099601', 'golden retriever')
    """
    table = importlib.resources.files("nf_zoo").joinpath("data", "imagenet1k.tsv")
    lines = table.read_text(encoding="utf-8").splitlines()
    return tuple((wnid, name) for wnid, name in (line.split("\t") for line in lines))


def class_names(model: Any) -> list[str]:
    """What the classes of a model are called, in the order of its outputs.

    Its labels; ImageNet's names for 1000 classes without any; else class_0, class_1, ...

    Args:
        model: a network of the zoo.
    """
    if model.labels is not None:
        return list(model.labels)
    if model.num_classes == 1000:
        return [name for _, name in imagenet_classes()]
    return [f"class_{index}" for index in range(model.num_classes)]


def decode_predictions(
    predictions: Any, top: int = 5, labels: Sequence[str] | Any | None = None
) -> list[list[Prediction]]:
    """Names the most probable classes. ``model.decode_predictions`` names a model's own.

    Args:
        predictions: array (N, C), or (C,) for one picture: logits or probabilities. They are
            taken as probabilities if no value is negative and every row sums to 1 within 1e-3
            (1e-2 for 16-bit floats); otherwise softmax is applied.
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
        >>> decode_predictions([[2.0, 0.0]], top=1, labels=["cat", "dog"])[0][0].name
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
    probabilities = _probabilities(scores)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [
        [Prediction(*classes[index], float(row[index])) for index in indices]
        for row, indices in zip(probabilities, order, strict=True)
    ]


def _probabilities(scores: np.ndarray) -> np.ndarray:
    tolerance = 1e-2 if scores.dtype.itemsize == 2 else 1e-3
    scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        row = int(np.argmin(np.isfinite(scores).all(axis=1)))
        raise ValueError(f"predictions must be finite. Received: NaN or infinity in row {row}")
    if (scores >= 0).all() and (abs(scores.sum(axis=1) - 1) <= tolerance).all():
        return scores
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _classes(labels: Any, count: int) -> Sequence[tuple[str | int, str]]:
    if hasattr(labels, "num_classes"):
        # Without labels and of 1000 classes it is ImageNet's, of which more is known than names.
        labels = labels.labels if labels.num_classes == 1000 else class_names(labels)
    names = getattr(labels, "labels", labels)
    if names is None:
        if count == 1000:
            return imagenet_classes()
        raise ValueError(
            "Only the 1000 ImageNet classes have built-in names: call model.decode_predictions("
            f"...), or pass labels=, the model or a list of {count} names. "
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
