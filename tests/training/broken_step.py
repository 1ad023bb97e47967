"""A step and an evaluation of a network whose answers are no numbers, on either backend."""

from __future__ import annotations

import numpy as np

from training.session import Session


def check_a_broken_network(recipe, folder) -> None:
    """Train two steps, put a NaN into the classifier, and train and evaluate once more."""
    session = Session(recipe, folder, strategy="one_device")
    engine, batches = session.engine, iter(session.feed.train(0))
    for _ in range(2):
        assert np.isfinite(float(engine.train_step(next(batches))))
    state = dict(engine.state())
    (kernel,) = [key for key in state if key.startswith("model") and key.endswith("head/kernel")]
    state[kernel] = state[kernel].copy()
    state[kernel][0] = np.nan
    engine.restore(state)
    assert np.isnan(float(engine.train_step(next(batches))))
    # The momentum, which is not 0, moves nothing, and the step is not counted.
    assert engine.iterations() == 2
    for key, value in engine.state():
        np.testing.assert_array_equal(value, state[key], err_msg=key)
    found = engine.evaluate(session.feed.test())
    assert np.isnan(found["loss"]) and found["top1"] == found["top5"] == 0
