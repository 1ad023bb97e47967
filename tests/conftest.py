"""Two logical CPUs, so that strategies with two replicas can be tested; quiet TensorFlow."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Of the tests and the programs that they start: what runs twice need not be compiled well.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# OpenVINO tells its makers of every use otherwise.
os.environ.setdefault("CI", "true")

import pytest
import tensorflow as tf
from seeding import SEED, pytest_fixture_setup, seeded  # noqa: F401

# The garbage collector need not look again and again through half a million objects of TensorFlow
# that stay. Before the tests are collected: nf_zoo searches for the layers they make.
gc.collect()
gc.freeze()

# Has an environment of its own: .ci/without_tensorflow.
collect_ignore = ["without_tensorflow"]

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


def pytest_collection_modifyitems(config, items):
    """Leave slow tests out of ``-m fast``, in files whose tests are fast too."""
    if config.option.markexpr == "fast":
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


@pytest.fixture(scope="module", autouse=True)
def _tensorflow_seeded():
    """TensorFlow's own seed, for operations with a state, of which the zoo has none."""
    tf.random.set_seed(SEED)


@pytest.fixture(autouse=True)
def _own_width(monkeypatch):
    """Parallel test runners set COLUMNS; tables would then be cut to that width."""
    monkeypatch.delenv("COLUMNS", raising=False)
