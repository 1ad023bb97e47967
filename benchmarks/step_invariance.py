"""Distance of the weights from those of one device, if a step is split.

    python -m benchmarks.step_invariance

Five steps of a Wide ResNet of 10 layers at batch 16, on one device, on two replicas, in two
processes on loopback and in micro-batches, with adaptive gradient clipping, cutmix and weight
decay. Prints a table in Markdown: the largest difference of any weight.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

REPOSITORY = Path(__file__).parents[1]
CONFIG = REPOSITORY / "training" / "configs" / "wide_resnet_cifar10.py"

CUTS = {
    "2 replicas": ["--strategy=mirrored", "--replicas=2"],
    "2 processes": ["--strategy=multi_worker"],
    "2 micro-batches": ["--config.accumulate=2"],
    "4 micro-batches": ["--config.accumulate=4"],
}


def make_pictures(path: Path) -> None:
    """Write random pictures with random classes."""
    rng = np.random.default_rng(0)
    arrays = {"labels": [f"class {n}" for n in range(10)]}
    for split in ("train", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (80, 32, 32, 3), "uint8")
        arrays[f"{split}_classes"] = rng.integers(0, 10, 80, "int32")
    np.savez(path, **arrays)


def train(scheme: str, precision: str, arguments: list[str], pictures: Path, folder: Path):
    """Return the weights after five steps."""
    command = [
        *(sys.executable, "-m", "training.main", f"--config={CONFIG}:{scheme},10-1,smoke"),
        *(f"--config.data.source=arrays:{pictures}", f"--workdir={folder}"),
        *("--config.steps=5", "--config.batch_size=16", "--config.optimizer.agc=0.05"),
        *("--config.optimizer.learning_rate=0.1", "--config.augmentation.cutmix=1.0"),
        *(f"--precision={precision}", *arguments),
    ]
    environments = [dict(os.environ)]
    if "--strategy=multi_worker" in arguments:
        addresses = [f"127.0.0.1:{port}" for port in _free_ports(2)]
        environments = []
        for index in range(2):
            task = {"type": "worker", "index": index}
            config = json.dumps({"cluster": {"worker": addresses}, "task": task})
            environments.append({**os.environ, "TF_CONFIG": config})
    elif "--strategy=mirrored" not in arguments:
        command.append("--strategy=one_device")
    processes = [
        subprocess.Popen(
            command, env=one, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for one in environments
    ]
    for process in processes:
        output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(output.decode()[-3000:])
    state = load_file(folder / "checkpoints" / "step_000000005.safetensors")
    return {k: v for k, v in state.items() if k.startswith("model/") and v.dtype.kind == "f"}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        pictures = Path(root) / "pictures.npz"
        make_pictures(pictures)
        print("| scheme, precision | " + " | ".join(CUTS) + " |")
        print("|---" * (len(CUTS) + 1) + "|")
        for scheme in ("nf", "bn"):
            for precision in ("float32", "float64"):
                cells = []
                name = f"{scheme}-{precision}"
                whole = train(scheme, precision, [], pictures, Path(root) / name)
                for number, arguments in enumerate(CUTS.values()):
                    folder = Path(root) / f"{name}-{number}"
                    parts = train(scheme, precision, arguments, pictures, folder)
                    cells.append(max(float(np.max(np.abs(whole[k] - parts[k]))) for k in whole))
                print(f"| {scheme}, {precision} | " + " | ".join(f"{c:.0e}" for c in cells) + " |")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
