"""Time of a folded network in float32 and in bfloat16, in milliseconds.

    TF_ENABLE_ONEDNN_OPTS=1 python -m benchmarks.bfloat16

Pictures of 224 pixels, random weights; medians of interleaved runs. Writes benchmarks/bfloat16.csv.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

import nf_zoo
from benchmarks.tables import write_table

NETWORKS = ("nf_resnet50", "nf_regnet_b1")
BATCHES = (1, 8)
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default=Path(__file__).with_name("bfloat16.csv"))
    args = parser.parse_args()
    rows = []
    for name in NETWORKS:
        model = nf_zoo.create_model(name)
        forms = {
            "float32": nf_zoo.fold(model),
            "bfloat16": nf_zoo.fold(model, dtype="mixed_bfloat16"),
        }
        runs = {form: tf.function(one, autograph=False) for form, one in forms.items()}
        for batch in BATCHES:
            images = tf.constant(np.zeros((batch, 224, 224, 3), "float32"))
            seconds: dict[str, list[float]] = {form: [] for form in runs}
            for number in range(ROUNDS + 2):
                for form, run in runs.items():
                    began = time.perf_counter()
                    run(images).numpy()
                    if number >= 2:  # after tracing and warming up
                        seconds[form].append(time.perf_counter() - began)
            row = {"network": name, "batch": batch}
            for form, times in seconds.items():
                row[f"{form} (ms)"] = round(1000 * statistics.median(times))
            rows.append(row)
    write_table(args.output, rows)


if __name__ == "__main__":
    main()
