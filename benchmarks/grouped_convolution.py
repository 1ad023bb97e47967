"""Training step with this package's grouped convolution and with Keras's, in the same network.

    python benchmarks/grouped_convolution.py --size 64 --batch 8 --steps 5

Prints a table of the median seconds of a step and their ratio. "Rest" is the same network without
the grouped convolutions: time that no grouped convolution can save. The networks take turns, step
by step, so that other load on the machine affects all alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from nf_zoo.layers import convolution
from nf_zoo.models.classifier import build_model

NETWORKS = ("nf_regnet_b0", "eca_nfnet_l0")
CLASSES = 1000


def through_keras(x, kernel, strides=1, padding="same", dilation=1, groups=1, training=False):
    """Do the same as ``convolve``, with ``keras.ops.conv`` for all convolutions."""
    if padding == "symmetric":
        x, padding = convolution._pad_symmetrically(x, kernel.shape[:2], strides, dilation)
    return keras.ops.conv(
        x,
        kernel,
        strides=strides,
        padding=padding,
        data_format="channels_last",
        dilation_rate=dilation,
    )


def left_out(x, kernel, strides=1, padding="same", dilation=1, groups=1, training=False):
    """Do the same as ``convolve``, but replace grouped convolutions by their kernel's mean."""
    if groups == 1:
        return OURS(x, kernel, strides, padding, dilation, groups, training)
    return x[:, ::strides, ::strides] * keras.ops.mean(kernel)


OURS = convolution.convolve
PRIMITIVES = (OURS, through_keras, left_out)


def training_step(name: str, primitive: Callable, size: int, batch: int) -> Callable[[], float]:
    """Return a compiled SGD step on random pictures with that primitive, which returns the loss."""
    convolution.convolve = primitive
    try:
        keras.utils.set_random_seed(0)
        model = build_model(name, num_classes=CLASSES, stochastic_depth_rate=0.0, drop_rate=0.0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=False)
        rng = np.random.default_rng(0)
        images = rng.standard_normal((batch, size, size, 3)).astype("float32")
        classes = rng.integers(0, CLASSES, batch)

        def step() -> float:
            return float(model.train_on_batch(images, classes))

        step()
    finally:
        convolution.convolve = OURS
    return step


def measure(name: str, size: int, batch: int, steps: int) -> list[list[float]]:
    """Measure the seconds of each step: this package's, Keras's, without grouped convolutions.

    Raises:
        RuntimeError: if the first two do not compute the same losses.
    """
    runs = [training_step(name, primitive, size, batch) for primitive in PRIMITIVES]
    seconds, losses = [[], [], []], [[], [], []]
    for _ in range(steps):
        for step, times, values in zip(runs, seconds, losses, strict=True):
            began = time.perf_counter()
            values.append(step())
            times.append(time.perf_counter() - began)
    if not np.allclose(*losses[:2], rtol=1e-3):
        raise RuntimeError(f"The two networks differ. Received: losses {losses[:2]}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="side of the pictures in pixels (64)")
    parser.add_argument("--batch", type=int, default=8, help="pictures in a step (8)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each (5)")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME")
    args = parser.parse_args()
    if keras.backend.backend() != "tensorflow":
        parser.error("only TensorFlow has two primitives to compare: set KERAS_BACKEND=tensorflow")
    title = f"{args.size} x {args.size} pixels, batch {args.batch}, median of {args.steps} steps"
    columns = ("Ours (s)", "Keras (s)", "Keras / ours", "Rest (s)", "Keras / rest")
    table = Table("Network", *columns, title=title)
    for name in args.networks:
        seconds = measure(name, args.size, args.batch, args.steps)
        ours, theirs, rest = map(statistics.median, seconds)
        row = (f"{ours:.3f}", f"{theirs:.3f}", f"{theirs / ours:.1f}")
        table.add_row(name, *row, f"{rest:.3f}", f"{theirs / rest:.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
