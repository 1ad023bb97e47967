"""SGD inside a wrapper takes the steps of Keras's SGD, in one operation for each variable."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from nf_zoo.optimizers.update_wrapper import UpdateWrapper

LAYERS = keras.layers
SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.3, 1, 0.5)
KINDS = {
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "plain": {},
    "decayed, averaged, clipped": {
        "momentum": 0.5,
        "weight_decay": 0.1,
        "use_ema": True,
        "global_clipnorm": 0.1,
    },
    "accumulated": {"momentum": 0.9, "nesterov": True, "gradient_accumulation_steps": 2},
}


def trained(optimizer, strategy=None) -> list[np.ndarray]:
    """Weights of a network after training; its embedding has the gradient of some rows."""
    keras.utils.set_random_seed(0)
    with (strategy or tf.distribute.get_strategy()).scope():
        model = keras.Sequential(
            [
                LAYERS.Input((4,), dtype="int32"),
                LAYERS.Embedding(9, 5),
                LAYERS.Flatten(),
                LAYERS.Dense(3, "tanh"),
                LAYERS.Dense(2),
            ]
        )
        model.compile(optimizer(), "mse")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, (8, 4)), rng.standard_normal((8, 2))
    model.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0)
    return [np.asarray(v.numpy(), "float64") for v in model.trainable_variables]


@pytest.fixture(params=["float32", "float64", "bfloat16"])
def dtype(request):
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_keras(kind, dtype):
    def sgd():
        return keras.optimizers.SGD(SCHEDULE, **KINDS[kind])

    for one, other in zip(trained(lambda: UpdateWrapper(sgd())), trained(sgd), strict=True):
        np.testing.assert_allclose(one, other, atol={"float64": 1e-15}.get(dtype, 1e-7))


def test_replicas_too():
    def sgd():
        return keras.optimizers.SGD(SCHEDULE, momentum=0.9, nesterov=True)

    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    wrapped, plain = trained(lambda: UpdateWrapper(sgd()), strategy), trained(sgd, strategy)
    for one, other in zip(wrapped, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)


def test_the_inner_of_two_wrappers_acts_too():
    class Halved(UpdateWrapper):
        def adjust(self, index, gradient, variable, learning_rate):
            return gradient, variable, learning_rate / 2

    def sgd(rate):
        return keras.optimizers.SGD(rate, momentum=0.9)

    for one, other in zip(
        trained(lambda: Halved(Halved(sgd(0.4)))), trained(lambda: sgd(0.1)), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-7)


class Slower(keras.optimizers.SGD):
    """An optimizer with an update of its own."""

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate / 2)


@pytest.mark.fast
@pytest.mark.parametrize(
    "optimizer, fused",
    [
        (keras.optimizers.SGD(0.1, momentum=0.9), 2),
        (keras.optimizers.SGD(0.1), 0),
        (Slower(0.1, momentum=0.9), 0),
        (keras.optimizers.Adam(0.1), 0),
    ],
)
def test_one_operation_updates_a_variable_with_momentum(optimizer, fused):
    variables = [keras.Variable(np.ones(3)), keras.Variable(np.ones((2, 2)))]
    wrapper = UpdateWrapper(optimizer)
    wrapper.build(variables)

    @tf.function
    def step():
        wrapper.apply([tf.ones_like(v) for v in variables], variables)

    kinds = [op.type for op in step.get_concrete_function().graph.get_operations()]
    assert kinds.count("ResourceApplyKerasMomentum") == fused
