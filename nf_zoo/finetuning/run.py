"""``finetune``: from a pretrained model and pictures to a fitted model and its report."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from nf_zoo.backend import require_tensorflow
from nf_zoo.finetuning.data import Data, open_data
from nf_zoo.finetuning.run_folder import REPORT, RunFolder
from nf_zoo.finetuning.settings import Settings, decide
from nf_zoo.images import input_of


@dataclasses.dataclass(frozen=True)
class FineTuneResult:
    """What ``finetune`` gives back.

    Attributes:
        model: the fitted ImageClassifier, float32, with labels and preprocessing set.
        labels: class names, in the order of the model's outputs.
        history: a dict for each epoch: epoch, phase (``"head"`` or ``"whole"``), loss, accuracy,
            val_loss, val_accuracy, learning_rate, seconds.
        metrics: the contents of ``report.json``.
        output: the folder written, or None.
    """

    model: Any
    labels: tuple[str, ...]
    history: list[dict[str, Any]]
    metrics: dict[str, Any]
    output: Path | None


def finetune(
    model,
    data,
    *,
    labels: Sequence[str] | None = None,
    validation_data=None,
    validation_fraction: float = 0.2,
    output: str | os.PathLike | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    image_size: int | Sequence[int] | None = None,
    learning_rate: float | None = None,
    weight_decay: float = 5e-4,
    label_smoothing: float = 0.1,
    warmup_epochs: int | None = None,
    randaugment: bool = False,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    flip: bool = True,
    class_weight: str | Mapping | None = None,
    early_stopping: int | None = None,
    ema: bool | float | None = None,
    precision: str | None = None,
    seed: int = 0,
    strict: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    verbose: int = 1,
) -> FineTuneResult:
    """Fit a network to new classes.

    First the new classifier alone is trained on the frozen body, then the whole network: SGD with
    Nesterov momentum, a cosine schedule with a linear rise, bounded gradients. Every setting has a
    default that follows from the number of pictures. The model passed in is left as it is.

    Args:
        model: an ImageClassifier of 3 channels. If its labels are those of the data already, its
            classifier is kept; else it gets a new one.
        data: a folder of class folders, or of train/, val/ (optional) and test/ (optional) with
            class folders in each; a ``tf.data.Dataset`` of (picture, class), with pictures uint8
            or float in 0..255, one by one or in batches; or ``"tfds:name"``.
        labels: class names of a data set; its numbers by default. Folders name their own.
        validation_data: a folder or ``tf.data.Dataset``; by default the data's own val/, or a
            part held out by class, chosen by file name and seed.
        validation_fraction: size of that part.
        output: folder to write. It appears when everything is done; until then the run is kept
            in ``output + ".partial"``. None writes nothing.
        epochs: passes over the pictures in all, 5 to 30 by default.
        batch_size: 8 to 64 by default (128 for inputs of up to 64 pixels).
        image_size: input size in pixels, or (height, width); the model's own by default.
        learning_rate: peak; in proportion to the batch size by default.
        weight_decay: decoupled, applied to kernels alone.
        label_smoothing: 0 to below 1.
        warmup_epochs: how many of the epochs train the classifier alone; about a tenth by default,
            none if the model has no pretrained weights. All of them: a linear probe.
        randaugment: random changes of color and shape, two for each picture.
        mixup, cutmix: alpha of the mixing of pictures; 0.2 and 1.0 are usual, 0 is off.
        flip: mirror half of the training pictures. Switch off where left and right matter.
        class_weight: None, ``"balanced"``, or weights by label or index.
        early_stopping: epochs without a better validation accuracy after which to stop; the best
            epoch's weights are then the result. None trains to the end.
        ema: a moving average of the weights is validated and is the result; True, False, or its
            momentum; by default on from 500 steps.
        precision: ``"float32"``, ``"mixed_bfloat16"`` or ``"mixed_float16"`` during training; the
            model's own by default. The result is float32 if it is given.
        seed: decides split, order, variations and the new classifier.
        strict: fail on a file that cannot be read instead of skipping it by name.
        resume: go on where an interrupted run with the same arguments stopped; the outcome is
            that of an uninterrupted one. A finished run is loaded; with none, one is started.
        overwrite: replace ``output`` if it holds an earlier run.
        verbose: 0 silent, 1 progress bars, 2 a line for each epoch.

    Returns:
        A :class:`FineTuneResult`.

    Raises:
        FolderError (a ValueError): if the folder cannot be used; nothing is written then.
        FileExistsError: if ``output`` exists and neither resume nor overwrite allows for it.
        ValueError, TypeError: if an argument is out of range, or a resumed run differs.
        FloatingPointError: if training diverges.
        RuntimeError: if Keras does not run on TensorFlow; nothing is written then.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.NFResNet50(pretrained=True)
        >>> result = nf_zoo.finetune(model, "flowers/", epochs=5, output="flowers-model")
        >>> result.metrics["accuracy"]
        0.93
    """
    require_tensorflow("Fine-tuning")
    folder = RunFolder(output, resume, overwrite)
    _check_model(model)
    opened = open_data(
        data,
        labels=labels,
        validation_data=validation_data,
        validation_fraction=validation_fraction,
        seed=seed,
        strict=strict,
    )
    settings = decide(
        classes=opened.train.classes,
        labels=opened.labels,
        pretrained=model.weights_tag is not None,
        input_size=model.preprocessing.input_size,
        epochs=epochs,
        batch_size=batch_size,
        image_size=image_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        warmup_epochs=warmup_epochs,
        randaugment=randaugment,
        mixup=mixup,
        cutmix=cutmix,
        flip=flip,
        class_weight=class_weight,
        early_stopping=early_stopping,
        ema=ema,
        precision=precision,
        seed=seed,
    )
    return _run(model, opened, settings, folder, verbose)


def _run(model, data: Data, settings: Settings, folder: RunFolder, verbose: int):
    from nf_zoo.finetuning.fit import fit
    from nf_zoo.finetuning.report import build_report, write_report

    _check_input_shape(model, settings.image_size)
    description = _describe(model, data, settings)
    folder.begin(description)
    if folder.finished:
        return _load_finished(folder.output)
    if verbose:
        print(_summary(data, settings))
    began = time.monotonic()
    fitted = _prepare(model, data.labels, settings)
    history = fit(fitted, data, settings, folder, verbose)
    fitted = _copy(fitted, **({"dtype": "float32"} if settings.precision else {}))
    seconds = {"this_process": round(time.monotonic() - began, 1)}
    report, evaluation = build_report(fitted, data, settings, description, history, seconds)
    folder.finish(lambda path: write_report(path, fitted, report, history, evaluation))
    if verbose:
        place = f"; see {folder.output}" if folder.output else ""
        print(f"Validation accuracy {report['accuracy']:.2%}{place}")
    return FineTuneResult(fitted, data.labels, history, report, folder.output)


def _prepare(model, labels: tuple[str, ...], settings: Settings):
    """The network to be fitted: new labels and input size, seeded from end to end."""
    dtype = {} if settings.precision is None else {"dtype": settings.precision}
    preprocessing = dataclasses.replace(model.preprocessing, input_size=settings.image_size)
    fitted = model.with_classifier(len(labels), labels, preprocessing=preprocessing, **dtype)
    if model.labels == labels:
        fitted.set_weights(model.get_weights())
    else:
        kernel = keras.initializers.RandomNormal(stddev=0.01, seed=settings.seed)
        fitted.head.kernel.assign(kernel(fitted.head.kernel.shape))
        fitted.head.bias.assign(np.zeros(len(labels)))
    weights = {id(variable) for variable in fitted.weights}
    random_states = [variable for variable in fitted.variables if id(variable) not in weights]
    for index, state in enumerate(random_states):
        state.assign(np.array([abs(settings.seed) % 2**31, index]))
    return fitted


def _copy(model, **changes):
    """The same network without optimizer and compile state."""
    copy = model.with_classifier(model.num_classes, model.labels, **changes)
    copy.set_weights(model.get_weights())
    return copy


def _check_model(model) -> None:
    if not hasattr(model, "with_classifier"):
        raise TypeError(
            "model must be an ImageClassifier, such as nf_zoo.NFResNet50(pretrained=True). "
            f"Received: {model!r}"
        )
    input_of(model)  # refuses what pictures cannot give


def _check_input_shape(model, image_size: tuple[int, int]) -> None:
    for fixed, side in zip(model.input_shape[1:3], image_size, strict=True):
        if fixed not in (None, side):
            raise ValueError(
                "The model takes one input size only. Pass it as image_size, or build the model "
                "with input_shape=(None, None, 3). Received: image_size="
                f"{image_size} with a model for {tuple(model.input_shape[1:3])}"
            )


def _describe(model, data: Data, settings: Settings) -> dict[str, Any]:
    """Everything that decides the outcome; what a resumed run must share."""
    test = {} if data.test is None else {"test": data.test.fingerprint}
    return {
        "settings": settings.to_dict(),
        "model": {
            "architecture": model.architecture,
            "weights": model.weights_tag,
            "options": model.options(),
        },
        "labels": list(data.labels),
        "pictures": {
            "train": data.train.fingerprint,
            "validation": data.validation.fingerprint,
            **test,
        },
    }


def _summary(data: Data, settings: Settings) -> str:
    counts = ", ".join(f"{count:,} {split}" for split, count in data.counts().items() if count)
    ignored = ", ".join(f"{count} {suffix}" for suffix, count in data.ignored.items())
    return (
        f"{len(data.labels)} classes; pictures: {counts}"
        + (f"; files ignored: {ignored}" if ignored else "")
        + f"\n{settings.epochs} epochs ({settings.warmup_epochs} of the classifier alone), batches "
        f"of {settings.batch_size}, {settings.image_size[0]} x {settings.image_size[1]} pixels, "
        f"learning rate {settings.learning_rate:.3g}"
    )


def _load_finished(output: Path) -> FineTuneResult:
    model = keras.saving.load_model(output / "model.keras", compile=False)
    with open(output / "history.csv", newline="") as file:
        rows = [
            {
                key: value if key == "phase" else (int if key == "epoch" else float)(value)
                for key, value in row.items()
            }
            for row in csv.DictReader(file)
        ]
    report = json.loads((output / REPORT).read_text())
    return FineTuneResult(model, tuple(report["labels"]), rows, report, output)
