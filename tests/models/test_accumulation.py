"""A step by micro-batches is the step of the whole batch."""

import keras
import numpy as np
import pytest
import tiny_networks

import nf_zoo


def small(label="nf_resnet", **options):
    keras.utils.set_random_seed(0)
    return tiny_networks.build(label, num_classes=3, **options)


def optimizer_of(kind, model):
    common = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
    common |= {"use_ema": True, "ema_momentum": 0.8}
    if kind == "agc":
        sgd = keras.optimizers.SGD(0.1, **common)
        return nf_zoo.AdaptiveGradientClipping(sgd, 0.02, exclude=model.head.kernel)
    return keras.optimizers.SGD(0.1, global_clipnorm=0.5, **common)


def trained(accumulate, kind="sgd", count=10, label="nf_resnet", weighted=False, **compiled):
    """The model after two epochs of batches of 8: with ``count`` 10 the last is smaller."""
    model = small(label)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(count, 32, 32, 3)).astype("float32")
    classes = np.arange(count) % 3
    # Keras takes a column of weights too.
    shape = (count, 1) if accumulate > 1 else (count,)
    weights = {"sample_weight": rng.random(shape)} if weighted else {}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metrics = [keras.metrics.SparseCategoricalAccuracy("accuracy")]
    model.compile(
        optimizer_of(kind, model), loss, metrics=metrics, accumulate=accumulate, **compiled
    )
    history = model.fit(
        images, classes, batch_size=8, epochs=2, shuffle=False, verbose=0, **weights
    )
    return model, history.history


def assert_same(one, other, tolerance=1e-6):
    for model in (one, other):
        assert int(model.optimizer.iterations) == 4
    values = [[*m.get_weights(), *map(np.asarray, m.optimizer.variables)] for m in (one, other)]
    for mine, theirs in zip(*values, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ["sgd", "agc"])
@pytest.mark.parametrize("weighted", [False, True])
def test_weights_momenta_and_averages_are_those_of_whole_batches(kind, weighted):
    (whole, before), (parts, after) = (trained(k, kind, weighted=weighted) for k in (1, 3))
    assert_same(whole, parts)
    for key, values in before.items():
        np.testing.assert_allclose(after[key], values, rtol=1e-5)


def test_a_compiled_step_is_the_same():
    assert_same(trained(1, count=16)[0], trained(4, count=16, jit_compile=True)[0])


def test_pictures_of_unknown_sides():
    tf = pytest.importorskip("tensorflow", reason="tf.data needs TensorFlow")
    images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
    model = small(input_shape=(None, None, 3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, accumulate=2)
    sides = tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((None,), tf.int64)
    dataset = tf.data.Dataset.from_generator(
        lambda: [(images, np.arange(8) % 3)], output_signature=sides
    )
    assert np.isfinite(model.fit(dataset, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", [{"pooling": None}, {"features_only": True}], ids=str)
def test_maps(options, weighted):
    rng, results = np.random.default_rng(0), []
    images = rng.normal(size=(7, 32, 32, 3)).astype("float32")
    own = [rng.random((7, 1, 1)).astype("float32") for _ in range(3)]
    own = own if "features_only" in options else own[0]
    weights = {"sample_weight": own} if weighted else {}
    targets = None
    for accumulate in (1, 3):
        keras.utils.set_random_seed(0)
        model = tiny_networks.build("nf_resnet", num_classes=0, **options)
        if targets is None:
            targets = keras.tree.map_structure(lambda x: rng.random(x.shape), model(images))
        model.compile(keras.optimizers.SGD(0.1), "mse", accumulate=accumulate)
        history = model.fit(images, targets, batch_size=7, shuffle=False, verbose=0, **weights)
        results.append((model.get_weights(), history.history["loss"][0]))
    (one, loss), (other, found) = results
    assert found == pytest.approx(loss, rel=1e-5)
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)


def test_variables_without_a_gradient_stay_as_they_are():
    images, results = np.random.default_rng(0).normal(size=(4, 32, 32, 3)), []
    for accumulate in (1, 2):
        keras.utils.set_random_seed(0)
        model = tiny_networks.build("nf_resnet", num_classes=0, features_only=True)
        targets = keras.tree.map_structure(np.zeros_like, model(images))
        losses = ["mse", *[None] * (len(targets) - 1)]  # the last stages serve no loss
        model.compile(keras.optimizers.SGD(0.1, weight_decay=0.1), losses, accumulate=accumulate)
        model.fit(images, targets, batch_size=4, verbose=0)
        results.append(model.get_weights())
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)


def test_batch_normalization_sees_the_parts():
    whole, parts = (trained(k, label="resnet_v2", count=16)[0] for k in (1, 4))
    moved = [
        np.abs(a - b).max() for a, b in zip(whole.get_weights(), parts.get_weights(), strict=True)
    ]
    assert max(moved) > 1e-3


def test_a_saved_model_goes_on_in_parts(tmp_path):
    model = trained(4)[0]
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").accumulate == 4


def test_wrong_values_are_named():
    model = small()
    with pytest.raises(ValueError, match=r"accumulate must be 1 or more\. Received: 0"):
        model.compile("sgd", "mse", accumulate=0)
    total = keras.losses.CategoricalCrossentropy(from_logits=True, reduction="sum")
    with pytest.raises(ValueError, match=r"mean over the pictures.*Received: 'sum'"):
        model.compile("sgd", total, accumulate=2)
