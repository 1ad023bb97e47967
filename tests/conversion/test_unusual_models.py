"""Models that few people write are converted, or refused in one line; they stay as they are."""

from __future__ import annotations

import batch_norm_networks as networks
import keras
import numpy as np
import pytest
import tensorflow as tf

import nf_zoo

LAYERS = keras.layers
BOTH = pytest.mark.parametrize("convert", [nf_zoo.remove_batch_norm, nf_zoo.normalizer_free])


def chain(*parts, shape):
    return keras.Sequential([LAYERS.Input(shape), *parts])


def convolution(**options):
    return LAYERS.Conv2D(3, 3, padding="same", **options)


def norm(**options):
    return LAYERS.BatchNormalization(**options)


def _nested_twice():
    inner = chain(convolution(), norm(), LAYERS.ReLU(), shape=(6, 5, 3))
    return chain(chain(inner, norm(), shape=(6, 5, 3)), norm(), inner, shape=(6, 5, 3))


def _nested_with_two_results():
    inputs, x = LAYERS.Input((6, 5, 3)), LAYERS.Input((6, 5, 3))
    maps = convolution()(inputs)
    first, second = keras.Model(inputs, [norm()(maps), LAYERS.ReLU()(maps)])(x)
    return keras.Model(x, LAYERS.Add()([norm()(first), second]))


def _normed_again():
    x, shared = LAYERS.Input((6, 5, 3)), norm()
    return keras.Model(x, convolution()(shared(LAYERS.ReLU()(shared(convolution()(x))))))


def _states_of_a_recurrent_layer():
    x = LAYERS.Input((5, 3))
    steps, state = LAYERS.GRU(4, return_sequences=True, return_state=True)(x)
    return keras.Model(x, LAYERS.GRU(4)(norm()(steps), initial_state=norm()(state)))


def _both_directions():
    first = LAYERS.Bidirectional(LAYERS.LSTM(4, return_sequences=True))
    steps = [LAYERS.TimeDistributed(layer) for layer in (LAYERS.Dense(4), norm())]
    return chain(first, norm(), *steps, LAYERS.Bidirectional(LAYERS.GRU(3)), shape=(5, 3))


def _steps_of_steps():
    parts = (LAYERS.Dense(4), norm(), LAYERS.Bidirectional(LAYERS.LSTM(3)))
    levels = (LAYERS.TimeDistributed(LAYERS.TimeDistributed(x)) for x in parts[:2])
    return chain(*levels, LAYERS.TimeDistributed(parts[2]), norm(), shape=(2, 5, 3))


def _convolutional_memory():
    memory = LAYERS.ConvLSTM2D(4, 3, return_sequences=True)
    return chain(memory, norm(), LAYERS.Conv3D(3, 1), norm(), shape=(2, 6, 5, 3))


def _state_that_lasts():
    x = LAYERS.Input(batch_shape=(2, 5, 3))
    return keras.Model(x, norm()(LAYERS.LSTM(4, stateful=True)(x)))


CONVERTED = {
    "nested twice": _nested_twice,
    "nested with two results": _nested_with_two_results,
    "normed again": _normed_again,
    "states of a recurrent layer": _states_of_a_recurrent_layer,
    "both directions": _both_directions,
    "steps of steps": _steps_of_steps,
    "convolutional memory": _convolutional_memory,
    "state that lasts": _state_that_lasts,
}


def record(model):
    """The parts that must not change: weights, config, and the calls of every layer."""
    calls = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    return (
        model.to_json(),
        calls,
        [np.array(keras.ops.convert_to_numpy(x)) for x in model.variables],
    )


def assert_as_before(model, before):
    config, calls, values = record(model)
    assert (config, calls) == before[:2]
    for now, then in zip(values, before[2], strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.fast
@BOTH
@pytest.mark.parametrize("case", CONVERTED)
def test_converted(case, convert):
    model = networks.fill(CONVERTED[case]())
    before = record(model)
    result = convert(model)
    assert_as_before(model, before)
    assert not networks.norms_of(result)
    inputs = networks.draw(model)
    for wanted, answer in zip(
        networks.answer(model, inputs), networks.answer(result, inputs), strict=True
    ):
        assert answer.shape == wanted.shape and np.isfinite(answer).all()
        if convert is nf_zoo.remove_batch_norm:
            np.testing.assert_allclose(answer, wanted, atol=1e-5 * np.max(np.abs(wanted)))


@pytest.mark.fast
def test_a_norm_of_a_part_of_a_result_learns_its_scale():
    result = nf_zoo.normalizer_free(_states_of_a_recurrent_layer())
    found = [type(layer).__name__ for layer in result.layers]
    assert found == ["InputLayer", "GRU", "ChannelAffine", "ChannelAffine", "GRU"]


@pytest.mark.fast
def test_a_converted_model_starts_without_a_state():
    (layer,) = (x for x in nf_zoo.normalizer_free(_state_that_lasts()).layers if "lstm" in x.name)
    assert all(state.shape == (2, 4) and not np.any(state) for state in layer.states)


class Own(keras.Model):
    def call(self, x, training=None):
        return 2 * super().call(x, training=training)


class Cell(LAYERS.Layer):
    state_size = output_size = 3

    def build(self, shape):
        self.norm = norm()
        self.norm.build(shape)

    def call(self, x, states, training=False):
        return (x := self.norm(x) + states[0]), [x]


class Wrapped(LAYERS.Wrapper):
    def call(self, x):
        return self.layer(x)


def _own_call():
    x = LAYERS.Input((4,))
    return Own(x, norm()(LAYERS.Dense(3)(x)), name="mine")


REFUSED = {
    "own call": (_own_call, r"Received: Own 'mine'$"),
    "nested": (lambda: chain(_own_call(), norm(), shape=(4,)), r"Received: 'mine' \(Own\)$"),
    "cell": (lambda: chain(LAYERS.RNN(Cell(), name="mine"), shape=(5, 3)), r"'mine' \(RNN\)$"),
    "wrapper": (lambda: chain(Wrapped(norm(), name="mine"), shape=(4,)), r"'mine' \(Wrapped\)$"),
}


@pytest.mark.fast
@BOTH
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, convert):
    make, message = REFUSED[case]
    model = make()
    weights = model.get_weights()
    with pytest.raises(ValueError, match=message) as told:
        convert(model)
    assert "\n" not in str(told.value)
    for now, then in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)


@BOTH
def test_a_model_that_a_strategy_trained(convert):
    """Outside the strategy's scope the result has plain variables; the model goes on training."""
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    x, y = np.ones((4, 6, 5, 3), "float32"), np.zeros((4, 6, 5, 3), "float32")
    with strategy.scope():
        model = chain(convolution(), norm(), shape=(6, 5, 3))
        model.compile("sgd", "mse")
    model.fit(x, y, batch_size=4, verbose=0)
    before = record(model)
    result = convert(model)
    assert_as_before(model, before)
    if convert is nf_zoo.remove_batch_norm:
        np.testing.assert_allclose(result(x), model(x, training=False), atol=1e-5)
    for trained in (result, model):
        trained.compile("sgd", "mse")
        trained.fit(x, y, batch_size=2, verbose=0)
        assert np.isfinite(trained.evaluate(x, y, verbose=0))
