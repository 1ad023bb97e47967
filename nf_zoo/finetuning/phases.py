"""The two phases of a run, one ``Model.fit`` each: the classifier alone, then the whole network."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import keras
import numpy as np

from nf_zoo.finetuning.evaluation import classifier_alone, in_words
from nf_zoo.finetuning.input_pipeline import training_batches, validation_batches
from nf_zoo.finetuning.labeled_pictures import Data
from nf_zoo.finetuning.run_folder import RunFolder
from nf_zoo.finetuning.settings import Settings
from nf_zoo.pictures.images import input_of

GLOBAL_CLIPNORM = 1.0
"""Bound on the gradient of a step: a single outsized one makes normalizer-free networks diverge."""

_FIGURES = ("loss", "cross_entropy", "accuracy")
FIGURES = (*_FIGURES, *(f"val_{name}" for name in _FIGURES))
"""Figures of an epoch. The loss may be smoothed and weighted; the cross-entropy never is."""


@dataclasses.dataclass
class Progress:
    """Progress of a run: the epochs done, a row for each, and the state of early stopping.

    Attributes:
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
        """Return all fields but the weights, JSON-able."""
        return {name: value for name, value in vars(self).items() if name != "best_weights"}


def fit(
    model: keras.Model, data: Data, settings: Settings, folder: RunFolder
) -> list[dict[str, Any]]:
    """Train a model in place, from its latest checkpoint if there is one.

    Returns:
        A row for each epoch: epoch, phase, the figures of ``FIGURES``, learning_rate, seconds.

    Raises:
        FloatingPointError: if the loss stops being a number.
    """
    checkpoint = folder.latest()
    progress = Progress()
    if checkpoint is not None:
        progress = Progress(**checkpoint.state, best_weights=checkpoint.best_weights())
    done = 0 if checkpoint is None else progress.epoch
    progress.stopped |= settings.finish
    flags = {layer: layer.trainable for layer in model._flatten_layers(include_self=False)}
    warmup, steps = settings.warmup_epochs, len(data.train) // settings.batch_size
    for name, epochs in (("head", range(warmup)), ("whole", range(warmup, settings.epochs))):
        if not epochs or done > epochs.stop or (settings.finish and done <= epochs.start):
            continue
        phase = Phase(name, epochs, steps, settings)
        _set_trainable(model, flags, body=name == "whole")
        phase.compile(model)
        # A checkpoint belongs to the phase of its last epoch: its optimizer fits no other.
        if done > epochs.start:
            checkpoint.restore(model)
        _fit_phase(model, phase, data, settings, folder, progress)
    _set_trainable(model, flags, body=True)
    if progress.best_weights is not None:
        model.set_weights(progress.best_weights)
    return progress.history


