"""The examples run without nf_zoo and name the classes that the model does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import run, succeed

import nf_zoo

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EXPORTS = {
    "saved_model": ("exported", nf_zoo.export_saved_model),
    "onnx": ("exported", nf_zoo.export_onnx),
    "litert": ("exported", nf_zoo.export_litert),
    "litert in integers": ("exported", nf_zoo.export_litert),
    "openvino": ("exported.xml", nf_zoo.export_openvino),
}


GUARDED = (
    "import runpy, sys; sys.modules['nf_zoo'] = None; sys.argv.pop(0); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


@pytest.mark.parametrize("kind", [kind for kind in EXPORTS if " " not in kind])
def test_one_class_gray_and_none(kind, build_filled, tmp_path):
    model = build_filled("nf_resnet", input_shape=(40, 56, 1), labels=("yes",), num_classes=1)
    name, export = EXPORTS[kind]
    export(model, tmp_path / name)
    pixels = np.linspace(0, 255, 90 * 71 * 3).reshape(90, 71, 3).astype("uint8")
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    script = EXAMPLES / f"predict_{kind}.py"
    done = succeed(GUARDED, script, name, "picture.png", cwd=tmp_path)
    title, (probability, label) = (line.split() for line in done.stdout.splitlines())
    prepared = model.preprocess([tmp_path / "picture.png"])
    expected = model.decode_predictions(model.predict(prepared, verbose=0))[0][0]
    assert (title, label) == (["picture.png"], "yes")
    assert float(probability) == pytest.approx(expected.probability, abs=2e-3)

    export(model.with_classifier(0), tmp_path / name, overwrite=True)
    done = run(GUARDED, script, name, "picture.png", cwd=tmp_path)
    assert done.returncode == 1 and "needs a network with a classifier" in done.stderr


@pytest.mark.parametrize("kind", EXPORTS)
def test_example(kind, build_filled, tmp_path):
    model = build_filled("nf_resnet", classifier_activation="softmax" if kind == "onnx" else None)
    name, export = EXPORTS[kind]
    # Smooth, so that the ways of resizing agree.
    grid = np.stack(np.meshgrid(*(np.linspace(0, 3, n) for n in (90, 71)), [1, 2, 3]), -1)
    pixels = (127 + 120 * np.sin(grid.sum(-1))).astype("uint8")
    names = ["picture.png", "turned.png"]
    for file, picture in zip(names, (pixels, pixels[::-1]), strict=True):
        Image.fromarray(picture).save(tmp_path / file)
    kind, _, integers = kind.partition(" in ")
    options = {"precision": "int8", "full_integer": True, "pictures": [pixels]} if integers else {}
    export(model, tmp_path / name, **options)
    script = EXAMPLES / f"predict_{kind}.py"
    done = succeed(GUARDED, script, name, *names, cwd=tmp_path)
    lines = [line.split() for line in done.stdout.splitlines()]
    gap = 0.1 if integers else 2e-3
    predictions = model.predict(model.preprocess([tmp_path / file for file in names]), verbose=0)
    wanted = nf_zoo.decode_predictions(predictions, top=5, labels=model)
    for index, (file, expected) in enumerate(zip(names, wanted, strict=True)):
        title, *said = lines[6 * index : 6 * index + 6]
        assert title == [file]
        assert [label for _, label in said] == [prediction.name for prediction in expected]
        for (probability, _), prediction in zip(said, expected, strict=True):
            assert float(probability) == pytest.approx(prediction.probability, abs=gap)
    if kind != "saved_model":  # it decodes by itself
        Image.fromarray(257 * pixels[..., 0].astype("uint16")).save(tmp_path / "deep.png")
        done = run(GUARDED, script, name, "deep.png", cwd=tmp_path)
        assert done.returncode == 1 and "nf_zoo.preprocess does: deep.png" in done.stderr
    helped = succeed(GUARDED, script, "--help", cwd=tmp_path).stdout
    assert "usage: " in helped and f"python {script.name} " in " ".join(helped.split())
