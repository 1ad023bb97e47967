"""Every family trains in half precision: no NaN, and a loss that stays where it should."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tiny_networks

from nf_zoo.models.registry import FAMILIES

STEPS = 20


def losses(label: str, policy: str) -> tuple[keras.Model, np.ndarray]:
    """The loss of each of twenty steps on one batch."""
    keras.utils.set_random_seed(0)
    model = tiny_networks.build(label, dtype=policy)
    images = tiny_networks.images(8, (32, 32))
    classes = np.arange(8) % tiny_networks.CLASSES
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), loss)
    history = model.fit(images, classes, batch_size=8, epochs=STEPS, verbose=0)
    return model, np.array(history.history["loss"])


def test_every_family_is_trained():
    assert tiny_networks.families() == set(FAMILIES)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("label", tiny_networks.NETWORKS)
def test_half_precision_trains(label, policy):
    model, seen = losses(label, policy)
    assert model.blocks[0].compute_dtype == policy.removeprefix("mixed_")
    assert np.all(np.isfinite(seen))
    # Learning may be slow where branches start silent, but nothing may blow up.
    assert seen.max() <= 1.5 * seen[0] and seen[-1] < seen[0]
    for weight in model.weights:
        assert weight.dtype == "float32" and np.all(np.isfinite(weight)), weight.path
    if policy == "mixed_float16":
        optimizer = model.optimizer
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        # A step whose gradients overflow is left out, and does not count.
        assert int(optimizer.inner_optimizer.iterations) == STEPS
