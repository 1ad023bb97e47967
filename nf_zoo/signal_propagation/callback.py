"""Signal propagation while a model trains, and an alarm before the loss turns NaN."""

import dataclasses
import importlib.util
import logging
import math
import os
from pathlib import Path
from typing import Any

import keras

from nf_zoo import atomic
from nf_zoo.extras import remedy
from nf_zoo.signal_propagation.measure import signal_propagation
from nf_zoo.signal_propagation.result import FIELDS, SignalPropagation

logger = logging.getLogger("nf_zoo")


class SignalPropagationCallback(keras.callbacks.Callback):
    """Callback that measures the model during ``fit``: records by epoch, alarms by batch.

    Args:
        images: pictures to measure on, as for
            :func:`~nf_zoo.signal_propagation.measure.signal_propagation`. They are measured again
            and again: an array, a shape or None is best, since files are read anew each time. A
            few pictures are enough. Only the record before training has the variance that theory
            expects at initialization.
        every: epochs between two records; epoch 0 is a record before training.
        csv_path: file for the rows of every record, with the epoch; None for none.
        log_dir: folder for TensorBoard; None for none. Needs TensorFlow and TensorBoard, on any
            backend; without them a log line says so, and everything else is written.
        alarm_every: batches between two checks for trouble; 0 for no checks.
        alarm_factor: factor by which the variance of a block may exceed its variance before the
            training; a larger or non-finite variance raises the alarm.
        stop: whether an alarm ends the training.
        **options: further options of ``signal_propagation``.

    Attributes:
        records: (epoch, SignalPropagation) for every record.
        alarms: (batches seen, name of the block, variance) for every alarm.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> import nf_zoo
        >>> import numpy as np
        >>> model = nf_zoo.NFResNet14(num_classes=2)
        >>> model.compile("sgd", "sparse_categorical_crossentropy")
        >>> callback = nf_zoo.SignalPropagationCallback((8, 32, 32, 3), csv_path="signals.csv")
        >>> images, labels = np.random.randn(8, 32, 32, 3), np.arange(8) % 2
        >>> history = model.fit(images, labels, callbacks=[callback], verbose=0)
    """

    def __init__(
        self,
        images: Any,
        *,
        every: int = 1,
        csv_path: str | os.PathLike | None = None,
        log_dir: str | os.PathLike | None = None,
        alarm_every: int = 20,
        alarm_factor: float = 100.0,
        stop: bool = False,
        **options: Any,
    ):
        super().__init__()
        if every < 1 or alarm_every < 0 or not alarm_factor > 1:
            raise ValueError(
                "every must be at least 1, alarm_every at least 0 and alarm_factor above 1. "
                f"Received: every={every}, alarm_every={alarm_every}, alarm_factor={alarm_factor}"
            )
        self.images, self.every, self.options = images, every, options
        self.csv_path = None if csv_path is None else Path(csv_path).expanduser()
        self.log_dir = None if log_dir is None else _with_tensorboard(os.fspath(log_dir))
        self.alarm_every, self.alarm_factor, self.stop = alarm_every, alarm_factor, stop
        self.records: list[tuple[int, SignalPropagation]] = []
        self.alarms: list[tuple[int, str, float]] = []
        self._batches, self._done, self._began, self._writer = 0, 0, False, None

    def on_train_begin(self, logs=None):
        self.alarms, self._batches, self._began = [], 0, False
        if self.log_dir is not None:
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(self.log_dir)

    def on_epoch_begin(self, epoch, logs=None):
        self._done = 0
        if not self._began:  # with initial_epoch, the records of the epochs before stay
            self.records, self._began = [row for row in self.records if row[0] < epoch], True
            self._record(epoch)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            self._record(epoch + 1)

    def on_train_batch_end(self, batch, logs=None):
        # With ``steps_per_execution`` Keras calls once for several batches.
        before, self._batches = self._batches, self._batches + batch + 1 - self._done
        self._done = batch + 1
        if not self.alarm_every or self.alarms:
            return
        if self._batches // self.alarm_every > before // self.alarm_every:
            self._look_for_trouble(self._measure())

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()

    def _measure(self) -> SignalPropagation:
        # Under JAX the variables lag behind the training until they are synchronized.
        getattr(self.model, "jax_state_sync", lambda: None)()
        # By the statistics of the first record: those of the batch and of the past do not compare.
        options = self.options
        if self.records:
            options = {"batch_statistics": self.records[0][1].batch_statistics, **options}
        return signal_propagation(self.model, self.images, **options)

    def _record(self, epoch: int) -> None:
        result = self._measure()
        self.records.append((epoch, result))
        if epoch and not self.alarms:
            self._look_for_trouble(result)
        if self.csv_path is not None:
            rows = [
                {"epoch": epoch, **dataclasses.asdict(block)}
                for epoch, result in self.records
                for block in result
            ]
            atomic.write_rows(self.csv_path, ("epoch", *FIELDS), rows)
        if self._writer is not None:
            self._write_summary(epoch, result)

    def _look_for_trouble(self, result: SignalPropagation) -> None:
        for before, now in zip(self.records[0][1], result, strict=True):
            limit = self.alarm_factor * max(before.variance, 1e-12)
            if math.isfinite(now.variance) and now.variance <= limit:
                continue
            self.alarms.append((self._batches, now.name, now.variance))
            logger.warning(
                "signal propagation: after %d batches the variance of %s is %.3g (%.3g before the "
                "training): the loss is about to diverge. Lower the learning rate, or clip the "
                "gradients.",
                self._batches,
                now.name,
                now.variance,
                before.variance,
            )
            if self.stop:
                self.model.stop_training = True
            return

    def _write_summary(self, epoch: int, result: SignalPropagation) -> None:
        import tensorflow as tf

        with self._writer.as_default(step=epoch):
            for block in result:
                for field in ("squared_mean", "variance", "residual_variance"):
                    value = getattr(block, field)
                    if value is not None:
                        tf.summary.scalar(f"{field}/{block.name}", value)
        self._writer.flush()


def _with_tensorboard(log_dir: str) -> str | None:
    """Return the folder, or None and log a warning if TensorBoard cannot be written."""
    missing = [
        name for name in ("tensorflow", "tensorboard") if importlib.util.find_spec(name) is None
    ]
    if not missing:
        return log_dir
    logger.warning(
        "signal propagation: nothing is written for TensorBoard in %s, because this is not "
        "installed: %s; records and CSV are still written. To install: %s",
        log_dir,
        " and ".join(missing),
        " and ".join(map(remedy, missing)),
    )
    return None
