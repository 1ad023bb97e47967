"""Training step with different operations for normalization and activation.

    python -m benchmarks.training_forms

ResNetV2-50 with Keras's batch normalization and with TensorFlow's fused operation, beside
NF-ResNet-50; NFNet-F0 with the GELU of this package and with TensorFlow's. Steps of SGD with
momentum on eight pictures, medians of turns. Every network has a process of its own; its memory is
the peak minus the memory before the steps. Writes benchmarks/training_forms.csv.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from benchmarks.speed.measuring import build, take_turns
from benchmarks.tables import write_table

BATCH = 8
GROUPS = {  # (pixels of a side, precision) -> (network, form)
    (224, "float32"): (
        ("nf_resnet50", "TensorFlow"),
        ("resnetv2_50", "TensorFlow"),
        ("resnetv2_50", "TensorFlow, fused normalization"),
    ),
    (224, "mixed_bfloat16"): (
        ("nf_resnet50", "TensorFlow"),
        ("resnetv2_50", "TensorFlow"),
        ("resnetv2_50", "TensorFlow, fused normalization"),
    ),
    (192, "float32"): (
        ("nfnet_f0", "TensorFlow"),
        ("nfnet_f0", "TensorFlow, GELU of TensorFlow"),
    ),
}


def measure(size: int, precision: str, contestants, turns: int) -> list[dict]:
    """Return the rows of networks that take turns."""
    shared = {"runtime": "keras", "size": size, "precision": precision, "training": True}
    contenders = build([{**shared, "network": n, "form": f} for n, f in contestants], {})
    take_turns(contenders, BATCH, turns, runs=1)
    rows = []
    for contender in contenders:
        rows.append(
            {
                **{name: contender.task[name] for name in ("network", "form", "precision")},
                "milliseconds": round(1000 * statistics.median(contender.seconds[BATCH])),
                "megabytes": round(contender.memory[BATCH]["step_bytes"] / 2**20),
            }
        )
        contender.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--turns", type=int, default=9)
    args = parser.parse_args()
    rows = []
    for (size, precision), contestants in GROUPS.items():
        rows += measure(size, precision, contestants, args.turns)
    write_table(args.output, rows)


if __name__ == "__main__":
    main()
