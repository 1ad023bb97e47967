"""Cost of weight standardization in training, alone and with micro-batches.

    TF_ENABLE_ONEDNN_OPTS=1 python -m benchmarks.standardization

Training steps of NF-ResNet-50 in float32, eight random pictures of 224 pixels, random weights;
medians of interleaved runs. Writes benchmarks/standardization.csv.
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
from nf_zoo.layers import ScaledWSConv2D, given_kernels
from training import augmentation
from training import recipe as recipes
from training.optimization import make_optimizer
from training.tensorflow_engine import TensorFlowEngine

MICRO_BATCHES = 4
BATCH = 8


class EachMicroBatch(TensorFlowEngine):
    """Engine that standardizes again for every micro-batch."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._standardized = []


class Unstandardized(TensorFlowEngine):
    """Engine that convolves with unstandardized weights."""

    def _loss_and_gradient_of(self, images, targets, sources):
        layers = standardized_layers(self.model)
        gains = {id(layer.gain.value) for layer in layers}
        with given_kernels({layer: layer.kernel.value for layer in layers}):
            used = [source for source in sources if id(source) not in gains]
            loss, gradients = super()._loss_and_gradient_of(images, targets, used)
        found = iter(gradients)
        return loss, [tf.zeros(v.shape) if id(v) in gains else next(found) for v in sources]


def standardized_layers(model) -> list:
    return [layer for layer in model._flatten_layers() if isinstance(layer, ScaledWSConv2D)]


def standardization(model):
    """Return a forward and backward pass over all kernels, whose number depends on every result."""
    layers = standardized_layers(model)
    sources = [v.value for layer in layers for v in (layer.kernel, layer.gain)]
    rng = np.random.default_rng(0)
    upstream = [tf.constant(rng.standard_normal(x.kernel.shape), "float32") for x in layers]

    @tf.function(autograph=False)
    def run():
        with tf.GradientTape() as tape:
            kernels = [layer.effective_kernel() for layer in layers]
        results = kernels + tape.gradient(kernels, sources, upstream)
        return tf.add_n([tf.reduce_max(result[..., 0]) for result in results])

    return run


def make_runs(model, size: int) -> dict:
    """Return name -> run to measure."""
    recipe = recipes.default()
    recipe.batch_size = BATCH
    strategy = tf.distribute.OneDeviceStrategy("cpu:0")
    rng = np.random.default_rng(0)
    images = tf.constant(rng.integers(0, 256, (BATCH, size, size, 3)), tf.uint8)
    draws = tf.constant(augmentation.augmentation_of(recipe).draws(step=0, count=BATCH))
    classes = tf.constant(rng.integers(0, model.num_classes, BATCH), tf.int32)

    def step(engine_class, parts):
        recipe.accumulate = parts
        optimizer = make_optimizer(recipe, model, 1e-4)
        engine = engine_class(recipe.copy_and_resolve_references(), strategy, model, optimizer)
        return lambda: engine.train_step((images, classes, draws))

    many = f"step of {MICRO_BATCHES} micro-batches"
    return {
        "step": step(TensorFlowEngine, 1),
        "step without standardization": step(Unstandardized, 1),
        "standardization alone, forward and backward": standardization(model),
        f"{many}, standardized once": step(TensorFlowEngine, MICRO_BATCHES),
        f"{many}, standardized in each": step(EachMicroBatch, MICRO_BATCHES),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--quick", action="store_true", help="run only two rounds, on pictures of 64 pixels"
    )
    args = parser.parse_args()
    size, rounds = (64, 2) if args.quick else (224, args.rounds)
    runs = make_runs(nf_zoo.create_model("nf_resnet50"), size)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 2):
        for name, run in runs.items():
            began = time.perf_counter()
            value = float(run())
            if number >= 2:  # after tracing and warming up
                seconds[name].append(time.perf_counter() - began)
            if not np.isfinite(value):
                raise RuntimeError(f"{name} diverged in round {number}")
    rows = [
        {"what": name, "size (px)": size, "median (ms)": round(1000 * statistics.median(times))}
        for name, times in seconds.items()
    ]
    write_table(args.output, rows)


if __name__ == "__main__":
    main()
