"""The folder of a run: its checkpoints, resuming and replacing it, and its atomic appearance."""

import contextlib
import csv
import dataclasses
import errno
import json
import os
import reprlib
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from nf_zoo import atomic
from nf_zoo.pictures.class_folders import is_run, name_some

REPORT, RECORD, PICTURES = "report.json", "run.json", "pictures.csv"
_STATE, _RESULT = "state.npz", "result"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """State of a run after an epoch: a folder, and the values saved beside the weights."""

    path: Path
    state: dict[str, Any]

    def restore(self, model: keras.Model) -> None:
        """Put weights, optimizer and random states back into a compiled model."""
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        variables = _variables(model)
        for variable, value in zip(variables, _read(self.path / _STATE, variables), strict=True):
            variable.assign(value)

    def best_weights(self, model: keras.Model) -> list[np.ndarray] | None:
        """Return the model's weights of the best epoch; None if early stopping keeps none."""
        path = self.path / "best.npz"
        return list(_read(path, model.weights)) if path.exists() else None


def _read(path: Path, variables: Sequence[keras.Variable]) -> Iterator[np.ndarray]:
    """Yield the arrays of a file, each of the type of its variable."""
    with np.load(path) as saved:
        for name, variable in zip(saved.files, variables, strict=True):
            # NumPy does not know bfloat16 by name when it reads.
            yield saved[name].view(keras.ops.convert_to_numpy(variable).dtype)


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]


