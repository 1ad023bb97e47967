"""The example of differential privacy takes a few steps; its file opens under another backend."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
from programs import succeed

import nf_zoo

SCRIPT = Path(__file__).parents[1] / "examples" / "private_finetuning.py"
RUN = "import runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
ON_JAX = {"KERAS_BACKEND": "jax"}
FEW = ("--steps=3", "--pictures=16", "--batch-size=12", "--epsilon=5", "--delta=1e-3")
SEED = 6
"""Of draws that need a single compilation."""


def test_three_private_steps_of_a_network_that_had_batch_norm(tmp_path):
    name, target = "wide_resnet16_1.cifar10_bn", tmp_path / "mine.keras"
    words = (f"--model={name}", f"--output={target}", "--train=biases", f"--seed={SEED}")
    printed = succeed(RUN, SCRIPT, *FEW, *words, **ON_JAX).stdout
    patterns = (
        r"noise multiplier ([\d.]+)",
        r"epsilon ([\d.]+) at delta 0\.001",
        r"^accuracy (.*)$",
    )
    noise, epsilon, accuracy = (
        float(re.search(pattern, printed, re.MULTILINE)[1]) for pattern in patterns
    )
    assert noise > 0.5 and 4.8 < epsilon <= 5.0 and 0 <= accuracy <= 1
    model = keras.saving.load_model(target)
    before = nf_zoo.remove_batch_norm(nf_zoo.create_model(name, num_classes=0))
    *body, classifier = model.layers
    assert [x.name for x in body] == [x.name for x in before.layers]
    assert [x.name for x in model.variables] == [
        x.name for x in (*before.variables, *classifier.variables)
    ]
    for variable, old in zip(model.variables, before.variables, strict=False):
        assert np.any(np.not_equal(variable, old)) == (variable.name == "bias"), variable.path


def test_it_says_how_to_use_it():
    helped = succeed(RUN, SCRIPT, "--help", **ON_JAX).stdout
    assert "usage: " in helped and f"python {SCRIPT.name} " in " ".join(helped.split())
