"""Schedule of waves of processes that compile together and are timed one by one, in a budget."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
WORKER = (sys.executable, "-m", "benchmarks.gpu.worker")
ENVIRONMENT = {
    "KERAS_BACKEND": "jax",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    # Trying every convolution out on the card took longer than the budget: 55 s were not enough
    # for NF-ResNet-50 in inference, on an H200 that several processes shared.
    "XLA_FLAGS": "--xla_gpu_autotune_level=0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "TORCHINDUCTOR_COMPILE_THREADS": "4",
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Seconds that a contender may take for each of its stages.

    Args:
        prepare: seconds of a wave after which its contenders start no further compilation.
        overrun: further seconds for the compilations that run then.
        grace: seconds for the contenders to report, before they are killed.
        time: average seconds for the timing of a program, before its contender is killed.
        worthwhile: smallest remaining budget with which a wave begins.
    """

    prepare: float = 75.0
    overrun: float = 15.0
    grace: float = 5.0
    time: float = 4.0
    worthwhile: float = 15.0

    @classmethod
    def within(cls, budget: float) -> Limits:
        """Return limits for a budget in seconds."""
        return cls(prepare=0.29 * budget, overrun=0.06 * budget, time=max(4.0, budget / 60))


class Contender:
    """A process with its programs and their results.

    Args:
        task: an entry of :func:`benchmarks.gpu.plan.plan`.
        command: the worker; it speaks the protocol of :mod:`benchmarks.gpu.worker`.
        messages: queue for ``(contender, message)``; the message is None when a process ends.
    """

    def __init__(self, task: dict, command: Sequence[str], messages: queue.Queue):
        self.task, self.facts = task, {}
        self.stage, self.stopped = "building", False
        self.open = list(range(len(task["programs"])))
        """Programs whose rows are not written yet."""
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, **ENVIRONMENT, **task.get("environment", {})},
            start_new_session=True,
        )
        threading.Thread(target=self._read, args=(messages,), daemon=True).start()
        self.send({"build": task})

    def send(self, message: dict) -> None:
        """Send a message to the process; its end is reported as a message too."""
        with contextlib.suppress(OSError, ValueError):
            print(json.dumps(message), file=self._process.stdin, flush=True)

    def stop(self) -> None:
        """Stop the process until it is resumed, so that it neither computes nor uses the card."""
        self.stopped = True
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the process."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the process and its children; its memory on the card is freed soon after."""
        self._signal(signal.SIGKILL)

    def _signal(self, kind: int) -> None:
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, kind)

    def last_words(self) -> str:
        """Return the end of the process with its last printed line."""
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        code = self._process.poll()
        how = f"ended by signal {-code}" if code and code < 0 else f"ended with {code}"
        return f"{how}: {lines[-1][:200]}" if lines else how

    def _read(self, messages: queue.Queue) -> None:
        for line in self._process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                messages.put((self, json.loads(line)))
        self._process.wait()
        messages.put((self, None))


class Schedule:
    """Runner of waves of contenders within a budget.

    Args:
        waves: waves from :func:`benchmarks.gpu.plan.plan`.
        budget: seconds after which every process is killed.
        write: function that gets ``(task, facts, program, result)`` for every result at once.
            The result has ``seconds`` and more, or ``error``.
        limits: limits of the stages.
        command: the worker.
    """

    def __init__(
        self,
        waves: list[list[dict]],
        budget: float,
        write: Callable[[dict, dict, dict, dict], None],
        limits: Limits = Limits(),
        command: Sequence[str] = WORKER,
    ):
        self._waves, self._write, self._limits = waves, write, limits
        self._command, self._budget = command, budget
        self._end = time.monotonic() + budget
        self._messages: queue.Queue = queue.Queue()
        self._running: list[Contender] = []

    def run(self) -> None:
        """Run all waves that fit; every program has a result afterwards."""
        try:
            coming = self._start(0)
            for place in range(len(self._waves)):
                wave, coming = coming, []
                if not wave:
                    self._skip(place)
                    continue
                self._prepare(wave)
                if self._left() > self._limits.worthwhile:
                    # The next contenders import and build on the processor while these are timed.
                    coming = self._start(place + 1)
                # Contenders that still compile have been stopped, and come last.
                for contender in sorted(wave, key=lambda contender: contender.stopped):
                    self._time(contender)
        finally:
            for contender in list(self._running):
                self._end_of(contender, self._spent())

    def _prepare(self, wave: list[Contender]) -> None:
        """Let every contender compile as soon as it is built; nothing is timed meanwhile."""
        limit = max(0.0, min(self._limits.prepare, 0.5 * self._left()))
        overrun = max(0.0, min(self._limits.overrun, 0.1 * self._left()))
        soft = time.monotonic() + limit
        end = min(soft + overrun + self._limits.grace, self._end)

        def compile_what_is_built():
            for contender in wave:
                if contender.stage == "built":
                    contender.stage = "compiling"
                    left = max(0.0, soft - time.monotonic())
                    contender.send({"compile": left, "overrun": overrun})

        compile_what_is_built()
        while busy := [c for c in wave if c.stage in ("building", "compiling")]:
            if not self._receive(end):
                for contender in busy:
                    seconds = limit + overrun + self._limits.grace
                    self._overran(contender, contender.stage, seconds)
                return
            compile_what_is_built()

    def _time(self, contender: Contender) -> None:
        if contender.stage != "compiled":
            return
        contender.stage = "timed"
        contender.resume()
        contender.send({"time": True})
        limit = self._limits.time * (2 + len(contender.open))
        end = min(time.monotonic() + limit, self._end)
        while contender.stage == "timed":
            if not self._receive(end):
                self._overran(contender, "being timed", limit)

    def _spent(self) -> str:
        return f"the budget of {self._budget:g} s was spent"

    def _overran(self, contender: Contender, doing: str, limit: float) -> None:
        why = self._spent() if self._left() <= 0 else f"it took more than {limit:.0f} s"
        self._end_of(contender, f"killed while {doing}: {why}")

    def _left(self) -> float:
        return self._end - time.monotonic()

    def _start(self, place: int) -> list[Contender]:
        tasks = self._waves[place] if place < len(self._waves) else ()
        started = []
        for task in tasks:
            started.append(Contender(task, self._command, self._messages))
            self._running.append(started[-1])
        return started

    def _skip(self, place: int) -> None:
        for task in self._waves[place]:
            for program in task["programs"]:
                error = f"not begun: {self._spent()}"
                self._write(task, {}, program, {"error": error})

    def _receive(self, end: float) -> bool:
        """Take the next message; return False if none comes before ``end``."""
        try:
            message = self._messages.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            return False
        self._take(*message)
        return True

    def _take(self, contender: Contender, message: dict | None) -> None:
        if contender.stage == "ended":
            return
        if message is None:
            self._end_of(contender, contender.last_words())
            return
        contender.facts |= message.get("facts", {})
        if "program" in message and message["program"] in contender.open:
            contender.open.remove(message["program"])
            program = contender.task["programs"][message["program"]]
            self._write(contender.task, contender.facts, program, message)
        if message.get("built"):
            contender.stage = "built"
        if message.get("compiled"):
            contender.stage = "compiled"
        if message.get("stragglers"):
            contender.stop()
        if message.get("done"):
            self._end_of(contender, "no result came")

    def _end_of(self, contender: Contender, why: str) -> None:
        contender.stage = "ended"
        contender.kill()
        if contender in self._running:
            self._running.remove(contender)
        for place in contender.open:
            program = contender.task["programs"][place]
            self._write(contender.task, contender.facts, program, {"error": why})
        contender.open = []