class RunFolder:
    """Folder of a run: ``output`` at the end, ``output.partial`` beside it until then.

    Without ``output`` nothing is written. ``resume`` goes on with an unfinished run or accepts a
    finished one; ``finish`` does the same and requires one; ``overwrite`` discards or replaces it.
    From :meth:`begin` to :meth:`close` no other run can write there.
    """

    def __init__(
        self, output: str | os.PathLike | None, resume=False, overwrite=False, finish=False
    ):
        goes_on = "resume" if resume else "finish"
        if (resume or finish) and overwrite:
            raise ValueError(f"{goes_on} and overwrite exclude each other. Received: both")
        if (resume or finish) and output is None:
            raise ValueError(f"{goes_on} needs the output folder of the run. Received: output=None")
        self._resume, self._overwrite, self.finished = resume or finish, overwrite, False
        self.output = self.partial = self._id = None
        self._held = contextlib.ExitStack()
        if output is not None:
            self.output = Path(output).expanduser().absolute()
            if self.output.is_symlink():
                self.output = self.output.resolve()
            if not self.output.name:
                raise ValueError(f"output must be a new folder. Received: output={str(output)!r}")
            atomic.check_movable(self.output)
            self.partial = self.output.with_name(self.output.name + ".partial")
            self._tidy()
            self._check()
            if finish and not self.finished and self.latest() is None:
                raise FileNotFoundError(
                    "There is no run to finish: output holds none with a complete epoch. "
                    f"Received: output={str(output)!r}"
                )

    def _tidy(self) -> None:
        """Remove what is left of a run that was killed after its delivery."""
        delivering = (self.partial / RECORD).is_file() and self._record()["delivering"]
        if delivering and not (self.partial / _RESULT).exists():
            self._remove()

    def _remove(self) -> None:
        """Remove the run, its record last, so that the rest is still known as a run's."""
        for path in self.partial.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != RECORD:
                path.unlink()
        shutil.rmtree(self.partial)

    def _check(self) -> None:
        output, partial = self.output, self.partial
        unfinished = self.latest() is not None
        taken = output.is_file() or (output.is_dir() and any(output.iterdir()))
        taken = taken and not (self._resume and unfinished)
        mine, wanted = is_run(output), self._resume or self._overwrite
        # What atomic writing leaves behind when it is killed is hidden.
        inside = [] if not partial.exists() else [p for p in partial.iterdir() if p.name[0] != "."]
        if inside and not (partial / RECORD).is_file():
            problem = f"{partial}, which the run needs, holds something else. Choose another path"
        elif unfinished and not wanted and not self._record()["failed"]:
            problem = (
                f"{partial} holds an unfinished run. Go on with resume=True, take its last epoch "
                "with finish=True, or discard it with overwrite=True"
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
            self.finished = taken and self._resume
            return
        raise FileExistsError(f"{problem}. Received: output={str(output)!r}")

    def begin(self, description: dict[str, Any], pictures: Iterable[Sequence] = ()) -> None:
        """Start or resume the run; one without a checkpoint is started anew.

        ``description`` is everything that decides the outcome, ``pictures`` (split, file, label,
        size in bytes) of each picture. To be resumed, a run must have the same.
        """
        if self.output is None:
            return
        description = json.loads(json.dumps(description))
        listed = {file: (split, label, str(size)) for split, file, label, size in pictures}
        if self.finished:
            saved = json.loads((self.output / REPORT).read_bytes())
            return _check_same(saved["run"], description, self.output / PICTURES, listed)
        if self.partial.exists():
            self._hold()
        if self._resume and self.latest() is not None:
            saved = self._record()
            self._overwrite, self._id = saved["overwrite"], saved["id"]
            _check_same(saved["run"], description, self.partial / PICTURES, listed)
            return self._write_record(description)  # neither failed nor delivered any more
        with atomic.explaining_full(f"A run cannot begin in {self.partial}"):
            shutil.rmtree(self.partial, ignore_errors=True)
            try:
                self.partial.mkdir(parents=True)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                raise type(error)(
                    f"output cannot be made there ({error.strerror}). Choose another path. "
                    f"Received: output={str(self.output)!r}"
                ) from error
            self._hold()
            self._id = uuid.uuid4().hex
            self._write_record(description)
            if listed:
                with open(self.partial / PICTURES, "w", **_NAMES) as file:
                    rows = csv.writer(file)
                    rows.writerow(("file", "split", "label", "bytes"))
                    rows.writerows((name, *row) for name, row in listed.items())

    def _hold(self) -> None:
        self.close()
        self._held.enter_context(atomic.alone_in(self.partial))

    def close(self) -> None:
        """Let another run have the folder."""
        self._held.close()

    def fail(self) -> None:
        """Note that the run cannot succeed as it is: another may start without ``overwrite``."""
        if self.output is not None:
            self._write_record(self._mine()["run"], failed=True)

    def _record(self) -> dict[str, Any]:
        absent = {"failed": False, "delivering": False, "id": None}
        return {**absent, **json.loads((self.partial / RECORD).read_bytes())}

    def _mine(self) -> dict[str, Any]:
        """Return the record after a check that no other run has begun in the folder."""
        if (self.partial / RECORD).is_file() and (record := self._record())["id"] == self._id:
            return record
        raise RuntimeError(
            "Another run has begun in the same folder, or the folder was removed: give each run an "
            f"output of its own. Received: {self.partial}"
        )

    def _write_record(self, description: dict[str, Any], failed=False, delivering=False) -> None:
        record = {"run": description, "id": self._id, "overwrite": self._overwrite}
        record |= {"failed": failed, "delivering": delivering}
        atomic.write_text(self.partial / RECORD, json.dumps(record, indent=1))

    def latest(self) -> Checkpoint | None:
        """Return the last checkpoint of the run, or None."""
        if not self.partial or not (saved := sorted(self.partial.glob("epoch-*"))):
            return None
        return Checkpoint(saved[-1], json.loads((saved[-1] / "state.json").read_bytes()))

    def save(
        self, model: keras.Model, state: dict[str, Any], best: Sequence[np.ndarray] | None = None
    ) -> None:
        """Write a checkpoint, and then remove the one before."""
        if self.partial is None:
            return
        self._mine()
        target = self.partial / f"epoch-{state['epoch']:05d}"
        last = "after the last saved epoch" if state["epoch"] > 1 else "from the start"
        explanation = (
            f"Epoch {state['epoch']} could not be saved in {self.partial}; what was saved before "
            f"is whole. Free some space, and resume=True goes on {last}"
        )
        with atomic.explaining_full(explanation), atomic.replacing(target) as unfinished:
            unfinished.mkdir()
            # Not a file of HDF5, whose library ends the process on a full disk.
            arrays = [keras.ops.convert_to_numpy(v) for v in _variables(model)]
            np.savez(unfinished / _STATE, *arrays)
            if best is not None:
                np.savez(unfinished / "best.npz", *best)
            (unfinished / "state.json").write_text(json.dumps(state), encoding="utf-8")
        for old in self.partial.glob("epoch-*"):
            if old != target:
                shutil.rmtree(old)

    def finish(self, write: Callable[[Path], None]) -> None:
        """Let ``write`` fill a folder, and move it to ``output`` in one step."""
        if self.output is None:
            return
        record, result = self._mine(), self.partial / _RESULT
        explanation = (
            f"The results could not be written to {result}; the trained epochs are kept. Free some "
            "space, and resume=True delivers them without training again"
        )
        shutil.rmtree(result, ignore_errors=True)
        try:
            with atomic.explaining_full(explanation):
                result.mkdir()
                write(result)
                if (self.partial / PICTURES).exists():
                    shutil.copyfile(self.partial / PICTURES, result / PICTURES)
        except BaseException:
            shutil.rmtree(result, ignore_errors=True)
            raise
        if not self._overwrite and self.output.is_dir() and any(self.output.iterdir()):
            raise FileExistsError(
                f"{self.output} appeared while the run was under way; the results are in {result}."
            )
        atomic.sync(result)
        replaced = self.partial / "replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        self._write_record(record["run"], delivering=True)
        atomic.swap(result, self.output, replaced)
        self._remove()


# Names may hold bytes that are not UTF-8.
_NAMES = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


def _check_same(
    before: dict[str, Any], now: dict[str, Any], pictures: Path, listed: Mapping[str, tuple]
) -> None:
    changed = differences(before, now)
    if listed and pictures.is_file():
        with open(pictures, **_NAMES) as file:
            then = {name: tuple(row) for name, *row in list(csv.reader(file))[1:]}
        if files := _changed_pictures(then, listed):
            # Digests say no more.
            changed = [line for line in changed if not line.startswith("pictures ")] + files
    if changed:
        raise ValueError(
            "This run was started with other settings or pictures. Resume with the same, or use "
            f"overwrite=True to start again. Received: {'; '.join(changed[:8])}"
        )


def _changed_pictures(before: Mapping[str, tuple], now: Mapping[str, tuple]) -> list[str]:
    """Return the differences between two lists of pictures, as ``"pictures added: a.png"``."""
    both = [name for name in now if name in before]
    found = {
        "added": [name for name in now if name not in before],
        "removed": [name for name in before if name not in now],
        "changed": [name for name in both if now[name][1:] != before[name][1:]],
    }
    # A picture that comes or goes moves others between training and validation.
    if not any(found.values()):
        found["in another split"] = [name for name in both if now[name] != before[name]]
    return [f"pictures {what}: {name_some(names, 5)}" for what, names in found.items() if names]


def differences(before: Mapping, now: Mapping) -> list[str]:
    """Return the entries in which two dicts differ, as ``"epochs: 5 then, 6 now"``."""
    found = []
    for key in sorted({*before, *now}):
        if isinstance(before.get(key), Mapping) and isinstance(now.get(key), Mapping):
            found += [f"{key} {line}" for line in differences(before[key], now[key])]
        elif before.get(key) != now.get(key):
            then, today = (reprlib.repr(side.get(key)) for side in (before, now))
            found.append(f"{key}: {then} then, {today} now")
    return found
