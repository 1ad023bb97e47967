"""Adaptive gradient clipping against DeepMind's code, and what must not change it."""

from __future__ import annotations

import zlib

import goldens
import keras
import numpy as np
import pytest
import tensorflow as tf

import nf_zoo
from nf_zoo.models.classifier import build_model
from nf_zoo.optimizers.adaptive_gradient_clipping import unitwise_norm

AGC = nf_zoo.AdaptiveGradientClipping
GOLDEN = goldens.record("haiku", "agc_NF_ResNet50")


def reference_gradient(key: str, shape, kind: str) -> np.ndarray:
    generator = np.random.default_rng(zlib.crc32(f"grad:{key}".encode()))
    z = np.asarray(generator.standard_normal(tuple(shape)))
    if kind == "plain":
        return np.asarray(0.5 * z.astype("float32"))
    exponent = generator.uniform(-4, 0, tuple(shape[-1:]))
    return np.asarray(0.5 * z.astype("float32") * np.float32(10.0**exponent))


@pytest.mark.parametrize("kind", [pytest.param("plain", marks=pytest.mark.fast), "mixed"])
def test_clips_as_the_published_code_does(kind):
    rows = GOLDEN[kind]
    weights = [goldens.fill_haiku(row[0], row[1]) for row in rows]
    variables = [keras.Variable(value) for value in weights]
    optimizer = AGC(keras.optimizers.SGD(1.0), GOLDEN["clip"], GOLDEN["eps"])
    optimizer.build(variables)
    gradients = [reference_gradient(key, shape, kind) for key, shape, *_ in rows]
    for row, weight, gradient in zip(rows, weights, gradients, strict=True):
        key, _, norm, clipped_norm, units, units_clipped = row
        np.testing.assert_allclose(_norm(gradient), norm, rtol=1e-5, err_msg=key)
        clipped = optimizer.clip(tf.constant(gradient), tf.constant(weight)).numpy()
        np.testing.assert_allclose(_norm(clipped), clipped_norm, rtol=1e-5, err_msg=key)
        before, after = (np.ravel(unitwise_norm(value)) for value in (gradient, clipped))
        assert (before.size, np.sum(after < before * (1 - 1e-6))) == (units, units_clipped), key
    largest = max(range(len(rows)), key=lambda index: gradients[index].size)
    optimizer.apply([tf.constant(g) for g in gradients], variables)
    for index in (0, 4, 5, largest):
        step = weights[index].astype("float64") - np.asarray(variables[index])
        np.testing.assert_allclose(_norm(step), rows[index][3], rtol=1e-4)


def _norm(value) -> float:
    return float(np.linalg.norm(np.asarray(value, "float64")))


def oracle(gradient: np.ndarray, weight: np.ndarray, clipping=0.01, eps=1e-3) -> np.ndarray:
    axes = None if gradient.ndim < 2 else tuple(range(gradient.ndim - 1))
    norms = [np.sqrt(np.sum(value**2, axis=axes, keepdims=True)) for value in (gradient, weight)]
    limit = clipping * np.maximum(norms[1], eps)
    return gradient * np.minimum(1.0, limit / np.maximum(norms[0], 1e-30))


OPTIMIZERS = {
    "sgd": lambda **kw: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, **kw),
    "adamw": lambda **kw: keras.optimizers.AdamW(0.1, weight_decay=0.01, **kw),
    "lamb": lambda **kw: keras.optimizers.Lamb(0.1, **kw),
    "lion": lambda **kw: keras.optimizers.Lion(0.1, **kw),
    "rmsprop": lambda **kw: keras.optimizers.RMSprop(0.1, **kw),
}


