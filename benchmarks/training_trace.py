"""Time of TensorFlow's kernels in a trace of a training step.

    TF_ENABLE_ONEDNN_OPTS=1 python -m benchmarks.training_trace nf_regnet_b1 eca_nfnet_l0

A step of SGD with momentum on 8 pictures of 224 x 224, random weights. The milliseconds of a kernel
are summed over the cores, so their total is larger than the step. Writes
benchmarks/training_trace.csv.
"""

from __future__ import annotations

import argparse
import collections
import statistics
import tempfile
import time
from pathlib import Path

import keras
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

import nf_zoo
from benchmarks.tables import write_table
from training import provenance

BATCH, SIZE, STEPS = 8, 224, 3
LEAST = 0.01
"""Share of the total below which a kernel is part of the rest."""


def step_of(name: str):
    """Return a compiled training step of the network."""
    network = nf_zoo.create_model(name)
    images = tf.random.stateless_normal((BATCH, SIZE, SIZE, 3), [0, 0])
    classes = tf.zeros((BATCH,), tf.int32)
    variables = network.trainable_variables
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    optimizer.build(variables)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            logits = network(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss

    return step


def trace(step) -> dict[str, tuple[float, float]]:
    """Return kernel -> (milliseconds, calls) of one step, from a trace of several."""
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(STEPS):
                step()
        (path,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    time_of, calls = collections.Counter(), collections.Counter()
    for plane in space.planes:
        names = {key: value.name for key, value in plane.event_metadata.items()}
        for event in (event for line in plane.lines for event in line.events):
            node, _, kernel = names[event.metadata_id].rpartition(":")
            # Events of kernels are "node:kernel"; others, such as "Executor::Process", are not.
            if node and not node.endswith(":") and kernel.isidentifier():
                time_of[kernel] += event.duration_ps / 1e9 / STEPS
                calls[kernel] += 1 / STEPS
    return {kernel: (time_of[kernel], calls[kernel]) for kernel in time_of}


def rows_of(name: str) -> list[dict]:
    """Return a row for each kernel above the smallest share, and one for the rest."""
    step, seconds = step_of(name), []
    for _ in range(6):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    kernels = trace(step)
    least = LEAST * sum(milliseconds for milliseconds, _ in kernels.values())
    small = [figures for figures in kernels.values() if figures[0] < least]
    large = [(k, f) for k, f in kernels.items() if f[0] >= least]
    large.sort(key=lambda pair: -pair[1][0])
    common = {
        "step (ms)": round(1000 * statistics.median(seconds[2:])),
        **{"commit": provenance.commit(), "processor": provenance.processor()},
    }
    return [
        {"network": name, "kernel": kernel, "calls": round(calls), "ms": round(ms, 1), **common}
        for kernel, (ms, calls) in [*large, ("the rest", tuple(map(sum, zip(*small, strict=True))))]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+", help="names for nf_zoo.create_model")
    parser.add_argument("--output", default=Path(__file__).with_name("training_trace.csv"))
    args = parser.parse_args()
    write_table(args.output, [row for name in args.networks for row in rows_of(name)])


if __name__ == "__main__":
    main()
