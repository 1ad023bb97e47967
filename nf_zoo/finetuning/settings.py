"""Every number of a run: what the user chose, and what follows from the pictures."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A run, fully decided. Two runs of equal settings on equal pictures are the same run.

    Attributes:
        epochs: passes over the training pictures, the head-only ones included.
        warmup_epochs: how many of them train the classifier alone.
        batch_size: pictures in a batch.
        image_size: (height, width) of the network's input.
        learning_rate: peak of the schedule.
        weight_decay: decoupled, of kernels only.
        label_smoothing: share of the target spread over all classes.
        flip, randaugment, mixup, cutmix: see ``finetune``.
        class_weight: weight of each class in the loss, or None.
        early_stopping: epochs without a better validation to wait for, or None.
        ema: momentum of the moving average of the weights, or None.
        precision: Keras dtype policy during training, or None for the model's own.
        seed: decides the split, the order of pictures, their variations and the new classifier.
    """

    epochs: int
    warmup_epochs: int
    batch_size: int
    image_size: tuple[int, int]
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    flip: bool
    randaugment: bool
    mixup: float
    cutmix: float
    class_weight: tuple[float, ...] | None
    early_stopping: int | None
    ema: float | None
    precision: str | None
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON gives it back: tuples are lists."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def decide(
    *,
    classes: np.ndarray,
    labels: Sequence[str],
    pretrained: bool,
    input_size: Sequence[int],
    epochs: int | None,
    warmup_epochs: int | None,
    batch_size: int | None,
    image_size: int | Sequence[int] | None,
    learning_rate: float | None,
    class_weight: str | Mapping | None,
    ema: bool | float | None,
    **others,
) -> Settings:
    """Fill in what the user left open.

    Few pictures get small batches and many epochs, many pictures large batches and few epochs, so
    that a run takes between some hundred and some thousand steps:

    ========  =====  ======  =====
    pictures  batch  epochs  steps
    ========  =====  ======  =====
    100       8      30      360
    1 000     16     30      1 860
    10 000    64     13      2 028
    100 000   64     5       7 810
    ========  =====  ======  =====

    Args:
        classes: (N,) class index of each training picture.
        labels: class names.
        pretrained: whether the body holds trained weights.
        input_size: (height, width) that the model was evaluated at.
        epochs, warmup_epochs, batch_size, image_size, learning_rate, class_weight, ema, **others:
            as in ``finetune``.

    Returns:
        The :class:`Settings`.

    Raises:
        ValueError: on a value out of range; says which.
    """
    size = _image_size(image_size if image_size is not None else input_size)
    batch_size = _positive("batch_size", batch_size) or default_batch_size(len(classes), size)
    batch_size = min(batch_size, len(classes))
    steps = len(classes) // batch_size
    epochs = _positive("epochs", epochs) or default_epochs(steps)
    if warmup_epochs is None:
        warmup_epochs = min(math.ceil(0.1 * epochs), epochs - 1) if pretrained else 0
    if not 0 <= warmup_epochs <= epochs:
        raise ValueError(
            f"warmup_epochs must be between 0 and epochs={epochs}. Received: {warmup_epochs}"
        )
    if learning_rate is None:
        learning_rate = default_learning_rate(batch_size, pretrained)
    settings = Settings(
        epochs=epochs,
        warmup_epochs=warmup_epochs,
        batch_size=batch_size,
        image_size=size,
        learning_rate=float(learning_rate),
        class_weight=resolve_class_weight(class_weight, classes, labels),
        ema=_ema_momentum(ema, steps * (epochs - warmup_epochs)),
        **others,
    )
    _check(settings)
    return settings


def default_batch_size(pictures: int, image_size: tuple[int, int]) -> int:
    """A power of two, about a fiftieth of the pictures, from 8 to 64 (128 for small inputs)."""
    most = 128 if max(image_size) <= 64 else 64
    return int(min(max(2 ** round(math.log2(max(pictures, 1) / 50)), 8), most))


