"""Models that are gone leave no weights behind, however often they are made, run and fitted."""

from __future__ import annotations

import json

import pytest
from programs import printed_by

PROGRAM = """
import gc, json, weakref
import keras, numpy as np
import nf_zoo, tiny_networks

pixels, classes = np.ones((4, 16, 16, 3), "float32"), np.zeros(4, "int32")
found = {{}}
for label, options in {networks}:
    handles = []
    for _ in range(2):
        model = tiny_networks.build(label, depths=(1,), widths=(16,), **options)
        model.predict(pixels, verbose=0)
        nf_zoo.fold(model).predict(pixels, verbose=0)
        model.compile({optimizer}, "sparse_categorical_crossentropy")
        model.fit(pixels, classes, verbose=0)
        # A variable's handle is gone when nothing holds its value any more.
        handles += [weakref.ref(variable.value.handle) for variable in model.weights]
        del model
        keras.utils.clear_session()
        gc.collect()
    found[label] = [sum(handle() is not None for handle in handles), len(handles)]
print(json.dumps(found, separators=(",", ":")))
"""

NETWORKS = [
    ("nf_resnet", {}),  # standardization
    ("nf_regnet", {}),  # grouped convolutions, SiLU
    ("nfnet", {"activation": "gelu"}),
    ("resnet_v2", {}),  # the optimizer's own
]


@pytest.mark.parametrize(
    "optimizer", ["'sgd'", "nf_zoo.AdaptiveGradientClipping(keras.optimizers.SGD(0.1))"]
)
def test_no_weights_outlive_their_model(optimizer):
    program = PROGRAM.format(networks=NETWORKS, optimizer=optimizer)
    found = json.loads(printed_by(program, PYTHONPATH="tests"))
    assert len(found) == len(NETWORKS) and all(count > 20 for _, count in found.values())
    assert {label: alive for label, (alive, _) in found.items()} == dict.fromkeys(found, 0)
