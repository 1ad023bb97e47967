"""A training step of NFNet-F0 by what its GELU keeps for the gradient.

    TF_ENABLE_ONEDNN_OPTS=1 python -m benchmarks.gelu

TensorFlow's own GELU keeps a map for each of its operations, that of ``ScaledActivation`` in
training its input alone. Eight random pictures of 192 pixels, float32, SGD with momentum.
Milliseconds are medians of interleaved steps; megabytes the most that a fresh process held during
three steps, above what it held with the network built. Writes benchmarks/gelu.csv.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from pathlib import Path
from unittest import mock

from benchmarks.tables import write_table

NETWORK, BATCH, SIZE = "nfnet_f0", 8, 192
FORMS = ("TensorFlow's", "nf_zoo's")


def make_step(form: str, size: int):
    """A function that trains one step, traced with the GELU of ``form``."""
    import keras
    import numpy as np

    import nf_zoo
    from nf_zoo.layers import activations

    model = nf_zoo.create_model(NETWORK)
    model.compile(
        keras.optimizers.SGD(1e-4, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    images = np.random.default_rng(0).random((BATCH, size, size, 3), dtype="float32")
    classes = np.zeros(BATCH, "int32")
    own = activations._gelu_erf_keeping_its_input
    chosen = activations._gelu_erf if form == "TensorFlow's" else own

    def step():
        with mock.patch.object(activations, own.__name__, chosen):
            return float(model.train_on_batch(images, classes))

    return step


def megabytes(form: str, size: int, results) -> None:
    """Of three steps, in a process of its own."""
    step = make_step(form, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        step()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results.put(round((most - before) / 1024))


def measured_memory(form: str, size: int) -> int:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=megabytes, args=(form, size, results))
    process.start()
    found = results.get()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="two rounds of pictures of 64 pixels")
    args = parser.parse_args()
    size, rounds = (64, 2) if args.quick else (SIZE, args.rounds)
    memory = {form: measured_memory(form, size) for form in FORMS}
    steps = {form: make_step(form, size) for form in FORMS}
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for number in range(rounds + 1):
        for form, step in steps.items():
            began = time.perf_counter()
            step()
            if number:  # after tracing
                seconds[form].append(time.perf_counter() - began)
    rows = [
        {
            "GELU": form,
            "step (ms)": round(1000 * statistics.median(seconds[form])),
            "memory (MB)": memory[form],
        }
        for form in FORMS
    ]
    write_table(args.output, rows)


if __name__ == "__main__":
    main()
