"""Origin of a figure: the commit of the code and the machine it ran on."""

import os
import platform
import subprocess
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


def commit() -> str:
    """Return the commit, with ``"-dirty"`` if files differ from it; ``"unknown"`` without git."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def device() -> str:
    """Return the accelerator's name under JAX, or else the processor's and its threads."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        if jax.default_backend() != "cpu":
            return jax.devices()[0].device_kind
    return f"{processor()}, {available_threads()} threads"


def processor() -> str:
    """Return the processor's name, as the system gives it."""
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.exists() else []
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def available_threads() -> int:
    """Return the number of hardware threads that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
