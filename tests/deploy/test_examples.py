"""The examples run without nf_zoo and name the classes that the model does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import succeed

import nf_zoo

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EXPORTS = {
    "saved_model": ("exported", nf_zoo.export_saved_model),
    "onnx": ("exported", nf_zoo.export_onnx),
    "litert": ("exported", nf_zoo.export_litert),
    "litert in integers": ("exported", nf_zoo.export_litert),
    "openvino": ("exported.xml", nf_zoo.export_openvino),
}


@pytest.mark.parametrize("kind", EXPORTS)
def test_example(kind, build_filled, tmp_path):
    model = build_filled("nf_resnet", classifier_activation="softmax" if kind == "onnx" else None)
    name, export = EXPORTS[kind]
    # Smooth, so that the ways of resizing agree.
    grid = np.stack(np.meshgrid(*(np.linspace(0, 3, n) for n in (90, 71)), [1, 2, 3]), -1)
    pixels = (127 + 120 * np.sin(grid.sum(-1))).astype("uint8")
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    kind, _, integers = kind.partition(" in ")
    options = {"precision": "int8", "full_integer": True, "pictures": [pixels]} if integers else {}
    export(model, tmp_path / name, **options)
    script = EXAMPLES / f"predict_{kind}.py"
    guarded = (
        "import runpy, sys; sys.modules['nf_zoo'] = None; sys.argv.pop(0); "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = succeed(guarded, script, name, "picture.png", cwd=tmp_path)
    said = [line.split() for line in done.stdout.splitlines()]
    predictions = model.predict(model.preprocess(tmp_path / "picture.png"), verbose=0)
    expected = nf_zoo.decode_predictions(predictions, top=5, labels=model)[0]
    assert [label for _, label in said] == [prediction.name for prediction in expected]
    for (probability, _), prediction in zip(said, expected, strict=True):
        gap = 0.1 if integers else 2e-3
        assert float(probability) == pytest.approx(prediction.probability, abs=gap)
