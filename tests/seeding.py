"""The same random numbers in every run, whatever ran before; on any backend.

A conftest.py imports both names.
"""

from __future__ import annotations

import keras
import pytest

SEED = 20261123


def seed() -> None:
    """Seed Python, NumPy and Keras, but not TensorFlow.

    Setting TensorFlow's own seed makes it forget all kernels, and optimize every traced function
    anew. No operation of the zoo reads it.
    """
    with pytest.MonkeyPatch.context() as patch:
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            patch.setattr(tf.random, "set_seed", lambda seed: None)
        keras.utils.set_random_seed(SEED)


def pytest_fixture_setup(fixturedef) -> None:
    """A fixture that several tests share starts from the seed: any of them may come first."""
    if fixturedef.scope != "function":
        seed()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the seed."""
    seed()
