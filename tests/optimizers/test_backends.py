"""Clipping and groups act alike on every backend, whichever way its optimizers update."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import nf_zoo

PROGRAM = """
import json, sys
import keras, nf_zoo
import numpy as np

LAYERS = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((8, 6, 6, 3)).astype("float32"), np.arange(8) % 3
sgd = lambda **options: keras.optimizers.SGD(0.5, momentum=0.9, nesterov=True, **options)
CASES = {
    "sgd, coupled": sgd(),
    "sgd, accumulating": sgd(gradient_accumulation_steps=2),
    "adam, averaging": keras.optimizers.Adam(0.01, epsilon=1e-3, use_ema=True, ema_momentum=0.5),
    "lamb, coupled": keras.optimizers.Lamb(0.01),
}


def fitted(label, optimizer):
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            LAYERS.Input((6, 6, 3)),
            LAYERS.Conv2D(4, 3),
            LAYERS.DepthwiseConv2D(3),
            LAYERS.Conv2DTranspose(5, 3),
            LAYERS.Flatten(),
            LAYERS.Dense(3),
        ]
    )
    for variable in model.weights:
        variable.assign(0.3 * rng.standard_normal(variable.shape))
    groups = [
        nf_zoo.optimizers.ParameterGroup("", 0, (variable,), 0.9**index, 0.02 * index)
        for index, variable in enumerate(model.trainable_variables)
    ]
    optimizer = nf_zoo.AdaptiveGradientClipping(
        nf_zoo.GroupedOptimizer(optimizer, groups, coupled="coupled" in label),
        clipping=0.02,
        exclude=model.layers[-1].kernel,
    )
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return [keras.ops.convert_to_numpy(v).ravel().tolist() for v in model.trainable_variables]


print(json.dumps({label: fitted(label, optimizer) for label, optimizer in CASES.items()}))
"""


def results(backend: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def on_tensorflow():
    return results("tensorflow")


@pytest.mark.parametrize(
    "backend",
    [
        "jax",
        pytest.param(
            "torch",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("torch") is None,
                reason="PyTorch and its CUDA libraries, gigabytes, are no requirement of the "
                "tests: pip install torch to run this one",
            ),
        ),
    ],
)
def test_training_is_that_of_tensorflow(backend, on_tensorflow):
    others = results(backend)
    assert others.keys() == on_tensorflow.keys()
    for label, values in on_tensorflow.items():
        for one, other in zip(others[label], values, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4, err_msg=label)


class Parallel(keras.optimizers.SGD):
    """Updates all variables at once, as those of Keras do under PyTorch."""

    def _backend_update_step(self, gradients, variables, learning_rate):
        self._parallel_update_step(gradients, variables, learning_rate)

    def _parallel_update_step(self, gradients, variables, learning_rate):
        for gradient, variable in zip(gradients, variables, strict=True):
            variable.assign_sub(learning_rate * gradient)


def test_optimizers_that_update_all_at_once_are_clipped_and_grouped():
    variable = keras.Variable([3.0, -4.0])
    group = nf_zoo.optimizers.ParameterGroup("", 0, (variable,), 0.5, 0.0)
    optimizer = nf_zoo.AdaptiveGradientClipping(
        nf_zoo.GroupedOptimizer(Parallel(0.2), [group]), clipping=0.01
    )
    optimizer.apply([keras.ops.convert_to_tensor([60.0, 80.0])], [variable])
    step = 0.2 * 0.5 * 0.01 * 5.0 * np.array([0.6, 0.8])
    np.testing.assert_allclose(variable, np.array([3.0, -4.0]) - step, rtol=1e-6)
