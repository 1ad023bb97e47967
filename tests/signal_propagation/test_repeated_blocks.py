"""Stacked weights and one traced body: the same training as Keras's own on the whole graph."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from nf_zoo.models.classifier import build_model
from nf_zoo.models.wide_resnet import SCHEMES
from nf_zoo.signal_propagation import repeated_blocks
from nf_zoo.signal_propagation.repeated_blocks import MOMENTUM, RepeatedBlocks

SIZES = {"widths": (4, 6), "stem_width": 4, "num_classes": 5, "input_shape": (8, 8, 3)}
DEPTH = 3


def network(scheme, depth):
    keras.utils.set_random_seed(1)
    return build_model("wide_resnet16_1", scheme=scheme, depths=(depth,) * 2, **SIZES)


def loud(model):
    """Weights that leave no branch silent, the classifier neither."""
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:
        noise = generator.standard_normal(variable.shape).astype("float32")
        variable.assign(keras.ops.convert_to_numpy(variable) + 0.1 * noise)


def stacked(model, deep):
    """The model's weights, segment by segment."""

    def values(*layers):
        return [keras.ops.convert_to_numpy(v) for x in layers for v in x.trainable_variables]

    layers = model.layers[1:]
    first, last = (layers.index(model.blocks[i]) for i in (0, -1))
    arrays = [values(*layers[:first])]
    for stage in range(2):
        entry, *others = model.blocks[stage * DEPTH : (stage + 1) * DEPTH]
        arrays += [values(entry), [np.stack(v) for v in zip(*map(values, others), strict=True)]]
    return deep.state(model.config, [*arrays, values(*layers[last + 1 :])])


def gradients_at_the_blocks(model, images, labels):
    """Norms of the loss's gradient by every block's input and the last output, by the tape."""
    import tensorflow as tf

    x, inputs = images, []
    with tf.GradientTape() as tape:
        for layer in model.layers[1:]:
            before = tf.convert_to_tensor(x)
            tape.watch(before)
            x = layer(before, training=True)
            if layer in model.blocks:
                inputs.append(before)
            if layer is model.blocks[-1]:
                inputs.append(x)
        losses = keras.losses.sparse_categorical_crossentropy(labels, x, from_logits=True)
        loss = tf.reduce_mean(losses)
    return [float(tf.norm(gradient)) for gradient in tape.gradient(loss, inputs)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_trains_as_keras_does(scheme, monkeypatch):
    if scheme not in ("nf", "bn"):
        # Compilation takes longest, and is not another one for the others.
        monkeypatch.setattr(repeated_blocks, "compiled", lambda function: function)
    generator = np.random.default_rng(2)
    images = generator.standard_normal((12, 8, 8, 3)).astype("float32")
    labels = generator.integers(0, 5, 12)
    batches = np.arange(12).reshape(2, 6)
    model = network(scheme, DEPTH)
    loud(model)
    # Room for more blocks than there are.
    deep = RepeatedBlocks(network(scheme, 2), most=DEPTH + 2)
    state = stacked(model, deep)
    expected = gradients_at_the_blocks(model, images[:6], labels[:6])
    _, norms, _ = deep.train(state, images, labels, batches[[0, 0]], rate=0.0)
    np.testing.assert_allclose(norms, expected, rtol=1e-4)

    losses, _, trained = deep.train(state, images, labels, batches, rate=0.05)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=MOMENTUM),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    theirs = [model.train_on_batch(images[b], labels[b]) for b in batches]
    np.testing.assert_allclose(losses, theirs, rtol=1e-4)
    after = stacked(model, deep).weights
    flat = (keras.tree.flatten(x) for x in (state.weights, trained.weights, after))
    for before, mine, other in zip(*flat, strict=True):
        moved = np.abs(np.array(other) - np.array(before)).max()
        np.testing.assert_allclose(mine, other, atol=1e-3 * moved + 1e-7)


@pytest.mark.parametrize("scheme", ["nf", "fixup", "skipinit_1/sqrt(d)"])
def test_it_starts_as_the_network_of_that_depth(scheme):
    deep = RepeatedBlocks(network(scheme, 2), most=20)
    real = network(scheme, 20)
    blocks = deep.draw(20, seed=0).weights[2]
    again, other = (deep.draw(20, seed=seed).weights[2] for seed in (0, 1))
    own = [block.trainable_variables for block in real.blocks[1:20]]
    for mine, same, different, theirs in zip(
        blocks, again, other, zip(*own, strict=True), strict=True
    ):
        mine, theirs = np.array(mine), np.stack([np.array(v) for v in theirs])
        assert mine.shape == theirs.shape
        np.testing.assert_array_equal(mine, same)
        if np.ptp(theirs) == 0:
            np.testing.assert_array_equal(mine, theirs)
            continue
        assert np.abs(mine - different).max() > 0
        assert np.abs(np.diff(mine, axis=0)).min(axis=0).max() > 0
        assert mine.std() == pytest.approx(theirs.std(), rel=0.1)
        assert abs(mine.mean()) < 0.1 * mine.std()


def test_the_template_must_have_two_blocks_per_stage():
    with pytest.raises(ValueError, match=r"two blocks in every stage. Received: depths=\(3, 3\)"):
        RepeatedBlocks(network("nf", 3), most=5)
