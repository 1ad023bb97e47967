"""``finetune``: turn a pretrained model and pictures into a fitted model and its report."""

import collections
import contextlib
import csv
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from nf_zoo.backend import is_out_of_memory
from nf_zoo.finetuning.evaluation import in_words
from nf_zoo.finetuning.labeled_pictures import Data, open_data
from nf_zoo.finetuning.run_folder import REPORT, RunFolder
from nf_zoo.finetuning.settings import Settings, decide
from nf_zoo.layers.composite import plain_policy, set_states_of_parts, states_of_parts
from nf_zoo.options import takes
from nf_zoo.pictures.images import input_of


@dataclasses.dataclass(frozen=True, repr=False)
class FineTuneResult:
    """The outcome of ``finetune``.

    Attributes:
        model: the fitted ImageClassifier, with labels and preprocessing set: in float32 if
            ``precision`` was given, else in the dtype policy of the model passed in.
        labels: class names, in the order of the model's outputs.
        history: a dict for each epoch: epoch, phase (``"head"`` or ``"whole"``), loss,
            cross_entropy, accuracy, the same of the validation pictures (val_loss, ...),
            learning_rate, seconds. The loss is smoothed and weighted as ``finetune`` was told; the
            cross-entropy, in nats, is not.
        metrics: the contents of ``report.json``.
        output: the folder written, or None.
    """

    model: Any
    labels: tuple[str, ...]
    history: list[dict[str, Any]]
    metrics: dict[str, Any]
    output: Path | None

    def __repr__(self) -> str:
        network = getattr(self.model, "architecture", None)
        return (
            f"<FineTuneResult: {network}, {len(self.labels)} classes, {len(self.history)} epochs; "
            f"{_headline(self.metrics)}; output={str(self.output) if self.output else None!r}>"
        )


@takes(Settings)
def finetune(model, data, *, settings: Settings) -> FineTuneResult:
    """Fit a network to new classes.

    The new classifier is trained first, on the frozen body, and then the whole network. A model
    without pretrained weights is trained as a whole from the start. Training uses SGD with
    Nesterov momentum, or AdamW, a cosine schedule with a linear rise, and bounded gradients. Batch
    size, epochs and learning rate follow from the number of pictures unless they are given. The
    model passed in does not change.

    Args:
        model: an ImageClassifier of 3 channels or 1. It keeps its classifier if its labels are
            those of the data already; otherwise it gets a new one.
        data: a folder of class folders, or of train/, val/ (optional) and test/ (optional) with
            class folders in each; a pair (pictures, classes) of paths or arrays with names or
            indices; a ``tf.data.Dataset`` of (picture, class), with pictures uint8 or float in
            0..255, one by one or in batches, whose ``class_names`` are used; or ``"tfds:name"``.
        {settings}

    Returns:
        A :class:`FineTuneResult`.

    Raises:
        FolderError (a ValueError): if the folder cannot be used; nothing is written then.
        FileExistsError: if ``output`` exists and neither ``resume`` nor ``overwrite`` allows it.
        BlockingIOError: if another run is writing to ``output``.
        FileNotFoundError: if there is no run for ``finish`` to take.
        ValueError, TypeError: if an argument is out of range, or a resumed run differs.
        FloatingPointError: if training diverges.
        MemoryError: if the pictures of a batch do not fit into memory.
        OSError: if the disk is full; what was written before is whole.
        RuntimeError: if a picture can no longer be read; ``resume`` goes on then.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.create_model("wide_resnet16_2.cifar10", num_classes=2)
        >>> result = nf_zoo.finetune(model, "pets/", epochs=1, output="pets-model", verbose=0)
        >>> 0.0 <= result.metrics["accuracy"] <= 1.0
        True
    """
    folder = RunFolder(settings.output, settings.resume, settings.overwrite, settings.finish)
    _check_model(model)
    opened = open_data(data, settings)
    is_kept = model.labels == opened.labels
    is_frozen = is_kept and not any(variable.trainable for variable in model.head.weights)
    if settings.warmup_epochs is None and is_frozen:
        settings = dataclasses.replace(settings, warmup_epochs=0)
    settings = decide(
        settings,
        classes=opened.train.classes,
        labels=opened.labels,
        pretrained=model.weights_tag is not None,
        input_size=model.preprocessing.input_size,
    )
    _check_input_shape(model, settings.image_size)
    description = _describe(model, opened, settings)
    with contextlib.closing(folder):
        folder.begin(description, list_pictures(opened))
        if not folder.finished:
            return _run(model, opened, settings, folder, description)
    if settings.verbose:
        print(f"The run in {folder.output} is finished; nothing is trained")
    return _load_finished(folder.output)


