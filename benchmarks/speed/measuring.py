"""Contenders that take turns, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


class Contender:
    """A worker process that has built one network in one form.

    ``seconds`` has the time of every run by batch size, and ``busy`` the processor time of its
    threads, which other programs on the machine disturb less.

    Args:
        task: task for ``worker.prepare``, with its ``runtime`` and ``form``.
        python: the interpreter to run it with.

    Raises:
        RuntimeError: if it could not be built, with the last lines that the process printed.
    """

    def __init__(self, task: dict, python: str = sys.executable):
        self.task, self.seconds, self.busy, self.memory = task, {}, {}, {}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "1", **os.environ}
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.speed.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=REPOSITORY,
            env=environment,
        )
        self.facts = self._ask({"prepare": task})

    def warm(self, batch: int) -> None:
        """Prepare for batches of that size only."""
        self._ask({"warm": batch})
        self.seconds[batch], self.busy[batch] = [], []

    def run(self, times: int, batch: int) -> None:
        """Take a turn of ``times`` runs."""
        answer = self._ask({"run": times, "batch": batch})
        self.seconds[batch] += answer.pop("seconds")
        self.busy[batch] += answer.pop("busy")
        self.memory[batch] = answer

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._errors.close()

    def _ask(self, message: dict) -> dict:
        line = ""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(message), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            printed = self._errors.read().strip().splitlines()[-12:]
            raise RuntimeError("\n".join([f"{self.task}: ended with {code}", *printed]))
        return json.loads(line)


def build(tasks: Iterable[dict], pythons: dict[str, str]) -> list[Contender]:
    """Build the contenders and return those that succeeded; print the errors of the others.

    Args:
        tasks: tasks of :class:`Contender`.
        pythons: runtime -> interpreter, if it is not the running one.
    """
    contenders = []
    for task in tasks:
        try:
            contenders.append(Contender(task, pythons.get(task["runtime"], sys.executable)))
        except RuntimeError as error:
            print(f"Not measured: {error}", file=sys.stderr)
    return contenders


def take_turns(
    contenders: list[Contender],
    batch: int,
    turns: int,
    runs: int,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Let every contender run ``runs`` times in each of ``turns`` turns; call ``after`` each."""
    for contender in list(contenders):
        try:
            contender.warm(batch)
        except RuntimeError as error:
            print(f"Not measured: {error}", file=sys.stderr)
            contender.close()
            contenders.remove(contender)
    for _ in range(turns):
        for contender in contenders:
            contender.run(runs, batch)
        after()
