"""Models that are gone leave no weights behind, however often they are made, run and fitted."""

from __future__ import annotations

import json

import pytest
from programs import printed_by

PROGRAM = """
import gc, json, weakref
import keras, numpy as np
import nf_zoo, tiny_networks

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

WIDE = {{"widths": (256, 1024)}}
pixels, classes = np.ones((4, 32, 32, 3), "float32"), np.zeros(4, "int32")
handles, sizes = [], []
for number in range({rounds}):
    model = tiny_networks.build("{label}", **WIDE)
    model.predict(pixels, verbose=0)
    if {fit}:
        model.compile({optimizer}, "sparse_categorical_crossentropy")
        model.fit(pixels, classes, verbose=0)
    if number == 2:
        settled = resident()
    handles += [weakref.ref(variable.value.handle) for variable in model.weights]
    weights = 4 * model.count_params()
    del model
    keras.utils.clear_session()
    gc.collect()
alive = sum(handle() is not None for handle in handles)
grown = (resident() - settled) / ({rounds} - 3) / weights
print(json.dumps([alive, grown], separators=(",", ":")))
"""

AGC = "nf_zoo.AdaptiveGradientClipping(keras.optimizers.SGD(0.1))"


@pytest.mark.parametrize(
    ("label", "optimizer"),
    [
        ("nf_resnet", "'sgd'"),  # standardization
        ("nf_regnet", AGC),  # grouped convolutions
        ("nfnet", "'adam'"),  # the gradient of GELU
        ("resnet_v2", "'sgd'"),  # none of these
    ],
)
def test_no_weights_outlive_their_model(label, optimizer):
    program = PROGRAM.format(rounds=50, label=label, fit=True, optimizer=optimizer)
    alive, grown = json.loads(printed_by(program, PYTHONPATH="tests"))
    assert alive == 0
    # What TensorFlow keeps of a graph is a share of a model's weights; a leak is all of them.
    assert grown < 0.5, f"{grown:.2f} of a model's weights stay for every model"
