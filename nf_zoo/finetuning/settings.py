"""Options of ``finetune``, ``evaluate`` and ``quickstart``, and how open ones are filled in."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import math
import numbers
import operator
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nf_zoo.options import Kind, Options, choice, number, option, picture_size, switch, text, whole
from nf_zoo.pictures import augmentation

if TYPE_CHECKING:
    import numpy as np

_MOMENTUM = dataclasses.replace(
    switch(),
    words="None, a bool or a momentum in (0, 1)",
    accepts=lambda x: isinstance(x, bool) or 0 < x < 1,
    convert=lambda x: x if isinstance(x, bool) else float(x),
)


def _parts(text: str) -> int | str:
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number or auto, not {text!r}")
    return text if text == "auto" else int(text)


_ACCUMULATE = Kind(
    'a positive integer or "auto"',
    {"type": _parts, "metavar": "N|auto"},
    lambda x: x == "auto" or x >= 1,
    lambda x: x if x == "auto" else operator.index(x),
)


def _is_pattern(text) -> bool:
    try:
        return isinstance(text, str) and bool(re.compile(text))
    except re.error:
        return False


def _patterns(given) -> list:
    several = [given] if isinstance(given, str | re.Pattern) else given
    return [getattr(one, "pattern", one) for one in several]


_PATTERNS = Kind(
    "a name, a regular expression or several",
    {"nargs": "+", "metavar": "NAME"},
    lambda x: all(map(_is_pattern, _patterns(x))),
    lambda x: tuple(_patterns(x)),
)


@dataclasses.dataclass(frozen=True)
class _Schedule(Options):
    """First fields of :class:`Settings`; those of the augmentation table come next."""

    labels: Sequence[str] | None = option(
        None,
        "class names of a data set; by default its own, or the numbers. Folders name their own",
        Kind("None or a list of names", accepts=lambda x: not isinstance(x, str)),
        saved=False,
    )
    validation_data: Any = option(
        None,
        "class folders to validate on; by default val/ of the data, or else a part of each class, "
        "held out by file name and seed. In Python also a pair (pictures, classes) or a "
        "``tf.data.Dataset``",
        text("DIR"),
        saved=False,
    )
    validation_fraction: float = option(
        0.2,
        "share of each class to hold out",
        number("between 0 and 1", lambda x: 0 < x < 1),
        saved=False,
    )
    output: str | os.PathLike | None = option(
        None,
        "folder to write. It appears when the run is done; until then the run is kept in "
        '``output + ".partial"``. None writes nothing',
        text("DIR"),
        saved=False,
    )
    epochs: int | None = option(
        None, "passes over the pictures, warm-up included; 5 to 30 by default", whole(1)
    )
    batch_size: int | None = option(
        None,
        "pictures of a training step; 8 to 64 by default (up to 128 for inputs of up to 64 pixels)",
        whole(1),
    )
    accumulate: int | str = option(
        1,
        "number of micro-batches that a step cuts its batch into, to compute them one after the "
        'other in less memory. Without batch normalization the step stays the same; ``"auto"`` '
        "halves the micro-batches when the memory runs out",
        _ACCUMULATE,
    )
    image_size: int | Sequence[int] | None = option(
        None,
        "input size in pixels, or (height, width); the model's by default",
        picture_size(8),
    )
    optimizer: str = option(
        "sgd", "SGD with Nesterov momentum 0.9, or AdamW", choice("sgd", "adamw")
    )
    learning_rate: float | None = option(
        None,
        "peak of the schedule; by default 0.05 for each 64 pictures of a batch, from 0.02 to 0.1",
        number("positive", lambda x: 0 < x < math.inf),
    )
    weight_decay: float | None = option(
        None,
        "decoupled decay of kernels only; 5e-4 by default, 0.05 for AdamW",
        number("0 or more", lambda x: 0 <= x < math.inf),
    )
    layer_decay: float = option(
        1.0,
        "learning rate of a block, as a multiple of the next one's: 0.75 changes early layers "
        "little, 1 trains all alike",
        number("in (0, 1]", lambda x: 0 < x <= 1),
    )
    agc: float | None = option(
        None,
        "largest ratio (lambda) of adaptive gradient clipping, 0.01 to 0.1, for batches of 32 or "
        "more; by default the norm of the whole gradient is bounded by 1 instead",
        number("positive", lambda x: 0 < x < math.inf),
    )
    freeze: str | Sequence[str] | None = option(
        None,
        'parts to freeze: ``"stem"``, ``"stage1"``, a regular expression for the names '
        'of variables, or ``"batch_norm"`` for scales and statistics. What the model itself '
        "freezes stays frozen too",
        _PATTERNS,
    )
    label_smoothing: float = option(
        0.1,
        "share of the target spread over all classes",
        number("in [0, 1)", lambda x: 0 <= x < 1),
    )
    warmup_epochs: int | None = option(
        None,
        "number of first epochs that train the classifier alone; about a tenth by default, none if "
        "the model has no pretrained weights. If that is all epochs, the result is a linear probe",
        whole(0, "None, 0 or more"),
    )
    randaugment: bool = option(False, "random changes of color and shape, two for each picture")


@dataclasses.dataclass(frozen=True)
class Settings(augmentation.FineTuning, _Schedule):
    """Options of ``finetune``, each described by one field.

    The argument of ``nf_zoo.finetune``, its text and check, the flag of ``nf-zoo finetune`` and
    the entry in report.json follow from the field. A field is saved, and must be the same when a
    run is resumed, unless it says ``saved=False``.
    """

    class_weight: str | Mapping | None = option(
        None,
        'weights of the classes in the loss: ``"balanced"`` for rare ones. In Python also a '
        "dict of weights by label or index",
        Kind(flag={"choices": ["balanced"]}),
    )
    early_stopping: int | None = option(
        None,
        "stop after this many epochs without a better validation accuracy, and return the best "
        "epoch's weights. Epochs of the classifier alone count only if no others follow. "
        "None trains to the end",
        whole(1, metavar="EPOCHS"),
    )
    ema: bool | float | None = option(
        None,
        "validate and return a moving average of the weights, by default if 500 steps or more "
        "train the whole network. True, False or, in Python, its momentum",
        _MOMENTUM,
    )
    precision: str | None = option(
        None,
        "dtype policy of the training; the model's own by default. If given, the result is float32",
        choice(None, "float32", "mixed_bfloat16", "mixed_float16"),
    )
    rematerialize: bool = option(
        False, "recompute the inside of the blocks in the backward pass: less memory, more time"
    )
    seed: int = option(
        0, "seed of the split, the order, the variations and the new classifier", whole()
    )
    strict: bool = option(
        False,
        "fail on a file that cannot be read, instead of naming it in a warning and skipping it",
        saved=False,
    )
    resume: bool = option(
        False,
        "go on where an interrupted run with the same options stopped, to the same outcome as "
        "without a break. A finished run is loaded; if no run is there, a new one starts",
        saved=False,
    )
    finish: bool = option(
        False,
        "stop training: evaluate and write the last complete epoch of an interrupted run with "
        "the same options",
        saved=False,
    )
    overwrite: bool = option(False, "replace an earlier run", saved=False)
    verbose: int = option(1, "0 silent, 1 progress bars, 2 a line for each epoch", saved=False)

    def augmentation(self) -> augmentation.Settings:
        """Return the random variations of pictures after the crop."""
        table = {field.name for field in dataclasses.fields(augmentation.FineTuning)}
        layers = {"randaugment_layers": 2 * self.randaugment, "randaugment_magnitude": 9}
        own = {name: getattr(self, name) for name in table}
        return augmentation.Settings(crop="none", **layers, **own)

    def to_dict(self) -> dict[str, Any]:
        """Return the saved fields as JSON gives them back, with lists for tuples."""
        saved = [f.name for f in dataclasses.fields(self) if f.metadata.get("saved", True)]
        return json.loads(json.dumps({name: getattr(self, name) for name in saved}))


@dataclasses.dataclass(frozen=True)
class EvaluationSettings(Options):
    """Options of ``evaluate``."""

    batch_size: int = option(64, "pictures at a time", whole(1, "1 or more"))
    strict: bool = option(
        False,
        "fail on a file that cannot be read. Otherwise a warning names it, and it is listed under "
        '``"skipped"``',
    )


@dataclasses.dataclass(frozen=True)
class QuickstartSettings(Options):
    """Options of ``quickstart``, from which its arguments and flags follow."""

    pretrained: bool | str | os.PathLike = option(
        "cifar10", "weights of wide_resnet16_2 to start from, as ``create_model`` takes them"
    )
    epochs: int = option(
        6,
        "passes over the training pictures, for each network. All other settings are the "
        "defaults of ``finetune``, which gives an untrained network a higher learning rate and no "
        "epochs of the classifier alone",
        whole(1),
    )
    training_pictures: int = option(
        30,
        "pictures of each digit to learn from: the first ones in the data set; other people "
        "wrote the last ones",
        whole(1),
        flag="pictures",
    )
    validation_pictures: int = option(
        10, "pictures of each digit to validate on: the next ones in the data set", whole(1)
    )
    test_pictures: int | None = option(
        None, "pictures of each digit to compare the networks on; the rest by default", whole(1)
    )
    seed: int = option(
        0, "decides the order of the pictures, their variations and the initial weights", whole()
    )
    overwrite: bool = option(False, "replace an earlier quickstart in the output folder")


def decide(
    settings: Settings,
    *,
    classes: np.ndarray,
    labels: Sequence[str],
    pretrained: bool,
    input_size: Sequence[int],
) -> Settings:
    """Fill in the options that the user left open.

    Then ``class_weight`` is a weight for each class, or None, and ``ema`` the momentum, or None.
    Few pictures get small batches and many epochs, many pictures large batches and few epochs, so
    that a run takes between a few hundred and a few thousand steps:

    ========  =====  ======  =====
    pictures  batch  epochs  steps
    ========  =====  ======  =====
    100       8      30      360
    1 000     16     30      1 860
    10 000    64     13      2 028
    100 000   64     5       7 810
    ========  =====  ======  =====
    """
    size = settings.image_size or tuple(input_size)
    batch_size = _batch_size(settings, len(classes), size)
    steps = len(classes) // batch_size
    epochs, warmup = settings.epochs or default_epochs(steps), settings.warmup_epochs
    if warmup is None:
        warmup = min(math.ceil(0.1 * epochs), epochs - 1) if pretrained else 0
    if warmup > epochs:
        raise ValueError(f"warmup_epochs must be between 0 and epochs={epochs}. Received: {warmup}")
    if settings.ema and warmup == epochs:
        warnings.warn(
            "ema averages the epochs of the whole network, and warmup_epochs leaves none: no "
            f"average is returned. Received: ema={settings.ema}, warmup_epochs={warmup}",
            stacklevel=2,
        )
    usual = 0.05 if settings.optimizer == "adamw" else 5e-4
    return dataclasses.replace(
        settings,
        epochs=epochs,
        warmup_epochs=warmup,
        batch_size=batch_size,
        image_size=size,
        learning_rate=settings.learning_rate
        or default_learning_rate(batch_size, pretrained, settings.optimizer),
        weight_decay=usual if settings.weight_decay is None else settings.weight_decay,
        class_weight=resolve_class_weight(settings.class_weight, classes, labels),
        ema=_ema_momentum(settings.ema, steps * (epochs - warmup)),
    )


def default_batch_size(pictures: int, image_size: tuple[int, int]) -> int:
    """Return a power of two, near 1/50 of the pictures, from 8 to 64 (128 for small inputs)."""
    most = 128 if max(image_size) <= 64 else 64
    return int(min(max(2 ** round(math.log2(max(pictures, 1) / 50)), 8), most))


def default_epochs(steps_per_epoch: int) -> int:
    """Return the number of epochs that gives about 2000 steps, from 5 to 30."""
    return min(max(round(2000 / steps_per_epoch), 5), 30)


def default_learning_rate(batch_size: int, pretrained: bool, optimizer: str = "sgd") -> float:
    """Return 0.05 for each 64 pictures of a batch, from 0.02 to 0.1; twice that from scratch.

    Together with bounded gradients this is safe for normalizer-free networks; much lower rates
    leave a short run on few pictures unfinished. AdamW gets a hundredth of it.
    """
    rate = min(max(0.05 * batch_size / 64, 0.02), 0.1)
    return rate * (1 if pretrained else 2) / (100 if optimizer == "adamw" else 1)


def _batch_size(settings: Settings, pictures: int, image_size: tuple[int, int]) -> int:
    """Return a batch size that micro-batches divide evenly."""
    batch_size = min(settings.batch_size or default_batch_size(pictures, image_size), pictures)
    parts = 1 if settings.accumulate == "auto" else settings.accumulate
    if settings.batch_size is None:
        batch_size = max(batch_size // parts, 1) * parts
    if batch_size % parts or batch_size > pictures:
        raise ValueError(
            "accumulate must divide the batch size, which is at most the number of training "
            f"pictures. Received: accumulate={parts} with batch_size={settings.batch_size} and "
            f"{pictures} pictures"
        )
    return batch_size


def resolve_class_weight(
    class_weight: str | Mapping | None, classes: np.ndarray, labels: Sequence[str]
) -> tuple[float, ...] | None:
    """Return one weight for each class, or None.

    Balanced weights are N / (number of classes * pictures of the class).
    """
    if class_weight is None:
        return None
    if isinstance(class_weight, str) and class_weight == "balanced":
        counts = collections.Counter(classes.tolist())
        return tuple(len(classes) / (len(labels) * counts[i]) for i in range(len(labels)))
    if not isinstance(class_weight, Mapping):
        raise ValueError(
            'class_weight must be None, "balanced" or a dict of weights by label or index. '
            f"Received: {class_weight!r}"
        )
    weights = [1.0] * len(labels)
    for key, weight in class_weight.items():
        index = labels.index(key) if key in labels else key
        known = isinstance(index, numbers.Integral) and 0 <= index < len(labels)
        if not known or not 0 <= weight < math.inf:
            raise ValueError(
                "class_weight must give a weight of 0 or more to a label or to an index below "
                f"{len(labels)}. Received: {key!r}: {weight!r}"
            )
        weights[index] = float(weight)
    if not any(weights):
        raise ValueError(
            "class_weight must give a class a weight above 0, or nothing is learned. "
            f"Received: {class_weight!r}"
        )
    return tuple(weights)


def _ema_momentum(ema: bool | float | None, steps: int) -> float | None:
    if ema is None:
        ema = steps >= 500
    if isinstance(ema, bool):
        return 1 - 1 / max(steps / 20, 10) if ema and steps else None
    return ema
