"""The weights after five steps, on one device and cut up in every way."""

from __future__ import annotations

import collections
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file
from small_recipes import REPEATABLE, small_recipe

from nf_zoo.layers import ScaledWSConv2D
from nf_zoo.models.classifier import build_model
from training.checkpoints import Checkpoints
from training.optimization import make_optimizer
from training.session import run
from training.tensorflow_engine import TensorFlowEngine

REPOSITORY = Path(__file__).parents[2]
LAST = "step_000000005.safetensors"


def weights(folder: Path, name: str = LAST) -> dict[str, np.ndarray]:
    state = load_file(folder / "checkpoints" / name)
    return {key: value for key, value in state.items() if value.dtype.kind == "f"}


def difference(one: dict, other: dict) -> float:
    """The largest, over all weights, optimizer moments and averages."""
    assert set(one) == set(other)
    return max(float(np.max(np.abs(one[key] - other[key]), initial=0.0)) for key in one)


@pytest.fixture(scope="module")
def trained(arrays, tmp_path_factory):
    """(scheme, precision, **how) -> the state after five steps; each combination once."""
    made = {}

    def train(scheme, precision="float32", **how):
        key = (scheme, precision, *sorted(how.items()))
        if key not in made:
            recipe = small_recipe(arrays, scheme)
            recipe.ema = 0.5
            recipe.augmentation.cutmix = 1.0
            recipe.accumulate = how.get("accumulate", 1)
            replicas = how.get("replicas", 0)
            folder = tmp_path_factory.mktemp("run")
            run(
                recipe,
                folder,
                strategy="mirrored" if replicas else "one_device",
                replicas=replicas,
                precision=precision,
                jit=how.get("jit", False),
            )
            made[key] = weights(folder)
        return made[key]

    return train


CUTS = {
    "2 replicas": {"replicas": 2},
    "2 micro-batches": {"accumulate": 2},
    "4 micro-batches": {"accumulate": 4},
    "2 replicas of 2 micro-batches, XLA": {"replicas": 2, "accumulate": 2, "jit": True},
}


@pytest.mark.parametrize("cut", CUTS)
def test_normalizer_free_steps_do_not_depend_on_the_cut(trained, cut):
    assert difference(trained("nf"), trained("nf", **CUTS[cut])) < 1e-5


@pytest.mark.parametrize("cut", ["2 replicas", "4 micro-batches"])
def test_to_rounding_in_double_precision(trained, cut):
    whole, parts = trained("nf", "float64"), trained("nf", "float64", **CUTS[cut])
    assert difference(whole, parts) < 1e-10


@pytest.mark.parametrize("cut", ["2 replicas", "4 micro-batches"])
def test_batch_normalization_steps_do(trained, cut):
    assert difference(trained("bn"), trained("bn", **CUTS[cut])) > 1e-3


@pytest.fixture
def eager():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize(
    ("fields", "dtype", "tolerance"),
    [
        ({}, "float32", 1e-5),
        ({}, "mixed_float16", 1e-2),
        ({}, "float64", 1e-12),
        ({"rematerialize": True}, "float64", 1e-12),
    ],
    ids=["float32", "float16", "float64", "recomputed"],
)
def test_micro_batches_share_standardized_kernels(
    fields, dtype, tolerance, recipe, eager, monkeypatch
):
    calls = collections.Counter()
    effective_kernel = ScaledWSConv2D.effective_kernel

    def counted(self):
        calls[self.path] += 1
        return effective_kernel(self)

    fields = {"widths": (4, 4, 8), "stem_width": 4, "zero_init_gain": False, **fields}
    model = build_model("wide_resnet10_1", num_classes=4, dtype=dtype, **fields)
    optimizer = make_optimizer(recipe, model, schedule=0.1)
    if dtype == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build(model.trainable_variables)
    model.layers[1].trainable = False
    monkeypatch.setattr(ScaledWSConv2D, "effective_kernel", counted)
    strategy = tf.distribute.OneDeviceStrategy("cpu:0")
    rng = np.random.default_rng(0)
    images = tf.constant(rng.standard_normal((16, 16, 16, 3)), "float32")
    targets = tf.one_hot(np.arange(16) % 4, 4)
    found, counts = [], []
    for count in (1, 4):
        recipe.accumulate = count
        calls.clear()
        engine = TensorFlowEngine(recipe, strategy, model, optimizer)
        found.append(engine._gradient(images, targets)[1])
        counts.append(set(calls.values()))
    # In a block that is recomputed, twice for every micro-batch.
    assert counts == ([{1, 2}, {1, 8}] if "rematerialize" in fields else [{1}, {1}])
    for whole, parts in zip(*found, strict=True):
        scale = np.max(np.abs(whole))
        assert np.max(np.abs(whole - parts)) <= tolerance * scale
        assert scale > 0


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start_workers(arrays, workdir: Path, arguments=()) -> list[subprocess.Popen]:
    """Two processes of the command line, on loopback."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = []
    for index in range(2):
        config = {
            "cluster": {"worker": addresses},
            "task": {"type": "worker", "index": index},
        }
        command = [
            *(sys.executable, "-m", "training.main", "--strategy=multi_worker"),
            f"--config={REPOSITORY}/tests/training/small_recipes.py:nf",
            *(f"--config.data.source=arrays:{arrays}", f"--workdir={workdir}"),
            *("--peer_timeout=120", "--config.ema=0.5", "--config.augmentation.cutmix=1.0"),
            *arguments,
        ]
        environment = {
            **os.environ,
            **REPEATABLE,
            "TF_CONFIG": json.dumps(config),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": str(REPOSITORY),
        }
        workers.append(
            subprocess.Popen(
                command,
                env=environment,
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return workers


def finish(workers) -> None:
    outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    for worker, output in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, output[-3000:]


def test_two_processes_take_the_steps_of_one(trained, arrays, tmp_path):
    finish(start_workers(arrays, tmp_path))
    assert difference(trained("nf"), weights(tmp_path)) < 1e-5


def test_one_worker_of_two_is_killed(arrays, tmp_path):
    long = ["--config.steps=60", "--config.run.checkpoint_steps=2", "--config.run.log_every=2"]
    name = "step_000000060.safetensors"
    finish(start_workers(arrays, tmp_path / "whole", long))
    pieces = tmp_path / "pieces"
    newest = Checkpoints(pieces / "checkpoints", {}).steps
    first, victim = start_workers(arrays, pieces, long)
    while not newest() or newest()[-1] < 6:
        assert first.poll() is None and victim.poll() is None
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    # The other cannot go on alone; it says so, or whoever starts the run again ends it.
    try:
        output, _ = first.communicate(timeout=60)
        assert first.returncode != 0, output[-2000:]
    except subprocess.TimeoutExpired:
        first.kill()
        first.communicate()
    assert newest()[-1] < 60
    finish(start_workers(arrays, pieces, long))
    whole, resumed = (weights(folder, name) for folder in (tmp_path / "whole", pieces))
    assert difference(whole, resumed) == 0.0
