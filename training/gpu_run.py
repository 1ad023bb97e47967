"""Train several recipes at once on an accelerator that is available for a few minutes.

    KERAS_BACKEND=jax python -m training.gpu_run --minutes=8 --workdir=runs --output=results \\
        nf=training/configs/wide_resnet_cifar10.py:nf,gpu \\
        bn=training/configs/wide_resnet_cifar10.py:bn,gpu -- \\
        --config.data.source=folder:cifar10-jpeg.tar.xz --precision=mixed_bfloat16

Each NAME=RECIPE is a process of its own, a run of ``training.main`` with the flags after ``--``,
that ends by the clock. The result of a run, weights in float16, goes to ``--output`` in files of at
most ``--largest`` bytes; ``cat NAME.tar.* | tar x`` puts them together again. The same command
continues runs that were cut off. A run that diverges begins again at half its rate.
"""

import io
import os
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import app, flags, logging

FLAGS = flags.FLAGS
flags.DEFINE_float("minutes", None, "Minutes in all, the start of the processes included.")
flags.DEFINE_string("workdir", None, "Folder in which each run gets its own.")
flags.DEFINE_string("output", None, "Folder for the results of the runs.")
flags.DEFINE_integer("largest", 16_000_000, "Most bytes of an output file.")
flags.DEFINE_float("reserve", 0.5, "Minutes to leave for the last evaluation.")

LEFT_OUT = ("checkpoints", "model")


def train(name: str, recipe: str, given: list[str], workdir: Path, end: float) -> bool:
    """Run one recipe until ``end``, a ``time.monotonic``; return True if the run succeeded."""
    folder = workdir / name
    while True:
        diverged = len(list(workdir.glob(f"{name}.diverged*")))
        halved = _rate(recipe, given) / 2**diverged
        rate = [f"--config.optimizer.learning_rate={halved}"] * bool(diverged)
        minutes = (end - time.monotonic()) / 60.0
        if minutes <= 0:
            return False
        command = [sys.executable, "-m", "training.main", f"--config={recipe}", *given, *rate]
        command += [f"--workdir={folder}", f"--minutes={minutes:.3f}"]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "output.log").open("a", encoding="utf-8") as log:
            code = subprocess.run(command, stdout=log, stderr=log).returncode
        logging.info("%s ended with %d", name, code)
        if not (folder / "diverged.json").exists():
            return code == 0
        folder.rename(workdir / f"{name}.diverged{diverged}")


def _rate(recipe: str, given: list[str]) -> float:
    from training import recipe as recipes

    flag = "--config.optimizer.learning_rate="
    named = [word.removeprefix(flag) for word in given if word.startswith(flag)]
    return float(named[-1]) if named else recipes.load(recipe).optimizer.learning_rate


def pack(folder: Path, output: Path, largest: int) -> list[Path]:
    """Write a run's files, its network in float16, as a tar archive cut into files."""
    from safetensors.numpy import load_file, save

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(folder.iterdir()):
            if path.name not in LEFT_OUT:
                archive.add(path, f"{folder.name}/{path.name}")
        for path in sorted((folder / "model").glob("*")):
            member = f"{folder.name}/model/{path.name}"
            if path.suffix != ".safetensors":
                archive.add(path, member)
                continue
            half = {key: value.astype("float16") for key, value in load_file(path).items()}
            content = save(half)
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    output.mkdir(parents=True, exist_ok=True)
    packed, paths = buffer.getvalue(), []
    for number, start in enumerate(range(0, len(packed), largest)):
        paths.append(output / f"{folder.name}.tar.{number:02d}")
        paths[-1].write_bytes(packed[start : start + largest])
    return paths


def main(argv) -> int:
    logging.set_verbosity(logging.INFO)
    words = argv[1:]
    jobs = [word.split("=", 1) for word in words if not word.startswith("--")]
    given = [word for word in words if word.startswith("--")]
    if not jobs or any(len(job) != 2 for job in jobs):
        raise app.UsageError(f"Name the runs: NAME=RECIPE ... Received: {words}")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Autotuning tries every convolution on the card: over four minutes of NF-ResNet-50 on an H200.
    os.environ.setdefault("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    end = time.monotonic() + 60.0 * (FLAGS.minutes - FLAGS.reserve)
    workdir, output = Path(FLAGS.workdir), Path(FLAGS.output)

    def work(job) -> bool:
        name, recipe = job
        succeeded = train(name, recipe, given, workdir, end)
        # Of a run that diverged without time for another try, the last one is all there is.
        tried = [*sorted(workdir.glob(f"{name}.diverged*")), *workdir.glob(name)]
        for path in pack(tried[-1], output, FLAGS.largest) if tried else ():
            logging.info("%s: %d bytes", path, path.stat().st_size)
        return succeeded

    with ThreadPoolExecutor(len(jobs)) as pool:
        return 0 if all([*pool.map(work, jobs)]) else 1


if __name__ == "__main__":
    flags.mark_flags_as_required(["minutes", "workdir", "output"])
    app.run(main)
