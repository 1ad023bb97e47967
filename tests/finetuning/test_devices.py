"""Several devices make the steps of one: in a process of their own, which has two CPUs."""

import json
import os

import pytest
from programs import printed_by

PROGRAM = """
import json, os
import numpy as np

shared = set()
backend, root = os.environ["KERAS_BACKEND"], os.environ["PICTURES"]
if backend == "tensorflow":
    import tensorflow as tf

    both = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], both)
    cpus = [device.name for device in tf.config.list_logical_devices("CPU")]
else:
    import jax

    cpus = [f"cpu:{device.id}" for device in jax.devices()]

    from keras.src.backend.jax import distribution_lib

    distribute = distribution_lib.distribute_data_input

    def noted(*args, **kwargs):
        value = distribute(*args, **kwargs)
        if value is not None:
            share = value.sharding.shard_shape(value.shape)
            shared.add((len(value.sharding.device_set), share[0]))
        return value

    distribution_lib.distribute_data_input = noted

import nf_zoo
from finetuning.conftest import build_tiny
from nf_zoo.finetuning import devices

options = {"epochs": 2, "warmup_epochs": 1, "batch_size": 8, "learning_rate": 0.1, "ema": 0.5}
options |= {"flip": False, "verbose": 0, "accumulate": 2}
start, results = build_tiny(), []
for names in (cpus, cpus[:1]):
    devices._names = lambda: names
    results.append(nf_zoo.finetune(start, root, **options))
weights = [result.model.get_weights() for result in results]
rows = [[row[k] for row in r.history for k in ("loss", "val_loss")] for r in results]
found = {
    "devices": [result.metrics["devices"] for result in results],
    "apart": max(float(np.abs(a - b).max()) for a, b in zip(*weights, strict=True)),
    "losses": rows,
    "shared": sorted(shared),
}
print(json.dumps(found, separators=(",", ":")))
"""


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_make_the_steps_of_one(backend, few):
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"
    given = {"KERAS_BACKEND": backend, "PICTURES": str(few), "XLA_FLAGS": flags}
    given["PYTHONPATH"] = "tests"
    found = json.loads(printed_by(PROGRAM, **given))
    assert found["devices"] == [2, 1]
    if backend == "jax":  # under TensorFlow a strategy shares the batch
        assert found["shared"] == [[2, 4]]  # of eight pictures
    assert found["apart"] < 1e-6
    assert found["losses"][0] == pytest.approx(found["losses"][1], abs=1e-5)