def _run(model, opened, settings, folder, description) -> FineTuneResult:
    from nf_zoo.finetuning.devices import Devices
    from nf_zoo.finetuning.phases import first_accumulate, fit
    from nf_zoo.finetuning.report import build_report, write_report

    if settings.verbose:
        print(_summary(opened, settings))
    began = time.monotonic()
    devices = Devices(settings.batch_size // first_accumulate(settings))
    with _explained(settings, folder):
        with devices.scope():
            trained = _prepare(model, opened.labels, settings)
        progress = fit(trained, opened, settings, folder, devices)
        history = progress.history
        # The same network without optimizer and compile state, on one device.
        own = {"dtype": "float32"} if settings.precision else {}
        if settings.rematerialize:
            own["rematerialize"] = model.options()["rematerialize"]
        fitted = trained.with_classifier(trained.num_classes, trained.labels, **own)
        _hand_on_weights(trained, fitted)
        if fitted.weights_tag is None:  # the weights are pretrained from now on
            fitted.weights_tag = f"./{folder.output.name if folder.output else 'finetune'}"
        seconds = {"this_process": round(time.monotonic() - began, 1)}
        rows = settings.batch_size // progress.accumulate
        report, evaluation = build_report(
            fitted, opened, settings, description, history, seconds, rows
        )
    report["devices"] = devices.count
    report["micro_batch"] = rows // devices.count
    folder.finish(lambda path: write_report(path, fitted, report, history, evaluation))
    if settings.verbose:
        print(_headline(report) + (f"; see {folder.output}" if folder.output else ""))
    return FineTuneResult(fitted, opened.labels, history, report, folder.output)


@contextlib.contextmanager
def _explained(settings: Settings, folder: RunFolder) -> Iterator[None]:
    """Say what to change if a run diverges or does not fit into memory; then it may begin anew."""
    try:
        yield
    except FloatingPointError:
        folder.fail()
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        checkpoint = folder.latest()
        rows = () if checkpoint is None else checkpoint.state["history"]
        if all(row["phase"] == "head" for row in rows) and settings.warmup_epochs < settings.epochs:
            folder.fail()
        height, width = settings.image_size
        cut = "" if settings.accumulate == "auto" else 'cut the batch with accumulate="auto", '
        raise MemoryError(
            f"Out of memory: {cut}pass rematerialize=True, lower image_size, or lower "
            f"batch_size, for example to {max(settings.batch_size // 2, 1)}. "
            f"Received: batch_size={settings.batch_size}, image_size={height} x {width} pixels"
        ) from error


def _headline(report: dict[str, Any]) -> str:
    line = f"Validation accuracy {in_words(report['accuracy'], report['pictures'])}"
    line += f" on {report['pictures']:,} pictures"
    if alone := report.get("classifier_alone"):
        line += f"; the classifier alone had {100 * alone['accuracy']:.1f} %"
    return line


def _prepare(model, labels: tuple[str, ...], settings: Settings):
    """Return the network to fit, with new labels and input size, and all random states seeded."""
    given = {} if settings.precision is None else {"dtype": settings.precision}
    if settings.rematerialize:
        given["rematerialize"] = True
    given["preprocessing"] = _preprocessing(model, settings)
    fitted, seed = model.with_classifier(len(labels), labels, **given), abs(settings.seed) % 2**31
    if model.labels == labels:
        _hand_on_weights(model, fitted)
    else:
        kernel = keras.initializers.RandomNormal(stddev=0.01, seed=seed)
        fitted.head.kernel.assign(kernel(fitted.head.kernel.shape))
        fitted.head.bias.assign(np.zeros(len(labels)))
    weights = {id(variable) for variable in fitted.weights}
    random_states = [variable for variable in fitted.variables if id(variable) not in weights]
    for index, state in enumerate(random_states):
        # A layer's draws count on from there, and must not meet those of the next.
        state.assign(np.array([seed, index << 20]))
    return fitted


def _hand_on_weights(model, other) -> None:
    """Give a copy of a network all its weights; freeze what is frozen of the classifier."""
    if state := states_of_parts(model).get("head"):  # LoRA adds weights
        set_states_of_parts(other, {"head": state})
    other.set_weights(model.get_weights())
    other.head.trainable = model.head.trainable
    for mine, theirs in zip(model.head.weights, other.head.weights, strict=True):
        theirs.trainable = mine.trainable


def _preprocessing(model, settings: Settings):
    return dataclasses.replace(model.preprocessing, input_size=settings.image_size)


def _check_model(model) -> None:
    if not hasattr(model, "with_classifier"):
        raise TypeError(
            "model must be an ImageClassifier, such as nf_zoo.NFResNet50(pretrained=True). "
            f"Received: {model!r}"
        )
    input_of(model)  # raises if pictures cannot be its input


def _check_input_shape(model, image_size: tuple[int, int]) -> None:
    sides = zip(model.input_shape[1:3], image_size, strict=True)
    if any(fixed not in (None, side) for fixed, side in sides):
        raise ValueError(
            "The model takes one input size only. Pass it as image_size, or build the model "
            f"with input_shape=(None, None, {model.input_shape[-1]}). Received: image_size="
            f"{image_size} with a model for {tuple(model.input_shape[1:3])}"
        )


def _describe(model, data: Data, settings: Settings) -> dict[str, Any]:
    """Return everything that decides the outcome, which a resumed run must share."""
    return {
        "settings": settings.to_dict(),
        "started_from": {
            "architecture": model.architecture,
            "weights": model.weights_tag,
            "options": model.options(),
            "dtype": settings.precision or plain_policy(model.dtype_policy),
            "preprocessing": _preprocessing(model, settings).to_dict(),
            "layers": {"trainable": model.trainable, **states_of_parts(model)},
        },
        "labels": list(data.labels),
        "pictures": {split: pictures.fingerprint for split, pictures in data.splits().items()},
    }


def list_pictures(data: Data) -> Iterator[tuple[str, str, str, int]]:
    """Yield split, file, label and size in bytes of every picture that is a file."""
    for split, pictures in data.splits().items():
        prefix = "" if data.held_out and split != "test" else f"{split}/"
        for name, index, size in pictures.files():
            yield split, prefix + name, data.labels[index], size


def _summary(data: Data, settings: Settings) -> str:
    height, width = settings.image_size
    epochs = "1 epoch" if settings.epochs == 1 else f"{settings.epochs} epochs"
    if settings.warmup_epochs:
        epochs += f" ({settings.warmup_epochs} of the classifier alone)"
    whole = " (all training pictures)" if settings.batch_size == len(data.train.classes) else ""
    return (
        f"{data.in_words()}\n{epochs}, batches of {settings.batch_size}{whole}, "
        f"{height} x {width} pixels, learning rate {settings.learning_rate:.3g}"
    )


def _load_finished(output: Path) -> FineTuneResult:
    model = keras.saving.load_model(output / "model.keras", compile=False)
    with open(output / "history.csv", newline="", encoding="utf-8") as file:
        kinds = collections.defaultdict(lambda: float, phase=str, epoch=int)
        rows = [{k: kinds[k](text) for k, text in row.items()} for row in csv.DictReader(file)]
    report = json.loads((output / REPORT).read_bytes())
    return FineTuneResult(model, tuple(report["labels"]), rows, report, output)
