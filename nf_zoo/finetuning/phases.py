"""The two phases of a run: the classifier alone, then the whole network.

The loop over steps is here, and not in ``Model.fit``: under TensorFlow that reads batches through
``tf.data``, which can hang when Python inside of it raises, and it validates wrongly if the last
batch cannot be shared among the devices.
"""

import contextlib
import copy
import dataclasses
import time
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from nf_zoo.backend import is_out_of_memory
from nf_zoo.finetuning.batches import EvaluationBatches, TrainingBatches
from nf_zoo.finetuning.devices import Devices
from nf_zoo.finetuning.evaluation import classifier_alone, in_words, predict, surprisals
from nf_zoo.finetuning.freezing import flags_of, freeze, has_batch_statistics, set_trainable
from nf_zoo.finetuning.labeled_pictures import Data
from nf_zoo.finetuning.run_folder import RunFolder
from nf_zoo.finetuning.settings import Settings
from nf_zoo.optimizers.adaptive_gradient_clipping import AdaptiveGradientClipping
from nf_zoo.optimizers.momentum import fused_update
from nf_zoo.optimizers.parameter_groups import GroupedOptimizer, parameter_groups
from nf_zoo.pictures.images import input_of

GLOBAL_CLIPNORM = 1.0
"""Bound on the gradient of a step: a single outsized one makes normalizer-free networks diverge."""

_FIGURES = ("loss", "cross_entropy", "accuracy")
FIGURES = (*_FIGURES, *(f"val_{name}" for name in _FIGURES))
"""Figures of an epoch. The loss may be smoothed and weighted; the cross-entropy never is."""


@dataclasses.dataclass
class Progress:
    """Progress of a run: the epochs done, a row for each, and the state of early stopping."""

    accumulate: int = 1  # micro-batches of a step
    epoch: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    stopped: bool = False
    best: list[float] | None = None  # accuracy and negative loss of the best validated epoch
    waited: int = 0  # epochs since then
    best_weights: list[np.ndarray] | None = None

    def state(self) -> dict[str, Any]:
        """Return all fields but the weights, JSON-able."""
        return {name: value for name, value in vars(self).items() if name != "best_weights"}


class Run:
    """Everything that the epochs of a run need."""

    def __init__(self, model, data: Data, settings: Settings, folder: RunFolder, devices: Devices):
        self.model, self.settings, self.folder, self.devices = model, settings, folder, devices
        self.checkpoint = folder.latest()
        self.progress = Progress(accumulate=first_accumulate(settings))
        if self.checkpoint is not None:
            best = self.checkpoint.best_weights(model)
            self.progress = Progress(**self.checkpoint.state, best_weights=best)
        form = {"num_classes": len(data.labels), **input_of(model)}
        self.batches = TrainingBatches(
            data.train,
            model.preprocessing,
            settings.batch_size,
            class_weights=settings.class_weight,
            settings=settings.augmentation(),
            seed=settings.seed,
            **form,
        )
        self.validation = EvaluationBatches(
            data.validation, model.preprocessing, settings.batch_size, cache=True
        )
        self.validated = len(data.validation)


def first_accumulate(settings: Settings) -> int:
    """Return the micro-batches of a step to begin with."""
    return 1 if settings.accumulate == "auto" else settings.accumulate


def fit(
    model: keras.Model, data: Data, settings: Settings, folder: RunFolder, devices: Devices
) -> Progress:
    """Train a model in place, from its latest checkpoint if there is one."""
    run = Run(model, data, settings, folder, devices)
    progress, done = run.progress, run.progress.epoch
    progress.stopped |= settings.finish
    flags = flags_of(model)
    warmup = settings.warmup_epochs
    for name, epochs in (("head", range(warmup)), ("whole", range(warmup, settings.epochs))):
        if not epochs or done > epochs.stop or (settings.finish and done <= epochs.start):
            continue
        phase = Phase(name, epochs, run.batches.steps, settings)
        set_trainable(model, flags, body=name == "whole")
        freeze(model, settings.freeze or ())
        if not model.trainable_variables:
            what = "classifier" if name == "head" else "network"
            raise ValueError(
                f"freeze must leave a part of the {what} to train, and so must layers with "
                "trainable=False. Received: "
                f"freeze={list(settings.freeze or ())}"
            )
        phase.compile(model, progress.accumulate, devices)
        # A checkpoint belongs to the phase of its last epoch: its optimizer fits no other.
        if done > epochs.start:
            run.checkpoint.restore(model)
        _announce(run, phase)
        _within_memory(run, phase)
        if phase.averaged:
            model.optimizer.finalize_variable_values(model.trainable_variables)
    set_trainable(model, flags, body=True)
    if progress.best_weights is not None:
        model.set_weights(progress.best_weights)
    return progress


