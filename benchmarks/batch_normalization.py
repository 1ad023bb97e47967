"""A training step of NF-ResNet-50 against its BatchNorm twin, by how the twin normalises.

    TF_ENABLE_ONEDNN_OPTS=1 python -m benchmarks.batch_normalization

Keras composes batch normalisation from elementwise operations; TensorFlow has it as one. Eight
random pictures of 224 pixels, random weights; medians of interleaved steps of SGD with momentum.
Writes benchmarks/batch_normalization.csv.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import keras
import numpy as np

import nf_zoo
from benchmarks.tables import write_table
from training.normalisation import fuse_batch_normalization

BATCH = 8
PRECISIONS = ("float32", "mixed_bfloat16")


def compiled(name: str, precision: str, fused: bool = False):
    model = nf_zoo.create_model(name, dtype=precision)
    if fused:
        fuse_batch_normalization(model)
    model.compile(
        keras.optimizers.SGD(1e-4, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model


def measure(precision: str, size: int, rounds: int) -> dict:
    """Milliseconds of a step, by network."""
    models = {
        "nf_resnet50": compiled("nf_resnet50", precision),
        "resnetv2_50": compiled("resnetv2_50", precision),
        "resnetv2_50, fused": compiled("resnetv2_50", precision, fused=True),
    }
    images = np.random.default_rng(0).random((BATCH, size, size, 3), dtype="float32")
    classes = np.zeros(BATCH, "int32")
    seconds: dict[str, list[float]] = {name: [] for name in models}
    losses = {}
    for number in range(rounds + 2):
        for name, model in models.items():
            began = time.perf_counter()
            losses[name] = float(model.train_on_batch(images, classes))
            if number >= 2:  # after tracing and warming up
                seconds[name].append(time.perf_counter() - began)
    if not np.all(np.isfinite(list(losses.values()))):
        raise RuntimeError(f"A network diverged: {losses}")
    return {name: round(1000 * statistics.median(times)) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="two rounds of pictures of 64 pixels")
    args = parser.parse_args()
    size, rounds = (64, 2) if args.quick else (224, args.rounds)
    rows = []
    for precision in PRECISIONS:
        found = measure(precision, size, rounds)
        rows.append(
            {
                "precision": precision,
                "size (px)": size,
                **{f"{name} (ms)": value for name, value in found.items()},
                "twin / NF": round(found["resnetv2_50"] / found["nf_resnet50"], 2),
                "fused twin / NF": round(found["resnetv2_50, fused"] / found["nf_resnet50"], 2),
            }
        )
    write_table(args.output, rows)


if __name__ == "__main__":
    main()
