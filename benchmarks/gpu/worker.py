"""Worker process of one contender, which builds, compiles and times its programs on request.

``schedule.py`` starts it. It speaks JSON, one object per line. ``{"build": task}`` imports and
builds on the processor and is answered by ``{"built": true, "facts": {...}}``. ``{"compile":
seconds, "overrun": seconds}`` compiles: it starts no compilation after the seconds of the first
and waits at most the seconds of the second for those that run. It is answered by ``{"compiled":
true, "stragglers": count}``. ``{"time": true}`` times the compiled programs and is answered by
``{"done": true}``. The result of each program is sent at once: ``{"program": place, "seconds":
[...]}`` or ``{"program": place, "error": line}``.
"""

from __future__ import annotations

import concurrent.futures
import gc
import importlib
import json
import os
import select
import sys
import time

RUNTIMES = {
    "jax": "benchmarks.gpu.jax_networks",
    "pytorch": "benchmarks.gpu.timm_networks",
    "tensorflow": "benchmarks.gpu.tensorflow_networks",
}


def measure(call, wait, repetitions: int, seconds: float) -> dict:
    """Measure the seconds of a call: the mean of each repetition, which lasts about ``seconds``.

    Args:
        call: function that enqueues one run.
        wait: function that returns when the last enqueued run has ended.
        repetitions: number of repetitions.
        seconds: duration of one repetition.
    """

    def of(times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            call()
        wait()
        return (time.perf_counter() - began) / times

    began = time.perf_counter()
    of(1)
    times = max(1, min(1000, round(seconds / of(2))))
    if times > 1:
        times = max(1, min(1000, round(seconds / of(times))))
    found = []
    while len(found) < repetitions and (len(found) < 3 or time.perf_counter() - began < 2.0):
        found.append(of(times))
    return {"seconds": found, "calls": times}


def first_line(error: BaseException) -> str:
    """Return the kind and first line of an error, short enough for a table."""
    text = str(error).strip() or "no message"
    return f"{type(error).__name__}: {text.splitlines()[0]}"[:200]


class Worker:
    """Worker that answers messages about one contender.

    Args:
        say: function that sends a message to the schedule.
    """

    def __init__(self, say):
        self._say, self._compiled = say, {}
        self._traced: set[int] = set()
        self._failures: set[int] = set()

    def build(self, task: dict) -> None:
        """Import the library, build the network, and trace programs until the compile message."""
        self._task = task
        self._network = importlib.import_module(RUNTIMES[task["runtime"]]).Network(task)
        self._say({"built": True, "facts": self._network.facts})
        for place in range(len(task["programs"])):
            if select.select([sys.stdin], [], [], 0)[0]:
                break
            self._trace(place)

    def compile(self, limit: float, overrun: float) -> None:
        """Compile the programs in order, as many at a time as the library allows."""
        end = time.monotonic() + limit
        places = range(len(self._task["programs"]))
        if self._network.threads == 1:
            longest = 0.0
            for place in places:
                # A compilation that never ends would cost the results of the others.
                self._compile(place, end - 0.7 * longest)
                if self._compiled.get(place):
                    longest = max(longest, self._compiled[place][1])
            self._say({"compiled": True, "stragglers": 0})
            return
        pool = concurrent.futures.ThreadPoolExecutor(self._network.threads)
        jobs = {}
        for place in places:
            if time.monotonic() < end:
                self._trace(place)
            jobs[place] = pool.submit(self._compile, place, end)
        left = end + overrun - time.monotonic()
        late = concurrent.futures.wait(jobs.values(), max(0.0, left)).not_done
        for place, job in jobs.items():
            if job in late:
                self._failed(place, TimeoutError("still compiling when the wave's time was over"))
        self._say({"compiled": True, "stragglers": len(late)})

    def time(self) -> None:
        """Time the compiled programs."""
        for place, program in enumerate(self._task["programs"]):
            if place in self._failures or place not in self._compiled:
                continue
            compiled, seconds = self._compiled.pop(place)
            try:
                call, wait, memory = self._network.start(program, compiled)
                options = self._task.get("timing", {"repetitions": 5, "seconds": 0.1})
                found = measure(call, wait, **options)
                found |= {"memory": memory(), "compile_seconds": seconds}
            except Exception as error:
                self._failed(place, error)
            else:
                self._say({"program": place, **found})
            call = wait = memory = compiled = None
            gc.collect()
            self._network.clean()
        self._say({"done": True})

    def _trace(self, place: int) -> None:
        if place in self._traced or place in self._failures:
            return
        try:
            self._network.trace(self._task["programs"][place])
            self._traced.add(place)
        except Exception as error:
            self._failed(place, error)

    def _compile(self, place: int, end: float) -> None:
        if place in self._failures:
            return
        try:
            if time.monotonic() > end:
                raise TimeoutError("not compiled: the wave's time for it was over")
            began = time.perf_counter()
            compiled = self._network.compile(self._task["programs"][place])
            self._compiled[place] = compiled, time.perf_counter() - began
        except Exception as error:
            self._failed(place, error)

    def _failed(self, place: int, error: BaseException) -> None:
        if place not in self._failures:
            self._failures.add(place)
            self._say({"program": place, "error": first_line(error)})


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # text that a library prints is not an answer
    worker = Worker(lambda message: print(json.dumps(message), file=answers, flush=True))
    for line in sys.stdin:
        message = json.loads(line)
        if "build" in message:
            worker.build(message["build"])
        elif "compile" in message:
            worker.compile(message["compile"], message["overrun"])
        else:
            worker.time()


if __name__ == "__main__":
    main()