def learning_rate_schedule(peak: float, steps: int) -> keras.optimizers.schedules.CosineDecay:
    """Return a linear rise to ``peak`` over a tenth of the steps, then half a cosine down to 0.

    The rise starts above 0, so that a run of a single step learns something.
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

    def compile(self, model: keras.Model, accumulate: int, devices: Devices) -> None:
        """Compile the model with its loss and optimizer."""
        if accumulate > 1 and has_batch_statistics(model):
            rows = self.settings.batch_size // accumulate
            warnings.warn(
                f"Batch normalization takes its statistics from micro-batches of {rows}, and not "
                f"from the batch of {self.settings.batch_size}: the steps are not those of the "
                'whole batch. freeze="batch_norm" keeps the statistics as they are.',
                stacklevel=2,
            )
        logits = {"from_logits": model.classifier_activation is None}
        loss = keras.losses.CategoricalCrossentropy(
            **logits, label_smoothing=self.settings.label_smoothing
        )
        with devices.scope():
            optimizer = self._optimizer(model)
            metrics = [
                keras.metrics.CategoricalAccuracy("accuracy"),
                keras.metrics.CategoricalCrossentropy("cross_entropy", **logits),
            ]
            own = {"jit_compile": devices.jit_compile, "accumulate": accumulate}
            model.compile(optimizer, loss, metrics=metrics, **own)
            model.optimizer.build(model.trainable_variables)

    def _optimizer(self, model: keras.Model) -> keras.optimizers.Optimizer:
        """Return SGD with Nesterov momentum, or AdamW.

        Weight decay is applied to kernels alone: gains, biases, skip gains and the parameters of
        batch normalization are not decayed (Brock et al. 2021, "High-performance large-scale image
        recognition without normalization").
        """
        settings, grouped = self.settings, self.settings.layer_decay < 1
        given = {
            "weight_decay": None if grouped else settings.weight_decay or None,
            "global_clipnorm": None if settings.agc else GLOBAL_CLIPNORM,
            "use_ema": self.averaged,
            "ema_momentum": settings.ema or 0.99,
        }
        if settings.optimizer == "adamw":
            optimizer = keras.optimizers.Adam(self.schedule, **given)
        else:
            optimizer = keras.optimizers.SGD(self.schedule, momentum=0.9, nesterov=True, **given)
        optimizer.update_step = fused_update(optimizer)
        others = [v for v in model.trainable_variables if not v.name.endswith("kernel")]
        optimizer.exclude_from_weight_decay(var_list=others)
        if grouped:
            decays = {"layer_decay": settings.layer_decay, "weight_decay": settings.weight_decay}
            optimizer = GroupedOptimizer(optimizer, parameter_groups(model, **decays))
        if settings.agc:
            kernel = model.head.kernel
            optimizer = AdaptiveGradientClipping(optimizer, settings.agc, exclude=kernel)
        return optimizer


def _announce(run: Run, phase: Phase) -> None:
    rest = range(run.progress.epoch, phase.epochs.stop)
    if not run.settings.verbose or not rest or run.progress.stopped:
        return
    alone = classifier_alone(run.progress.history)
    if phase.name == "whole" and alone is not None:
        reached = in_words(alone, run.validated)
        print(f"The classifier alone gets {reached} of the validation pictures right")
    what = "the classifier alone" if phase.name == "head" else "the whole network"
    last = f" to {rest.stop}" if len(rest) > 1 else ""
    print(f"Epoch {rest.start + 1}{last}: {what}")


def _within_memory(run: Run, phase: Phase) -> None:
    """Train the epochs of a phase, with smaller micro-batches if it is asked for and needed."""
    model, progress, settings = run.model, run.progress, run.settings
    while settings.accumulate == "auto":
        before, best = copy.deepcopy(progress.state()), progress.best_weights
        kept = [v.numpy().copy() for v in (*model.variables, *model.optimizer.variables)]
        try:
            return _train_epochs(run, phase)
        except Exception as error:
            more = _next_accumulate(progress.accumulate, settings.batch_size, run.devices.count)
            if not is_out_of_memory(error) or more is None:
                raise
        vars(progress).update(before, best_weights=best, accumulate=more)
        if settings.verbose:
            size = settings.batch_size // more
            print(f"Out of memory: going on with micro-batches of {size}, {more} for each step")
        phase.compile(model, more, run.devices)
        for variable, value in zip(
            (*model.variables, *model.optimizer.variables), kept, strict=True
        ):
            variable.assign(value)
    return _train_epochs(run, phase)


def _next_accumulate(now: int, batch_size: int, devices: int) -> int | None:
    """Return the next number of micro-batches to try, at least twice as many, or None.

    Micro-batches are equal, and the devices share each evenly.
    """
    counts = range(2 * now, batch_size // devices + 1)
    return next((n for n in counts if batch_size % (n * devices) == 0), None)


def _train_epochs(run: Run, phase: Phase) -> None:
    progress, last = run.progress, phase.epochs.stop == run.settings.epochs
    patience = run.settings.early_stopping if last else None
    while progress.epoch < phase.epochs.stop and not progress.stopped:
        began = time.monotonic()
        steps_done = (progress.epoch + 1 - phase.epochs.start) * phase.steps
        if run.settings.verbose:
            print(f"Epoch {progress.epoch + 1}/{run.settings.epochs}")
        bar = keras.utils.Progbar(phase.steps, verbose=run.settings.verbose, unit_name="step")
        figures = _train_epoch(run, progress.epoch, bar)
        with _averages(run.model, phase):
            figures |= _validate(run)
            if patience is not None:
                _keep_best(run, figures, patience)
        bar.update(phase.steps, figures.items(), finalize=True)
        row = {
            "epoch": progress.epoch + 1,
            "phase": phase.name,
            **{name: figures[name] for name in FIGURES},
            "learning_rate": float(phase.schedule(steps_done - 1)),
            "seconds": round(time.monotonic() - began, 3),
        }
        progress.history.append(row)
        progress.epoch += 1
        run.folder.save(run.model, progress.state(), progress.best_weights)


def _train_epoch(run: Run, epoch: int, bar) -> dict[str, float]:
    """Return the means of the figures of an epoch's steps."""
    sums = dict.fromkeys(_FIGURES, 0.0)
    for step, batch in enumerate(run.batches.epoch(epoch), start=1):
        logs = run.devices.train(run.model, batch)
        sums = {name: total + float(logs[name]) for name, total in sums.items()}
        _check_finite(sums["loss"], run.settings)
        means = {name: total / step for name, total in sums.items()}
        if step < run.batches.steps:
            bar.update(step, [(name, float(logs[name])) for name in _FIGURES])
    return means


@contextlib.contextmanager
def _averages(model: keras.Model, phase: Phase) -> Iterator[None]:
    """Give the model the moving averages of its weights inside a ``with`` block."""
    if not phase.averaged:
        yield
        return
    swap = keras.callbacks.SwapEMAWeights()
    swap.set_model(model)
    swap.on_test_begin()
    try:
        yield
    finally:
        swap.on_test_end()


def _validate(run: Run) -> dict[str, float]:
    settings, sums, seen = run.settings, np.zeros(3), 0
    for pixels, classes in run.validation:
        rows = settings.batch_size // run.progress.accumulate
        parts = [
            predict(run.model, pixels[i : i + rows], rows) for i in range(0, len(pixels), rows)
        ]
        probabilities = np.concatenate(parts)
        entropies, smoothing = surprisals(probabilities), settings.label_smoothing
        of_truth = entropies[np.arange(len(classes)), classes]
        losses = (1 - smoothing) * of_truth + smoothing * entropies.mean(1)
        if settings.class_weight is not None:
            losses *= np.array(settings.class_weight)[classes]
        sums += losses.sum(), of_truth.sum(), (probabilities.argmax(1) == classes).sum()
        seen += len(classes)
    _check_finite(sums[0], settings)
    return dict(zip(FIGURES[3:], (float(total / seen) for total in sums), strict=True))


def _keep_best(run: Run, figures: dict[str, float], patience: int) -> None:
    """Keep the weights that were validated if they are the best so far, or count the epochs."""
    progress, score = run.progress, [figures["val_accuracy"], -figures["val_loss"]]
    if progress.best is None or score > progress.best:
        progress.best, progress.waited = score, 0
        progress.best_weights = run.model.get_weights()
    else:
        progress.waited += 1
    progress.stopped = progress.waited >= patience


def _check_finite(loss: float, settings: Settings) -> None:
    if not np.isfinite(loss):
        half = settings.precision not in (None, "float32")
        raise FloatingPointError(
            "Training diverged: the loss is no longer a number. Lower learning_rate, for "
            f"example to a third{', or leave precision out' * half}. Received: "
            f"learning_rate={settings.learning_rate}, precision={settings.precision!r}"
        )
