"""Python programs in a process of their own, for what a running TensorFlow cannot change.

TensorFlow takes five seconds to import. So one process imports it and Keras, runs nothing and knows
nothing of nf_zoo; every program gets a copy of that process (a fork), with a folder, environment,
arguments and output of its own. What is read when a library is imported, such as the backend,
cannot be changed afterwards: programs with such settings start from nothing.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]

READ_ON_IMPORT = ("KERAS_", "TF_ENABLE_", "TF_CPP_", "JAX_")


def run(program: str, *arguments, cwd: Path = REPOSITORY, **environment: str):
    """Run a program as ``python -c`` would.

    Args:
        program: the program's text.
        *arguments: what it finds in ``sys.argv``.
        cwd: the folder that it runs in.
        **environment: changes of this process's environment variables.

    Returns:
        a ``subprocess.CompletedProcess`` with its output and errors as text.
    """
    arguments = [str(argument) for argument in arguments]
    settings = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    if any(name.startswith(READ_ON_IMPORT) for name in environment) or "fork" not in dir(os):
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as folder:
        outputs = [f"{folder}/stdout", f"{folder}/stderr"]
        server = _server()
        job = [program, arguments, str(cwd), settings, outputs]
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        texts = [Path(output).read_text() for output in outputs]
    return subprocess.CompletedProcess([program, *arguments], code, *texts)


def printed_by(program: str, *arguments, **options) -> str:
    """The last word that a program prints; the test fails with its errors if it fails."""
    return succeed(program, *arguments, **options).stdout.split()[-1]


def succeed(program: str, *arguments, **options):
    """:func:`run` a program that must end well."""
    done = run(program, *arguments, **options)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@functools.cache
def _server() -> subprocess.Popen:
    """The process that the programs are copies of; it ends when its input does."""
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**settings, "TF_CPP_MIN_LOG_LEVEL": "3"},
        text=True,
    )


def _next_job() -> list | None:
    """Answer jobs with the exit status of a copy of this process, which gets the job."""
    import gc

    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def _become(arguments: list[str], folder: str, environment: dict, outputs: list[str]) -> None:
    """Make this process as one that has just started."""
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for descriptor, output in enumerate(outputs, start=1):
        with open(output, "wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = ["-c", *arguments]
    sys.path[:1] = ["", *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]


if __name__ == "__main__":
    job = _next_job()
    if job is not None:
        _become(*job[1:])
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(job[0], "<string>", "exec"), vars(sys.modules["__main__"]))