def learning_rate_schedule(peak: float, steps: int) -> keras.optimizers.schedules.CosineDecay:
    """Return a linear rise to ``peak`` over a tenth of the steps, then half a cosine down to 0.

    The rise starts above 0, so that a run of a single step learns something.

    Example:
        >>> float(learning_rate_schedule(0.1, steps=100)(10))
        0.10000000149011612
    """
    rise = max(steps // 10, 1)
    return keras.optimizers.schedules.CosineDecay(
        peak / (rise + 1), max(steps - rise, 1), warmup_target=peak, warmup_steps=rise
    )


@dataclasses.dataclass(frozen=True)
class Phase:
    """Epochs of ``steps`` steps that train the ``"head"`` or the ``"whole"`` network."""

    name: str
    epochs: range
    steps: int
    settings: Settings

    @property
    def averaged(self) -> bool:
        """True if a moving average of the weights is kept."""
        return self.name == "whole" and self.settings.ema is not None

    @property
    def schedule(self) -> keras.optimizers.schedules.CosineDecay:
        """Learning rate by step."""
        return learning_rate_schedule(self.settings.learning_rate, len(self.epochs) * self.steps)

    def compile(self, model: keras.Model) -> None:
        """Compile the model with its loss and SGD with Nesterov momentum.

        Weight decay is applied to kernels alone: gains, biases, skip gains and the parameters of
        batch normalization are not decayed (Brock et al. 2021, "High-performance large-scale image
        recognition without normalization").
        """
        settings = self.settings
        optimizer = keras.optimizers.SGD(
            self.schedule,
            momentum=0.9,
            nesterov=True,
            weight_decay=settings.weight_decay or None,
            global_clipnorm=GLOBAL_CLIPNORM,
            use_ema=self.averaged,
            ema_momentum=settings.ema or 0.99,
        )
        others = [v for v in model.trainable_variables if not v.name.endswith("kernel")]
        optimizer.exclude_from_weight_decay(var_list=others)
        logits = {"from_logits": model.classifier_activation is None}
        loss = keras.losses.CategoricalCrossentropy(
            **logits, label_smoothing=settings.label_smoothing
        )
        metrics = [
            keras.metrics.CategoricalAccuracy("accuracy"),
            keras.metrics.CategoricalCrossentropy("cross_entropy", **logits),
        ]
        model.compile(optimizer, loss, metrics=metrics, jit_compile="auto")


def _fit_phase(
    model, phase: Phase, data: Data, settings: Settings, folder: RunFolder, progress: Progress
) -> None:
    if progress.epoch >= phase.epochs.stop or progress.stopped:
        if phase.averaged:
            # Model.fit ends by moving the average into the weights; this run ended before that.
            model.optimizer.finalize_variable_values(model.trainable_variables)
        return
    rest = range(progress.epoch, phase.epochs.stop)
    if settings.verbose:
        if phase.name == "whole" and (alone := classifier_alone(progress.history)) is not None:
            reached = in_words(alone, len(data.validation))
            print(f"The classifier alone gets {reached} of the validation pictures right")
        what = "the classifier alone" if phase.name == "head" else "the whole network"
        last = f" to {rest.stop}" if len(rest) > 1 else ""
        print(f"Epoch {rest.start + 1}{last}: {what}")
    callbacks = [_StopOnNaN(settings)]
    if settings.early_stopping is not None and rest.stop == settings.epochs:
        callbacks.append(_KeepBest(progress, settings.early_stopping))
    callbacks += [keras.callbacks.SwapEMAWeights()] if phase.averaged else []
    callbacks.append(_Record(progress, phase, folder))
    form = {"num_classes": len(data.labels), **input_of(model)}
    model.fit(
        training_batches(
            data.train,
            model.preprocessing,
            rest,
            settings.batch_size,
            class_weights=settings.class_weight,
            settings=settings.augmentation(),
            seed=settings.seed,
            **form,
        ),
        validation_data=validation_batches(
            data.validation, model.preprocessing, settings.batch_size, **form
        ),
        initial_epoch=rest.start,
        epochs=rest.stop,
        steps_per_epoch=phase.steps,
        shuffle=False,
        callbacks=callbacks,
        verbose=settings.verbose,
    )


def _set_trainable(model, flags: dict, body: bool) -> None:
    """Make the head trainable, or all layers that the user did not freeze.

    Outer layers come first, since each sets the layers inside it too.
    """
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
        if not np.isfinite(float(logs["loss"])):
            raise FloatingPointError(
                "Training diverged: the loss is no longer a number. Lower learning_rate, for "
                "example to a third, or use precision='float32'. Received: "
                f"learning_rate={self._settings.learning_rate}, "
                f"precision={self._settings.precision!r}"
            )

    def on_test_end(self, logs=None):
        self.on_train_batch_end(0, logs)


class _KeepBest(keras.callbacks.Callback):
    """Early stopping. It runs before SwapEMAWeights, so that it sees the validated weights."""

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
    """Callback that adds a row to the history and writes a checkpoint after each epoch."""

    def __init__(self, progress: Progress, phase: Phase, folder: RunFolder):
        super().__init__()
        self._progress, self._phase, self._folder, self._began = progress, phase, folder, 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        last_step = (epoch + 1 - self._phase.epochs.start) * self._phase.steps - 1
        row = {
            "epoch": epoch + 1,
            "phase": self._phase.name,
            **{name: float(logs[name]) for name in FIGURES},
            "learning_rate": float(self._phase.schedule(last_step)),
            "seconds": round(time.monotonic() - self._began, 3),
        }
        self._progress.history.append(row)
        self._progress.epoch = epoch + 1
        self._folder.save(self.model, self._progress.state(), self._progress.best_weights)
