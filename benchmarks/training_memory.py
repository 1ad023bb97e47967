"""Memory of a training step of NF-ResNet-50 and of its twin, by batch size.

    python -m benchmarks.training_memory

Pictures of 224 pixels, float32, SGD with momentum. Every figure comes from a fresh process: its
peak during three steps minus its memory after building the network. Writes
benchmarks/training_memory.csv.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.speed.measuring import Contender
from benchmarks.tables import write_table

NETWORKS = ("nf_resnet50", "resnetv2_50")
BATCHES = (8, 16, 32)


def megabytes(network: str, batch: int) -> int:
    """Measure the memory of a step in a process of its own."""
    task = {"runtime": "keras", "form": "TensorFlow", "network": network}
    contender = Contender({**task, "size": 224, "training": True})
    contender.warm(batch)
    contender.run(1, batch)
    contender.close()
    return round(contender.memory[batch]["step_bytes"] / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default=Path(__file__).with_name("training_memory.csv"))
    args = parser.parse_args()
    rows = []
    for batch in BATCHES:
        row = {"batch": batch}
        row |= {f"{network} (MB)": megabytes(network, batch) for network in NETWORKS}
        ours, theirs = list(row.values())[1:]
        rows.append(row | {"ratio": round(ours / theirs, 2)})
    write_table(args.output, rows)


if __name__ == "__main__":
    main()
