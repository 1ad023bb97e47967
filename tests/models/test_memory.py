"""Models that are gone leave no weights behind, however often they are made, run and fitted."""

from __future__ import annotations

import json

import pytest
from programs import printed_by

PROGRAM = """
import gc, json, weakref
import keras, numpy as np
import nf_zoo, tiny_networks
from tensorflow.python.framework import ops

pixels, classes = np.ones((4, 16, 16, 3), "float32"), np.zeros(4, "int32")
found = {{}}
for label, options in {networks}:
    handles, registered = [], []
    for _ in range(3):
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
        registered.append(len(ops.gradient_registry._registry))
    alive, added = sum(handle() is not None for handle in handles), registered[-1] - registered[0]
    found["/".join([label, *options.values()])] = [alive, len(handles), added]
print(json.dumps(found, separators=(",", ":")))
"""

NETWORKS = [
    ("nf_resnet", {}),  # standardization, products as gradients
    ("nf_resnet", {"dtype": "mixed_bfloat16"}),  # small maps as one product
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
    assert len(found) == len(NETWORKS) and all(count > 20 for _, count, _ in found.values())
    assert {label: alive for label, (alive, _, _) in found.items()} == dict.fromkeys(found, 0)
    # TensorFlow never forgets an entry of its registry of gradients, nor what the entry holds.
    assert {label: added for label, (_, _, added) in found.items()} == dict.fromkeys(found, 0)
