"""The loop around the steps: logging, evaluation, checkpoints, interruption and divergence."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import signal
import time
from pathlib import Path

import numpy as np
from absl import logging

import nf_zoo
from nf_zoo import atomic
from training import augmentation, provenance
from training.checkpoints import Checkpoints
from training.logs import Log
from training.recipe import RecipeError

DIVERGED = "diverged.json"


@dataclasses.dataclass(frozen=True)
class Plan:
    """The length of a run, in steps."""

    steps: int  # steps of the whole run
    steps_per_epoch: float  # may be a fraction
    evaluate_every: int  # steps between evaluations
    early_steps: int  # first steps, on pictures of the recipe's ``data.early_size``

    @classmethod
    def of(cls, recipe, train_size: int) -> Plan:
        """Return the plan of a recipe for ``train_size`` training pictures."""
        per_epoch = train_size / recipe.batch_size
        steps = recipe.steps or math.ceil(recipe.epochs * per_epoch)
        every = max(round(recipe.evaluation.every_epochs * per_epoch), 1)
        return cls(steps, per_epoch, every, round(recipe.data.early_epochs * per_epoch))


class Clock:
    """Position on the schedule of a run that ends by the clock.

    The schedule has ``steps``; the run ends when ``time.monotonic`` gives ``end``.
    """

    def __init__(self, end: float, steps: int):
        self._end, self._steps = end, steps
        self._start: tuple[float, int] | None = None

    def start(self, place: int) -> None:
        """Begin, or go on, now and at a step of the schedule."""
        self._start = time.monotonic(), place

    def place(self) -> int:
        """Return the step of the schedule that is due, at most the number of its steps."""
        then, place = self._start
        share = (time.monotonic() - then) / max(self._end - then, 1e-9)
        return min(place + int(share * (self._steps - place)), self._steps)


class Diverged(RuntimeError):
    """The loss or its gradient is no longer finite."""


class Trainer:
    """Training of a session's model, to the end of its plan or to an interruption."""

    def __init__(self, session):
        self.recipe, self.plan, self.clock = session.recipe, session.plan, session.clock
        self.engine, self.feed, self.schedule = session.engine, session.feed, session.schedule
        self.folder, self.chief = session.folder, session.chief
        self.checkpoints = Checkpoints(
            self.folder / "checkpoints", session.identity, self.recipe.run.keep
        )
        self.step = self.place = 0
        self._stop = False
        self._saved = (-1, time.monotonic())
        self._losses: list = []

    def resume(self, to_train: bool = True) -> int:
        """Go on from the newest undamaged checkpoint; return its step, or 0."""
        found = self.checkpoints.load_newest()
        if found is not None:
            self.step, state = found
            self.engine.restore(state)
            place = self.engine.iterations()
            behind = self.engine.scaled and place < self.step  # loss scaling leaves out steps
            if to_train and not (self.clock or place == self.step or behind):
                raise RecipeError(
                    "The run was begun by the clock: give --minutes again. Received: step "
                    f"{self.step} at place {place} of the schedule"
                )
            self.place = place if self.clock else self.step
            logging.info("Going on from step %d", self.step)
            self._saved = (self.step, time.monotonic())
        if self.engine.agree(self.step) != -self.engine.agree(-self.step):
            raise OSError(
                "The hosts found checkpoints of different steps: --workdir must be one folder "
                f"that they all see. Received: step {self.step} on this host"
            )
        return self.step

    def run(self) -> dict[str, float] | None:
        """Train to the end; return the last evaluation, or None if SIGTERM interrupts."""
        if self.chief:
            (self.folder / DIVERGED).unlink(missing_ok=True)  # of a run before it went on
        before = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_stop", True))
        try:
            return self._run()
        finally:
            signal.signal(signal.SIGTERM, before)

    def _run(self):
        folder = self.folder if self.chief else None
        self.log = Log(folder, self.step, self.plan.steps, self.recipe.batch_size)
        batches = iter(self.feed.train(self.step)) if self.place < self.plan.steps else None
        if self.clock and batches:
            batches = self._start_clock(batches)
        values: dict[str, float] = {}
        while self.place < self.plan.steps:
            early = self.place < self.plan.early_steps
            size = self.recipe.data.early_size if early else None
            self._losses.append(self.engine.train_step(next(batches), size))
            self.step += 1
            self._move_on()
            last = self.place == self.plan.steps
            if last or self.step % self.recipe.run.log_every == 0:
                self._flush()
            if last or self.step % self.plan.evaluate_every == 0:
                self._flush()
                values = self._evaluate()
            if not last and self._interrupted():
                self._flush()
                self.save()
                logging.info("Interrupted after step %d; the same command goes on", self.step)
                return None
            if self._due():
                self._flush()
                self.save()
        return values or self._evaluate()

    def _start_clock(self, batches):
        """Compile the first step, and then start the clock."""
        first = next(batches)
        if hasattr(self.engine, "compile_ahead"):
            sizes = (self.recipe.data.early_size, None) if self.plan.early_steps else (None,)
            self.engine.compile_ahead(first, sizes, next(iter(self.feed.test())))
        self.clock.start(self.place)
        return itertools.chain([first], batches)

    def _move_on(self) -> None:
        """Move to the next step of the schedule, or to the step that is due by the clock."""
        self.place = self.step
        if self.clock:
            self.place = self.clock.place()
            self.engine.set_iterations(self.place)

    def save(self) -> None:
        """Write a checkpoint of the present step."""
        if self._saved[0] != self.step:
            state = self.engine.state()  # on every host: reading may need them all
            if self.chief:
                self.checkpoints.save(self.step, state)
        self._saved = (self.step, time.monotonic())
        self.log.pause()

    def evaluate(self) -> dict[str, float]:
        """Return loss and accuracies; ``ema_`` begins the names of those of averaged weights."""
        values = self.engine.evaluate(self.feed.test())
        if self.recipe.ema:
            with self.engine.averaged():
                averaged = self.engine.evaluate(self.feed.test())
            values.update({f"ema_{name}": value for name, value in averaged.items()})
        return values

    def export(self, values: dict[str, float]) -> Path:
        """Write ``model/``, with averaged weights if the recipe has them, and results.json."""
        model = self.engine.model
        path = self.folder / "model"
        if not self.recipe.ema:
            self.engine.state()  # brings the model up to date
        with self.engine.averaged() if self.recipe.ema else contextlib.nullcontext():
            nf_zoo.save_pretrained(model, path, overwrite=True)
        origin = {"commit": provenance.commit(), "device": provenance.device()}
        epochs = round(self.step / self.plan.steps_per_epoch, 2)
        length = {"step": self.step, "epochs": epochs, "by_the_clock": self.clock is not None}
        results = {**length, **values, **origin, "recipe": self.checkpoints.identity}
        atomic.write_text(self.folder / "results.json", json.dumps(results, indent=2) + "\n")
        return path

    def _evaluate(self) -> dict[str, float]:
        values = self.evaluate()
        self.log.evaluation(self.step, values)
        top1 = values.get("ema_top1", values["top1"])
        best = self.checkpoints.best() or {"top1": -1.0, "step": -1}
        if top1 > best["top1"] or best["step"] > self.step or self.place == self.plan.steps:
            self.save()
            if self.chief and (top1 > best["top1"] or best["step"] > self.step):
                self.checkpoints.mark_best(self.step, top1)
        self.log.pause()
        return values

    def _flush(self) -> None:
        """Log the losses since the last time; raise Diverged if one is not finite."""
        if not self._losses:
            return
        losses = np.array([float(loss) for loss in self._losses])
        first = self.step - len(losses)
        self._losses = []
        finite = np.isfinite(losses)
        if not finite.all():
            self._diverged(first + int(np.argmin(finite)))
        rate = float(self.schedule(max(self.place - 1, 0)))
        self.log.training(self.step, float(losses.mean()), rate)

    def _diverged(self, step: int):
        place = self._where_it_diverged(step)
        steps = self.checkpoints.steps()
        kept = f"the last good checkpoint is of step {steps[-1]}" if steps else "no checkpoint yet"
        message = (
            f"The loss or its gradient was not finite at step {step}: {place}. Lower the learning "
            f"rate or clip adaptively (--config.optimizer.agc=0.01); {kept}."
        )
        if self.chief:
            row = {"step": step, "where": place, "checkpoints": steps}
            atomic.write_text(self.folder / DIVERGED, json.dumps(row) + "\n")
        raise Diverged(message)

    def _where_it_diverged(self, step: int) -> str:
        """Return in words which block diverged, given the pictures of the step, counted from 0.

        Updates that are not finite are left out. So the weights are those of the step, or of one
        of the ``run.log_every`` that follow until the losses are read.
        """
        images = np.asarray(self.feed.pictures(step))
        self.engine.state()  # brings the model up to date
        images = np.asarray(augmentation.normalize(self.recipe, images))
        try:
            rows = nf_zoo.signal_propagation(self.engine.model, images).to_dict()["blocks"]
        except (ValueError, FloatingPointError) as error:
            logging.warning("The signal could not be measured: %s", error)
            return "the signal could not be measured"
        if not rows:
            return "the network has no residual blocks to measure"
        for row in rows:
            if not math.isfinite(row["variance"]):
                return f"the output of {row['name']} is the first that is not finite"
        largest = max(rows, key=lambda row: row["variance"])
        return (
            "all activations are finite, and their variance is largest, "
            f"{largest['variance']:.3g}, after {largest['name']}"
        )

    def _due(self) -> bool:
        """Return True if a checkpoint is due, by steps or by time."""
        given = self.recipe.run
        if given.checkpoint_steps and self.step % given.checkpoint_steps == 0:
            return True
        if self.step % given.log_every:  # hosts compare their clocks only at these steps
            return False
        minutes = (time.monotonic() - self._saved[1]) / 60.0
        return self.engine.agree(float(minutes > given.checkpoint_minutes)) > 0

    def _interrupted(self) -> bool:
        """Return True if the run must stop; several hosts agree at log steps and stop together."""
        if self.engine.hosts == 1:
            return self._stop
        if self.step % self.recipe.run.log_every:
            return False
        return self.engine.agree(float(self._stop)) > 0