@pytest.mark.fast
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_receives_the_clipped_gradient(name):
    rng = np.random.default_rng(0)
    shapes = ((3, 3, 4, 5), (5, 6), (6,), ())
    values = [np.float32(rng.standard_normal(shape)) for shape in shapes]
    wrapped, plain = ([keras.Variable(value) for value in values] for _ in range(2))
    optimizer, bare = AGC(OPTIMIZERS[name](), exclude=wrapped[1]), OPTIMIZERS[name]()
    for _ in range(3):
        gradients = [rng.standard_normal(value.shape) for value in values]
        expected = [oracle(g, np.asarray(v)) for g, v in zip(gradients, plain, strict=True)]
        expected[1] = gradients[1]
        optimizer.apply([tf.constant(g, "float32") for g in gradients], wrapped)
        bare.apply([tf.constant(g, "float32") for g in expected], plain)
    for a, b, start in zip(wrapped, plain, values, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
        assert not np.allclose(a, start)


def network():
    keras.utils.set_random_seed(0)
    return build_model("wide_resnet10_1", num_classes=4, widths=(4, 4, 8), stem_width=4)


def optimizer_for(model, wrap=True, **kwargs):
    optimizer = keras.optimizers.SGD(0.5, momentum=0.9, nesterov=True, **kwargs)
    return AGC(optimizer, clipping=0.02, exclude=model.head.kernel) if wrap else optimizer


def fitted(batch_size=8, strategy=None, wrap=True, outer=None, **kwargs):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((16, 16, 16, 3)).astype("float32"), np.arange(16) % 4
    with (strategy or tf.distribute.get_strategy()).scope():
        model = network()
        optimizer = optimizer_for(model, wrap, **kwargs)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(outer(optimizer) if outer else optimizer, loss)
    model.fit(x, y, batch_size=batch_size, epochs=2, shuffle=False, verbose=0)
    return [np.asarray(v.value) for v in model.trainable_variables]


@pytest.fixture(scope="module")
def reference():
    return fitted()


def largest_difference(a, b) -> float:
    return max(float(np.max(np.abs(x - y))) for x, y in zip(a, b, strict=True))


def test_two_replicas_clip_what_one_does(reference):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert largest_difference(fitted(strategy=strategy), reference) < 2e-5


def test_accumulation_clips_the_whole_gradient(reference):
    assert largest_difference(fitted(4, gradient_accumulation_steps=2), reference) < 2e-5


def test_loss_scaling_changes_nothing(reference):
    def outer(optimizer):
        return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**10)

    assert largest_difference(fitted(outer=outer), reference) < 2e-5
    assert largest_difference(fitted(loss_scale_factor=64.0), reference) < 2e-5


def test_clipping_matters_here(reference):
    assert largest_difference(fitted(wrap=False), reference) > 1e-2


def test_averages_are_those_of_the_optimizer():
    x = np.random.default_rng(0).standard_normal((8, 16, 16, 3)).astype("float32")
    swap = [keras.callbacks.SwapEMAWeights()]
    results = []
    for average, callbacks in ((False, []), (True, []), (True, swap)):
        model = network()
        optimizer = optimizer_for(model, use_ema=average, ema_momentum=0.5)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(x, np.arange(8) % 4, batch_size=4, shuffle=False, verbose=0, callbacks=callbacks)
        results.append([np.asarray(v.value) for v in model.trainable_variables])
    assert largest_difference(results[0], results[1]) > 1e-4  # fit ends with the averages
    assert largest_difference(results[1], results[2]) < 1e-6


def test_a_saved_model_trains_on_alike(tmp_path):
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer_for(model), loss)
    x = np.random.default_rng(0).standard_normal((8, 16, 16, 3)).astype("float32")
    y = np.arange(8) % 4
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.clipping == 0.02 and int(loaded.optimizer.iterations) == 1
    for one in (model, loaded):
        one.fit(x, y, verbose=0)
    assert loaded.optimizer._unclipped == model.optimizer._unclipped != set()
    for a, b in zip(model.trainable_variables, loaded.trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.fast
def test_the_learning_rate_is_that_inside():
    optimizer = AGC(keras.optimizers.SGD(0.5))
    optimizer.learning_rate = 0.25
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25
    optimizer.build([keras.Variable([1.0, 2.0])])
    optimizer.apply([tf.constant([1e-6, 0.0])])
    assert int(optimizer.iterations) == 1


@pytest.mark.fast
@pytest.mark.parametrize(
    ("make", "error", "word"),
    [
        (lambda: AGC(keras.optimizers.SGD(), clipping=0.0), ValueError, "clipping"),
        (lambda: AGC(keras.optimizers.SGD(), eps=-1.0), ValueError, "eps"),
        (lambda: AGC("sgd"), TypeError, "keras.optimizers.SGD"),
        (lambda: AGC(keras.optimizers.SGD(), exclude=3), TypeError, "model.head.kernel"),
        (
            lambda: AGC(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())),
            TypeError,
            "must wrap the optimizer",
        ),
        (lambda: unitwise_norm(np.ones((2, 2, 2))), ValueError, r"\(2, 2, 2\)"),
    ],
)
def test_bad_arguments_are_named(make, error, word):
    with pytest.raises(error, match=word):
        make()


def test_a_wrapper_is_applied_as_any_optimizer():
    variable = keras.Variable(np.ones(3, "float32"))
    wrapped = nf_zoo.AdaptiveGradientClipping(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError):  # Keras says that it must be built first
        wrapped.apply([np.ones(3, "float32")])
    wrapped.apply([keras.ops.ones(3)], (one for one in [variable]))
    assert np.all(np.asarray(variable) < 1)