def default_epochs(steps_per_epoch: int) -> int:
    """As many as give 2000 steps, from 5 to 30."""
    return min(max(round(2000 / steps_per_epoch), 5), 30)


def default_learning_rate(batch_size: int, pretrained: bool) -> float:
    """0.05 for a batch of 64, in proportion to the batch, from 0.02 to 0.1; twice from scratch.

    Together with bounded gradients this is safe for normalizer-free networks; much lower rates
    leave a short run on few pictures unfinished.
    """
    rate = min(max(0.05 * batch_size / 64, 0.02), 0.1)
    return rate if pretrained else 2 * rate


def resolve_class_weight(
    class_weight: str | Mapping | None, classes: np.ndarray, labels: Sequence[str]
) -> tuple[float, ...] | None:
    """None, ``"balanced"`` or weights by label or index -> one weight for each class.

    Balanced weights are N / (number of classes * pictures of the class).

    Example:
        >>> resolve_class_weight("balanced", np.array([0, 0, 0, 1]), ["a", "b"])
        (0.6666666666666666, 2.0)
    """
    if class_weight is None:
        return None
    if isinstance(class_weight, str) and class_weight == "balanced":
        counts = np.bincount(classes, minlength=len(labels))
        return tuple((len(classes) / (len(labels) * counts)).tolist())
    if not isinstance(class_weight, Mapping):
        raise ValueError(
            'class_weight must be None, "balanced" or a dict of weights by label or index. '
            f"Received: {class_weight!r}"
        )
    weights = [1.0] * len(labels)
    for key, weight in class_weight.items():
        index = labels.index(key) if key in labels else key
        if not isinstance(index, int) or not 0 <= index < len(labels) or not weight >= 0:
            raise ValueError(
                "class_weight must give a weight of 0 or more to a label or to an index below "
                f"{len(labels)}. Received: {key!r}: {weight!r}"
            )
        weights[index] = float(weight)
    return tuple(weights)


def differences(before: Mapping, now: Mapping) -> list[str]:
    """``"epochs: 5 then, 6 now"`` for each entry in which two dicts differ.

    Example:
        >>> differences({"epochs": 5}, {"epochs": 6})
        ['epochs: 5 then, 6 now']
    """
    found = []
    for key in sorted({*before, *now}):
        if isinstance(before.get(key), Mapping) and isinstance(now.get(key), Mapping):
            found += [f"{key} {line}" for line in differences(before[key], now[key])]
        elif before.get(key) != now.get(key):
            found.append(f"{key}: {_short(before.get(key))} then, {_short(now.get(key))} now")
    return found


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _image_size(size) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and side >= 8 for side in pair):
        raise ValueError(
            f"image_size must be an integer or (height, width) of 8 or more. Received: {size!r}"
        )
    return pair


def _positive(name: str, value: int | None) -> int | None:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be a positive integer or None. Received: {value!r}")
    return value


def _ema_momentum(ema: bool | float | None, steps: int) -> float | None:
    if ema is None:
        ema = steps >= 500
    if isinstance(ema, bool):
        return 1 - 1 / max(steps / 20, 10) if ema and steps else None
    if not 0 < ema < 1:
        raise ValueError(f"ema must be None, a bool or a momentum in (0, 1). Received: {ema!r}")
    return float(ema)


def _check(settings: Settings) -> None:
    limits = {
        "learning_rate": (0, math.inf, "positive"),
        "weight_decay": (-1e-30, math.inf, "0 or more"),
        "label_smoothing": (-1e-30, 1, "in [0, 1)"),
        "mixup": (-1e-30, math.inf, "0 (off) or more"),
        "cutmix": (-1e-30, math.inf, "0 (off) or more"),
    }
    for name, (low, high, words) in limits.items():
        value = getattr(settings, name)
        if not low < value < high:
            raise ValueError(f"{name} must be {words}. Received: {value!r}")
    _positive("early_stopping", settings.early_stopping)
    if settings.precision not in (None, *PRECISIONS):
        known = ", ".join(map(repr, PRECISIONS))
        raise ValueError(f"precision must be None or {known}. Received: {settings.precision!r}")
