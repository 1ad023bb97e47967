"""Checkpoints, written whole or not at all, and checked when they are loaded.

A checkpoint is one safetensors file with every value that the next step depends on. Its metadata
hold the step, the recipe and a digest of the values. The pictures of a step follow from the
recipe's seed and the number of the step, so the step is also the position in the input.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import safetensors
from absl import logging
from safetensors.numpy import save_file

from nf_zoo import atomic
from nf_zoo.finetuning.run_folder import differences
from nf_zoo.pictures.class_folders import name_some
from training.recipe import RecipeError

NAME = re.compile(r"step_(\d{9})\.safetensors")
BEST = "best.json"


class Checkpoints:
    """The checkpoints of one run: the ``keep`` newest and the best."""

    def __init__(self, folder: str | os.PathLike, identity: dict, keep: int = 3):
        self.folder, self.identity, self.keep = Path(folder), identity, keep

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, the newest last."""
        if not self.folder.is_dir():
            return []
        matches = (NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def save(self, step: int, state: list[tuple[str, np.ndarray]]) -> Path:
        """Write a checkpoint, and remove those that are no longer kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(step)
        metadata = {"step": str(step), "recipe": json.dumps(self.identity), "digest": digest(state)}
        values = {key: np.asarray(value, order="C") for key, value in state}
        try:
            with atomic.replacing(path) as written:
                save_file(values, written, metadata)
        except safetensors.SafetensorError as error:
            raise OSError(f"The checkpoint could not be written to {path}: {error}") from error
        for later in self.steps():
            if later > step:  # damaged, or the run would have gone on from there
                self._path(later).unlink(missing_ok=True)
        self._tidy()
        return path

    def mark_best(self, step: int, metric: float) -> None:
        """Keep the checkpoint of a step until another is marked."""
        atomic.write_text(self.folder / BEST, json.dumps({"step": step, "top1": metric}) + "\n")
        self._tidy()

    def best(self) -> dict | None:
        """Return ``{"step": ..., "top1": ...}`` of the best checkpoint so far, or None."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.folder / BEST).read_bytes())
        return None

    def load_newest(self) -> tuple[int, dict[str, np.ndarray]] | None:
        """Return the newest undamaged checkpoint; warn about each damaged one."""
        steps = self.steps()
        for step in reversed(steps):
            try:
                return step, self.load(step)
            except RecipeError:
                raise
            except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
                logging.warning(
                    "The checkpoint of step %d is damaged and is skipped: %s", step, error
                )
        if steps:
            raise OSError(
                "No checkpoint can be read; remove the folder to start anew. "
                f"Received: {self.folder}"
            )
        return None

    def load(self, step: int) -> dict[str, np.ndarray]:
        """Return the values of one checkpoint."""
        with safetensors.safe_open(self._path(step), framework="numpy") as file:
            metadata = file.metadata() or {}
            check_identity(json.loads(metadata["recipe"]), self.identity, self.folder)
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if digest(state.items()) != metadata["digest"]:
            raise ValueError("its values are not those that were written")
        return state

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:09d}.safetensors"

    def _tidy(self) -> None:
        best = (self.best() or {}).get("step")
        for step in self.steps()[: -self.keep]:
            if step != best:
                self._path(step).unlink(missing_ok=True)
        for path in self.folder.glob(".*"):  # of a process that was killed
            shutil.rmtree(path, ignore_errors=True)


def digest(state) -> str:
    """Return a digest of names, shapes, types and values, in the order of the names."""
    total = hashlib.blake2b(digest_size=16)
    for key, value in sorted(state, key=lambda row: row[0]):
        value = np.asarray(value, order="C")
        total.update(f"{key} {value.shape} {value.dtype}".encode())
        total.update(value.tobytes())
    return total.hexdigest()


def check_identity(found: dict, expected: dict, folder) -> None:
    """Check that a run may go on from another's state."""
    if changed := differences(found, expected):
        raise RecipeError(
            "The working folder holds a run of another recipe. Choose another --workdir, or go on "
            f"with the recipe of that run. Received: {folder} ({name_some(changed, 5)})"
        )
