from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import nf_zoo
from nf_zoo.models.classifier import build_model


def network():
    keras.utils.set_random_seed(0)
    return build_model("wide_resnet10_1", num_classes=4, widths=(4, 4, 8), stem_width=4)


def gradients(model):
    rng = np.random.default_rng(0)
    return [tf.constant(rng.standard_normal(v.shape), "float32") for v in model.trainable_variables]


@pytest.mark.fast
def test_rate_and_decay_are_those_of_the_group():
    model = network()
    groups = nf_zoo.parameter_groups(model, layer_decay=0.5, weight_decay=0.1)
    start = {id(v): np.asarray(v.value) for v in model.trainable_variables}
    given = {id(v): g for v, g in zip(model.trainable_variables, gradients(model), strict=True)}
    optimizer = nf_zoo.GroupedOptimizer(keras.optimizers.SGD(0.25), groups)
    optimizer.apply(list(given.values()), model.trainable_variables)
    for group in groups:
        rate = 0.25 * group.learning_rate_scale
        for variable in group.variables:
            decayed = start[id(variable)] * (1 - rate * group.weight_decay)
            expected = decayed - rate * given[id(variable)].numpy()
            np.testing.assert_allclose(variable.value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.fast
def test_coupled_decay_goes_through_the_momentum():
    start, gradient = np.float32([2.0, -1.0]), np.float32([0.5, 0.25])
    variable = keras.Variable(start)
    group = {"paths": [variable.path], "learning_rate_scale": 0.5, "weight_decay": 0.1}
    inner = keras.optimizers.SGD(0.2, momentum=0.9)
    optimizer = nf_zoo.GroupedOptimizer(inner, [group], coupled=True)
    momentum, expected = np.zeros(2), start.astype("float64")
    for _ in range(3):
        optimizer.apply([tf.constant(gradient)], [variable])
        momentum = 0.9 * momentum - 0.1 * (gradient + 0.1 * expected)
        expected = expected + momentum
    np.testing.assert_allclose(variable.value, expected, rtol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("outside", ["clipping", "groups"])
def test_clipping_and_groups_both_act(outside):
    start, gradient = np.float32([3.0, -4.0]), np.float32([60.0, 80.0])
    variable = keras.Variable(start)
    group = {"paths": [variable.path], "learning_rate_scale": 0.5, "weight_decay": 0.1}
    sgd = keras.optimizers.SGD(0.2)
    if outside == "clipping":
        optimizer = nf_zoo.AdaptiveGradientClipping(
            nf_zoo.GroupedOptimizer(sgd, [group], coupled=True), clipping=0.01
        )
    else:
        optimizer = nf_zoo.GroupedOptimizer(
            nf_zoo.AdaptiveGradientClipping(sgd, clipping=0.01), [group], coupled=False
        )
    optimizer.apply([tf.constant(gradient)], [variable])
    clipped = gradient * 0.01 * 5.0 / 100.0
    np.testing.assert_allclose(
        variable.value, start - 0.2 * 0.5 * (clipped + 0.1 * start), rtol=1e-4
    )


def test_goes_with_clipping_and_survives_saving(tmp_path):
    model = network()
    groups = nf_zoo.parameter_groups(model, layer_decay=0.5, weight_decay=0.1)
    inner = nf_zoo.AdaptiveGradientClipping(keras.optimizers.Adam(0.01))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(nf_zoo.GroupedOptimizer(inner, groups), loss)
    x = np.random.default_rng(0).standard_normal((8, 16, 16, 3)).astype("float32")
    model.fit(x, np.arange(8) % 4, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        one.fit(x, np.arange(8) % 4, verbose=0)
    for a, b in zip(model.trainable_variables, loaded.trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.fast
def test_a_decay_of_its_own_is_refused():
    with pytest.raises(ValueError, match="weight_decay=None"):
        nf_zoo.GroupedOptimizer(keras.optimizers.AdamW(0.1, weight_decay=0.1), [])


@pytest.mark.fast
def test_a_variable_of_no_group_is_named():
    model = network()
    groups = nf_zoo.parameter_groups(model)[1:]
    optimizer = nf_zoo.GroupedOptimizer(keras.optimizers.SGD(0.1), groups)
    with pytest.raises(ValueError, match="stem_conv/kernel"):
        optimizer.build(model.trainable_variables)


@pytest.mark.fast
def test_an_optimizer_is_in_one_wrapper_alone():
    """Another around the same optimizer would keep the first one's changes."""
    sgd = keras.optimizers.SGD(0.1)
    first = nf_zoo.AdaptiveGradientClipping(sgd, 1e-6)
    for given in (sgd, nf_zoo.AdaptiveGradientClipping(first, 1.0).inner_optimizer):
        with pytest.raises(ValueError, match="must not be in another wrapper already"):
            nf_zoo.AdaptiveGradientClipping(given, 10.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nf_zoo.AdaptiveGradientClipping(keras.optimizers.AdamW(1e-3)),
        lambda: keras.optimizers.Muon(1e-3, weight_decay=None),
    ],
)
def test_no_decay_is_left_below(make):
    with pytest.raises(ValueError, match=r"must not decay weights.*weight_decay=0\.004"):
        nf_zoo.GroupedOptimizer(make(), [])
