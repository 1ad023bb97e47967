"""The folder of a run: its checkpoints, resuming and replacing it, and its atomic appearance."""

from __future__ import annotations

import dataclasses
import json
import os
import reprlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from nf_zoo import atomic

REPORT, RECORD = "report.json", "run.json"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """State of a run after an epoch: a folder, and the values saved beside the weights."""

    path: Path
    state: dict[str, Any]

    def restore(self, model: keras.Model) -> None:
        """Put weights, optimizer and random states back into a compiled model.

        The layers of nf_zoo keep their random states among their weights.
        """
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        model.load_weights(self.path / "run.weights.h5")

    def best_weights(self) -> list[np.ndarray] | None:
        """Return the weights of the best epoch, or None if early stopping keeps none."""
        if not (self.path / "best.npz").exists():
            return None
        with np.load(self.path / "best.npz") as saved:
            return [saved[name] for name in saved.files]


class RunFolder:
    """Folder of a run: ``output`` at the end, ``output.partial`` beside it until then.

    Without ``output`` nothing is written. ``resume`` goes on with an unfinished run or accepts a
    finished one; ``overwrite`` discards or replaces it.

    Raises:
        FileExistsError: if there is something at ``output`` that may not be replaced.
        ValueError: if the arguments contradict each other.
    """

    def __init__(self, output: str | os.PathLike | None, resume=False, overwrite=False):
        if resume and overwrite:
            raise ValueError("resume and overwrite exclude each other. Received: both")
        if resume and output is None:
            raise ValueError("resume needs the output folder of the run. Received: output=None")
        self._overwrite, self.finished = overwrite, False
        self.output = self.partial = None
        if output is not None:
            self.output = Path(output).expanduser().absolute()
            self.partial = self.output.with_name(self.output.name + ".partial")
            self._check(resume)

    def _check(self, resume: bool) -> None:
        output, partial = self.output, self.partial
        unfinished = self.latest() is not None
        taken = output.is_file() or (output.is_dir() and any(output.iterdir()))
        taken = taken and not (resume and unfinished)
        mine, wanted = (output / REPORT).is_file(), resume or self._overwrite
        if partial.exists() and any(partial.iterdir()) and not (partial / RECORD).is_file():
            problem = f"{partial}, which the run needs, holds something else. Choose another path"
        elif unfinished and not wanted:
            problem = (
                f"{partial} holds an unfinished run. Go on with resume=True, or discard it with "
                "overwrite=True"
            )
        elif taken and not mine:
            problem = (
                "output exists and is not the folder of a fine-tuning run, so it is left alone. "
                "Choose another path"
            )
        elif taken and not wanted:
            problem = (
                "output holds a finished run. Choose another path, or replace it with "
                "overwrite=True"
            )
        else:
            self.finished = taken and resume
            return
        raise FileExistsError(f"{problem}. Received: output={str(output)!r}")

    def begin(self, description: dict[str, Any]) -> None:
        """Start or resume the run; ``description`` is everything that decides its outcome.

        A run without a checkpoint is started anew.

        Raises:
            ValueError: if the run to be resumed was started with another description.
        """
        if self.output is None:
            return
        description = json.loads(json.dumps(description))
        if self.finished:
            return _check_same(json.loads((self.output / REPORT).read_text())["run"], description)
        record = self.partial / RECORD
        if not self._overwrite and self.latest() is not None:
            saved = json.loads(record.read_text())
            self._overwrite = saved["overwrite"]
            return _check_same(saved["run"], description)
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        text = json.dumps({"run": description, "overwrite": self._overwrite}, indent=1)
        atomic.write_text(record, text)

    def latest(self) -> Checkpoint | None:
        """Return the last checkpoint of the run, or None."""
        if not self.partial or not (saved := sorted(self.partial.glob("epoch-*"))):
            return None
        return Checkpoint(saved[-1], json.loads((saved[-1] / "state.json").read_text()))

    def save(
        self, model: keras.Model, state: dict[str, Any], best: Sequence[np.ndarray] | None = None
    ) -> None:
        """Write a checkpoint, and then remove the one before."""
        if self.partial is None:
            return
        target = self.partial / f"epoch-{state['epoch']:05d}"
        with atomic.replacing(target) as unfinished:
            unfinished.mkdir()
            model.save_weights(unfinished / "run.weights.h5")
            if best is not None:
                np.savez(unfinished / "best.npz", *best)
            (unfinished / "state.json").write_text(json.dumps(state))
        for old in self.partial.glob("epoch-*"):
            if old != target:
                shutil.rmtree(old)

    def finish(self, write: Callable[[Path], None]) -> None:
        """Let ``write`` fill a folder, and move it to ``output`` in one step."""
        if self.output is None:
            return
        result = self.partial / "result"
        shutil.rmtree(result, ignore_errors=True)
        result.mkdir()
        write(result)
        if not self._overwrite and self.output.is_dir() and any(self.output.iterdir()):
            raise FileExistsError(
                f"{self.output} appeared while the run was under way; the results are in {result}."
            )
        replaced = self.partial / "replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        atomic.swap(result, self.output, replaced)
        shutil.rmtree(self.partial)


def _check_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    if changed := differences(before, now):
        raise ValueError(
            "This run was started with other settings or pictures. Resume with the same, or use "
            f"overwrite=True to start again. Received: {'; '.join(changed[:8])}"
        )


def differences(before: Mapping, now: Mapping) -> list[str]:
    """Return the entries in which two dicts differ, as ``"epochs: 5 then, 6 now"``.

    Example:
        >>> differences({"epochs": 5}, {"epochs": 6})
        ['epochs: 5 then, 6 now']
    """
    found = []
    for key in sorted({*before, *now}):
        if isinstance(before.get(key), Mapping) and isinstance(now.get(key), Mapping):
            found += [f"{key} {line}" for line in differences(before[key], now[key])]
        elif before.get(key) != now.get(key):
            then, today = (reprlib.repr(side.get(key)) for side in (before, now))
            found.append(f"{key}: {then} then, {today} now")
    return found
