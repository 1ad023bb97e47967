"""``compile`` of a network of the zoo: the loss is of what the classifier gives."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tiny_networks
from programs import printed_by

import nf_zoo

PIXELS = np.random.default_rng(0).standard_normal((8, 32, 32, 3)).astype("float32")
CLASSES = np.arange(8) % tiny_networks.CLASSES


def expected_loss(model) -> float:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=model.head is not None)
    return float(loss(CLASSES, model(PIXELS)))


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        "SparseCategoricalCrossentropy",
        keras.losses.sparse_categorical_crossentropy,
        keras.losses.SparseCategoricalCrossentropy,
        ["sparse_categorical_crossentropy"],
    ],
)
def test_a_loss_by_name_is_the_one_of_logits(loss):
    model = tiny_networks.filled("nf_resnet", "loss")
    model.compile("sgd", loss, metrics=["accuracy"])
    found = model.evaluate(PIXELS, CLASSES, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(expected_loss(model), rel=1e-4)
    right = np.asarray(model(PIXELS)).argmax(1) == CLASSES
    assert found["accuracy"] == pytest.approx(right.mean())


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "binary_crossentropy", "bce", "BCE"])
def test_one_hot_losses_too(loss):
    model = tiny_networks.filled("nf_resnet", "loss")
    model.compile("sgd", loss)
    kind = type(model.loss)
    targets = np.eye(tiny_networks.CLASSES, dtype="float32")[CLASSES]
    found = model.evaluate(PIXELS, targets, verbose=0)
    assert found == pytest.approx(float(kind(from_logits=True)(targets, model(PIXELS))), rel=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "sparse_categorical_crossentropy",
        "SparseCategoricalCrossentropy",
        keras.metrics.sparse_categorical_crossentropy,
    ],
)
def test_a_metric_by_name_is_that_of_logits_too(name):
    model = tiny_networks.filled("nf_resnet", "loss")
    model.compile("sgd", "sparse_categorical_crossentropy", metrics={"head": [name]})
    found = model.evaluate(PIXELS, CLASSES, verbose=0, return_dict=True)
    (metric,) = set(found) - {"loss"}
    assert metric == getattr(name, "__name__", name)
    assert found[metric] == pytest.approx(found["loss"], rel=1e-5)


@pytest.mark.parametrize("name", ["accuracy", "acc", "binary_accuracy"])
def test_a_single_logit_is_right_by_its_sign(name):
    model = tiny_networks.build("nf_resnet", num_classes=1)
    model.head.kernel.assign(keras.ops.zeros_like(model.head.kernel))
    for bias, right in ((0.3, 1.0), (-0.3, 0.0)):
        model.head.bias.assign([bias])
        model.compile("sgd", "binary_crossentropy", metrics=[name], weighted_metrics=["AUC"])
        found = model.evaluate(PIXELS, np.ones((8, 1)), verbose=0, return_dict=True)
        assert found[name] == right and set(found) == {"loss", name, "AUC"}


def test_metrics_of_logits_are_saved_with_the_model(tmp_path):
    model = tiny_networks.filled("nf_resnet", "loss")
    name = "sparse_categorical_crossentropy"
    model.compile("sgd", name, metrics=[name])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    found = loaded.evaluate(PIXELS, CLASSES, verbose=0, return_dict=True)
    assert found[name] == pytest.approx(found["loss"], rel=1e-5)


def test_it_learns_by_a_loss_of_that_name():
    """By the loss of probabilities, training on logits sticks at ln(classes)."""
    model = tiny_networks.build("nf_resnet")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
    losses = model.fit(PIXELS, CLASSES, epochs=25, verbose=0).history["loss"]
    assert losses[-1] < 0.3 * np.log(tiny_networks.CLASSES)


def test_a_step_is_traced_once(monkeypatch):
    model, traced = tiny_networks.build("nf_resnet"), []
    train_step = model.train_step

    def counted(*args):
        traced.append(args)
        return train_step(*args)

    monkeypatch.setattr(model, "train_step", counted)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
    model.fit(PIXELS, CLASSES, batch_size=4, verbose=0)
    assert int(model.optimizer.iterations) == 2 and len(traced) == 1


def test_a_softmax_keeps_the_loss_of_probabilities():
    model = tiny_networks.build("nf_resnet", classifier_activation="softmax")
    model.compile("sgd", "sparse_categorical_crossentropy")
    reference = keras.losses.SparseCategoricalCrossentropy()(CLASSES, model(PIXELS))
    found = model.evaluate(PIXELS, CLASSES, verbose=0)
    assert found == pytest.approx(float(reference), rel=1e-4)


@pytest.mark.parametrize(
    ("activation", "from_logits", "warns"),
    [(None, False, True), (None, True, False), ("softmax", True, True), ("softmax", False, False)],
)
def test_a_loss_object_of_the_other_kind_is_warned_of(activation, from_logits, warns, caplog):
    model = tiny_networks.build("nf_resnet", classifier_activation=activation)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits))
    lines = [record.message for record in caplog.records]
    assert bool(lines) == warns
    assert not warns or f"from_logits={not from_logits}" in lines[0]


def test_metrics_with_a_threshold_count_logits_above_zero(caplog):
    model = tiny_networks.filled("nf_resnet", "loss")
    logits = np.asarray(model(PIXELS))
    answers = (logits > 0).astype("float32")
    assert 0 < answers.mean() < 1 and np.any((logits > 0) & (logits < 0.5))
    names = ["binary_accuracy", "precision", "Recall", keras.metrics.TruePositives, "auc"]
    model.compile("sgd", "binary_crossentropy", metrics=names)
    found = model.evaluate(PIXELS, answers, verbose=0, return_dict=True)
    assert found.pop("true_positives") == answers.sum() and found.pop("loss")
    assert list(found.values()) == pytest.approx([1.0] * 4)
    assert not caplog.records
    fine = [keras.metrics.Recall(thresholds=0.0), keras.metrics.Precision(top_k=1)]
    wrong = [keras.metrics.Recall(), keras.metrics.BinaryAccuracy()]
    model.compile("sgd", "binary_crossentropy", metrics=fine + wrong)
    lines = [record.message for record in caplog.records]
    assert [line.rpartition("write ")[2] for line in lines] == [
        "Recall(thresholds=0.0)",
        "BinaryAccuracy(threshold=0.0)",
    ]


@pytest.mark.parametrize("loss", ["mse", None, keras.losses.MeanSquaredError()])
def test_other_losses_stay_as_they_are(loss):
    model = tiny_networks.build("nf_resnet")
    model.compile("sgd", loss)
    assert model.loss is loss


def test_a_folded_model_evaluates_its_logits_too():
    model = tiny_networks.filled("nf_resnet", "loss")
    folded = nf_zoo.fold(model)
    folded.compile(loss="sparse_categorical_crossentropy")
    found = folded.evaluate(PIXELS, CLASSES, verbose=0)
    assert found == pytest.approx(expected_loss(model), rel=1e-3)


def test_replicas_are_summed_over_where_there_are_several():
    import tensorflow as tf

    weights = []
    for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
        strategy = tf.distribute.MirroredStrategy(
            devices, cross_device_ops=tf.distribute.ReductionToOneDevice()
        )
        with strategy.scope():
            model = tiny_networks.filled("nf_resnet", "loss")
            model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        model.fit(PIXELS, CLASSES, batch_size=8, verbose=0)
        weights.append(model.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(one, two, atol=2e-6)


def test_a_step_that_overflows_on_one_replica_is_left_out_on_all():
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        model = tiny_networks.build("nf_resnet")
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        model.compile(optimizer, "sparse_categorical_crossentropy")
        optimizer.build(model.trainable_variables)
    before, scale = model.get_weights(), float(optimizer.dynamic_scale.numpy())

    def apply(largest):
        def on_replica():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            value = tf.where(tf.equal(replica, 1), largest, 1.0)
            gradients = [tf.fill(v.shape, value) for v in model.trainable_variables]
            optimizer.apply(gradients, model.trainable_variables)

        tf.function(lambda: strategy.run(on_replica))()

    apply(np.inf)
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert float(optimizer.dynamic_scale.numpy()) == scale / 2
    apply(1.0)
    moved = zip(before, model.get_weights(), strict=True)
    assert any(not np.array_equal(one, two) for one, two in moved)


def test_models_decode_their_own_labels():
    model = tiny_networks.build("nf_resnet", labels=("a", "b", "c", "d", "e"))
    scores = [[0.0, 1.0, 5.0, 0.0, 0.0]]
    for found in (
        model.decode_predictions(scores, top=2),
        nf_zoo.fold(model).decode_predictions(scores, top=2),
        nf_zoo.decode_predictions(scores, top=2, labels=model),
    ):
        assert [prediction.name for prediction in found[0]] == ["c", "b"]
    nameless = tiny_networks.build("nf_resnet")
    assert nameless.decode_predictions(scores, top=1)[0][0].name == "class_2"
    with pytest.raises(ValueError, match=r"call model\.decode_predictions"):
        nf_zoo.decode_predictions(scores, top=5)


@pytest.mark.parametrize("name", ["crossentropy", "CE"])
def test_the_name_for_every_cross_entropy_means_logits_too(name):
    model, targets = tiny_networks.filled("nf_resnet", "loss"), np.eye(5)[CLASSES]
    for classes in (CLASSES, CLASSES[:, None], targets):
        model.compile("sgd", name)
        found = model.evaluate(PIXELS, classes, verbose=0)
        assert found == pytest.approx(expected_loss(model), rel=1e-3)


@pytest.mark.parametrize("name", ["crossentropy", "ce", "bce"])
def test_a_single_logit_takes_classes_with_or_without_an_axis(name):
    model = tiny_networks.build("nf_resnet", num_classes=1)
    found = []
    for classes in (CLASSES % 2, CLASSES[:, None] % 2):
        model.compile("sgd", name)
        found.append(model.evaluate(PIXELS, classes, verbose=0))
    assert found[0] == pytest.approx(found[1])


def test_a_metric_given_as_a_class_has_the_name_that_keras_gives_it():
    model = tiny_networks.build("nf_resnet", num_classes=1)
    model.compile("sgd", "bce", metrics=[keras.metrics.AUC, keras.metrics.Precision, "recall"])
    logs = model.evaluate(PIXELS, CLASSES % 2, verbose=0, return_dict=True)
    names = {re.sub(r"_\d+$", "", name) for name in logs}  # Keras numbers them
    assert {"auc", "precision", "recall"} <= names


def test_the_loss_of_every_target_is_saved(tmp_path):
    model = tiny_networks.filled("nf_resnet", "loss")
    model.compile("sgd", "crossentropy", accumulate=2)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=PIXELS, y=CLASSES)
    program = """
import keras, nf_zoo, numpy as np
data = np.load("data.npz")
print(keras.saving.load_model("model.keras").evaluate(data["x"], data["y"], verbose=0))
"""
    found = float(printed_by(program, cwd=tmp_path))
    assert found == pytest.approx(expected_loss(model), rel=1e-3)


def test_what_a_user_gave_the_name_of_keras_stays():
    def categorical_crossentropy(y_true, y_pred):
        return 0.0 * y_pred[:, 0] + 7.0

    def precision(y_true, y_pred):
        return 0.0 * y_pred[:, 0] + 42.0

    model = tiny_networks.build("nf_resnet")
    model.compile("sgd", categorical_crossentropy, metrics=[precision])
    found = model.evaluate(PIXELS, CLASSES, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(7) and found["precision"] == pytest.approx(42)
