"""Worker process of one contender, which builds and runs it on request.

``measuring.py`` starts it. It speaks JSON, one object per line: ``{"prepare": {...}}`` is answered
by facts about the network, ``{"warm": batch}`` by any object once the network has seen a batch of
that size, and ``{"run": times, "batch": batch}`` by the seconds of every run.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable


def resident_bytes(field: str) -> int:
    """Return the memory of the process, ``"VmRSS"``, or its peak, ``"VmHWM"``; Linux only."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(field))


def forget_peak() -> None:
    """Reset the peak memory of the process."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def prepare(task: dict):
    """Return (function from a batch size to a function that runs once, facts about the network)."""
    if task["runtime"] == "pytorch":
        from benchmarks.speed import timm_networks as runtime
    else:
        from benchmarks.speed import keras_networks as runtime
    return runtime.prepare(task)


class Worker:
    """Worker that answers messages about one network."""

    def __init__(self):
        self._make = None
        self._runs: dict[int, Callable[[], object]] = {}
        self._held = 0

    def answer(self, message: dict) -> dict:
        """Return the answer to one message."""
        if "prepare" in message:
            self._make, facts = prepare(message["prepare"])
            return {**facts, "threads": os.cpu_count()}
        if "warm" in message:
            return self._warm(message["warm"])
        run, seconds, busy = self._runs[message["batch"]], [], []
        for _ in range(message["run"]):
            began, busy_before = time.perf_counter(), time.process_time()
            run()
            seconds.append(time.perf_counter() - began)
            busy.append(time.process_time() - busy_before)
        peak = resident_bytes("VmHWM")
        memory = {"peak_bytes": peak, "step_bytes": peak - self._held}
        return {"seconds": seconds, "busy": busy, **memory}

    def _warm(self, batch: int) -> dict:
        self._held = resident_bytes("VmRSS")
        forget_peak()
        self._runs = {batch: self._make(batch)}
        for _ in range(2):
            self._runs[batch]()
        return {}


def main() -> None:
    answers, worker = os.fdopen(os.dup(1), "w"), Worker()
    os.dup2(2, 1)  # text that a library prints is not an answer
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
