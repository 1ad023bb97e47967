"""The run itself: the classifier alone, then the whole network, each with one ``Model.fit``."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import keras
import numpy as np

from nf_zoo.finetuning.data import Data
from nf_zoo.finetuning.input_pipeline import training_batches, validation_batches
from nf_zoo.finetuning.run_folder import RunFolder
from nf_zoo.finetuning.schedule import learning_rate_schedule, make_optimizer
from nf_zoo.finetuning.settings import Settings
from nf_zoo.images import input_of


@dataclasses.dataclass
class Progress:
    """How far a run has come.

    Attributes:
        epoch: epochs done.
        history: a row for each of them.
        stopped: early stopping has ended the run.
        best: accuracy and negative loss of the best validated epoch.
        waited: epochs since then.
    """

    epoch: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    stopped: bool = False
    best: list[float] | None = None
    waited: int = 0
    best_weights: list[np.ndarray] | None = None

    def state(self) -> dict[str, Any]:
        """Everything but the weights, JSON-able."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if name != "best_weights"}


def fit(
    model: keras.Model, data: Data, settings: Settings, folder: RunFolder, verbose: int = 1
) -> list[dict[str, Any]]:
    """Train a model in place, from its latest checkpoint if there is one.

    Args:
        model: an ImageClassifier with one output for each label.
        data: the pictures.
        settings: everything that decides the run.
        folder: where checkpoints go and come from.
        verbose: as in ``Model.fit``.

    Returns:
        A row for each epoch: epoch, phase, loss, accuracy, val_loss, val_accuracy, learning_rate,
        seconds.

    Raises:
        FloatingPointError: if the loss stops being a number.
    """
    checkpoint = folder.latest()
    progress = Progress()
    if checkpoint is not None:
        progress = Progress(**checkpoint.state, best_weights=checkpoint.best_weights())
    flags = {layer: layer.trainable for layer in model._flatten_layers(include_self=False)}
    phases = [("head", range(settings.warmup_epochs))]
    phases.append(("whole", range(settings.warmup_epochs, settings.epochs)))
    for name, epochs in phases:
        # A checkpoint belongs to the phase of its last epoch: its optimizer fits no other.
        resumes = checkpoint is not None and epochs.start < checkpoint.state["epoch"] <= epochs.stop
        if not epochs or (checkpoint is not None and checkpoint.state["epoch"] > epochs.stop):
            continue
        _set_trainable(model, flags, body=name == "whole")
        _prepare_phase(model, name, epochs, data, settings)
        if resumes:
            checkpoint.restore(model)
        _fit_phase(model, name, epochs, data, settings, folder, progress, verbose)
    _set_trainable(model, flags, body=True)
    if progress.best_weights is not None:
        model.set_weights(progress.best_weights)
    return progress.history


def _prepare_phase(model, name: str, epochs: range, data: Data, settings: Settings) -> None:
    steps = len(epochs) * (len(data.train) // settings.batch_size)
    model.compile(
        optimizer=make_optimizer(model, settings, steps, average=name == "whole"),
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=model.classifier_activation is None,
            label_smoothing=settings.label_smoothing,
        ),
        metrics=[keras.metrics.CategoricalAccuracy("accuracy")],
        jit_compile="auto",
    )


def _fit_phase(
    model, name: str, epochs: range, data: Data, settings: Settings, folder, progress, verbose
) -> None:
    steps = len(data.train) // settings.batch_size
    averaged = name == "whole" and settings.ema is not None
    if progress.epoch < epochs.stop and not progress.stopped:
        common = {"num_classes": len(data.labels), **input_of(model)}
        rest = range(progress.epoch, epochs.stop)
        if verbose:
            what = "the classifier alone" if name == "head" else "the whole network"
            last = f" to {rest.stop}" if len(rest) > 1 else ""
            print(f"Epoch {rest.start + 1}{last}: {what}")
        callbacks = [_StopOnNaN(settings)]
        if settings.early_stopping is not None and epochs.stop == settings.epochs:
            callbacks.append(_KeepBest(progress, settings.early_stopping))
        callbacks += [keras.callbacks.SwapEMAWeights()] if averaged else []
        callbacks.append(_Record(progress, name, epochs, steps, settings, folder))
        model.fit(
            _training_batches(model, data, rest, settings),
            validation_data=validation_batches(
                data.validation, model.preprocessing, settings.batch_size, **common
            ),
            initial_epoch=rest.start,
            epochs=rest.stop,
            steps_per_epoch=steps,
            shuffle=False,
            callbacks=callbacks,
            verbose=verbose,
        )
    elif averaged:
        # Model.fit ends by moving the average into the weights; this run ended before that.
        model.optimizer.finalize_variable_values(model.trainable_variables)


def _training_batches(model, data: Data, epochs: range, settings: Settings):
    return training_batches(
        data.train,
        model.preprocessing,
        epochs,
        settings.batch_size,
        num_classes=len(data.labels),
        class_weights=settings.class_weight,
        **input_of(model),
        flip=settings.flip,
        randaugment=settings.randaugment,
        mixup=settings.mixup,
        cutmix=settings.cutmix,
        seed=settings.seed,
    )


def _set_trainable(model, flags: dict, body: bool) -> None:
    """Train what the user did not freeze, or the head alone; the outer layers come first."""
    for layer, flag in flags.items():
        layer.trainable = flag
    for layer in model.layers:
        if not body and layer is not model.head:
            layer.trainable = False


class _StopOnNaN(keras.callbacks.Callback):
    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def on_train_batch_end(self, batch, logs=None):
        self._check(logs["loss"])

    def on_test_end(self, logs=None):
        self._check(logs["loss"])

    def _check(self, loss):
        if not np.isfinite(float(loss)):
            raise FloatingPointError(
                "Training diverged: the loss is no longer a number. Lower learning_rate, such as "
                "to a third, or use precision='float32'. Received: "
                f"learning_rate={self._settings.learning_rate}, "
                f"precision={self._settings.precision!r}"
            )


class _KeepBest(keras.callbacks.Callback):
    """Early stopping. Stands before SwapEMAWeights, so that it sees the weights validated."""

    def __init__(self, progress: Progress, patience: int):
        super().__init__()
        self._progress, self._patience = progress, patience

    def on_test_end(self, logs=None):
        progress, score = self._progress, [logs["accuracy"], -logs["loss"]]
        if progress.best is None or score > progress.best:
            progress.best, progress.waited = score, 0
            progress.best_weights = self.model.get_weights()
        else:
            progress.waited += 1

    def on_epoch_end(self, epoch, logs=None):
        if self._progress.waited >= self._patience:
            self._progress.stopped = self.model.stop_training = True


class _Record(keras.callbacks.Callback):
    """Adds a row to the history and writes a checkpoint after each epoch."""

    def __init__(self, progress, phase, epochs, steps, settings: Settings, folder: RunFolder):
        super().__init__()
        self._progress, self._folder, self._began = progress, folder, 0.0
        self._phase, self._epochs, self._steps = phase, epochs, steps
        self._rate = learning_rate_schedule(settings.learning_rate, len(epochs) * steps)

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        last_step = (epoch + 1 - self._epochs.start) * self._steps - 1
        row = {
            "epoch": epoch + 1,
            "phase": self._phase,
            **{name: float(logs[name]) for name in names},
            "learning_rate": float(self._rate(last_step)),
            "seconds": round(time.monotonic() - self._began, 3),
        }
        self._progress.history.append(row)
        self._progress.epoch = epoch + 1
        self._folder.save(self.model, self._progress.state(), self._progress.best_weights)
