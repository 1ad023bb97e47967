"""Logs of a run: lines of progress, JSON lines, TensorBoard."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

from absl import logging

from nf_zoo import atomic
from nf_zoo.extras import remedy

FILE = "log.jsonl"


class Log:
    """Log of a run; without a folder, as on hosts other than the first, it writes no files.

    Records of steps after ``first_step``, from which the run goes on, are removed: those steps are
    done again.
    """

    def __init__(self, folder: Path | None, first_step: int, total_steps: int, batch_size: int):
        self._folder, self._total, self._batch = folder, total_steps, batch_size
        self._clock = (first_step, time.monotonic())
        self._writer = None
        if folder is not None:
            _keep(folder / FILE, lambda row: row["step"] <= first_step)
            self._writer = _summary_writer(folder)

    def training(self, step: int, loss: float, learning_rate: float) -> None:
        """Log, after ``step`` steps, the mean loss since the last call, speed and time left."""
        before, then = self._clock
        seconds = max(time.monotonic() - then, 1e-9)
        self._clock = (step, time.monotonic())
        rate = (step - before) * self._batch / seconds
        left = (self._total - step) * self._batch / max(rate, 1e-9)
        logging.info(
            "step %d of %d  loss %.4f  rate %.2e  %.1f images/s  %s left",
            *(step, self._total, loss, learning_rate, rate, duration(left)),
        )
        self._write(
            "training", step, loss=loss, learning_rate=learning_rate, images_per_second=rate
        )

    def evaluation(self, step: int, values: dict[str, float]) -> None:
        """Log an evaluation, in place of an earlier one of the same step."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        logging.info("step %d  evaluated: %s", step, shown)
        if self._folder is not None:
            mine = {"kind": "evaluation", "step": step}
            _keep(self._folder / FILE, lambda row: {**row, **mine} != row)
        self._write("evaluation", step, **values)

    def pause(self) -> None:
        """Leave the time since the last line, of evaluation or checkpoints, out of the speed."""
        self._clock = (self._clock[0], time.monotonic())

    def _write(self, kind: str, step: int, **values: float) -> None:
        if self._folder is None:
            return
        # JSON has neither infinities nor NaN.
        finite = {name: x if math.isfinite(x) else None for name, x in values.items()}
        row = {"kind": kind, "step": step, "time": round(time.time(), 3), **finite}
        with (self._folder / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._writer is not None:
            import tensorflow as tf

            with self._writer.as_default(step):
                for name, value in values.items():
                    tf.summary.scalar(f"{kind}/{name}", value)


def _keep(path: Path, wanted: Callable[[dict], bool]) -> None:
    """Remove the JSON lines that are not wanted, and a line that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if wanted(json.loads(line)):
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    atomic.write_text(path, "".join(kept))


def duration(seconds: float) -> str:
    """Return ``"2 h 05 min"`` or ``"3 min 20 s"``."""
    seconds = round(min(seconds, 1e9))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds % 60:02d} s"


def _summary_writer(folder: Path):
    import keras

    if keras.backend.backend() != "tensorflow":  # importing it would seize the accelerator
        logging.info("No TensorBoard files are written: they need KERAS_BACKEND=tensorflow")
        return None
    try:
        import tensorboard  # noqa: F401
        import tensorflow as tf
    except ModuleNotFoundError as error:
        logging.info("No TensorBoard files are written: %s", remedy(error.name))
        return None
    return tf.summary.create_file_writer(str(folder / "tensorboard"))
