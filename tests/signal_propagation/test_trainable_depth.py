"""The figure of the trainable depth, at tiny sizes."""

from __future__ import annotations

import csv
import math

import keras
import numpy as np
import photographs
import pytest

from nf_zoo.signal_propagation import paper_figures, repeated_blocks, trainable_depth
from nf_zoo.signal_propagation.trainable_depth import Run, Trained

TINY = {"depth": 2, "width": 4, "pictures": 32, "size": 8}


@pytest.fixture
def small(monkeypatch):
    """Two schemes, few updates, and no compilation, which takes longest."""
    monkeypatch.setattr(trainable_depth, "SCHEMES", ("bn", "fixup"))
    monkeypatch.setattr(trainable_depth, "UPDATES", ((10, 6), (math.inf, 4)))
    monkeypatch.setattr(trainable_depth, "CHUNK", 2)
    monkeypatch.setattr(trainable_depth, "TRIED_UP_TO", 10)
    monkeypatch.setattr(repeated_blocks, "compiled", lambda function: function)


def test_it_is_written_with_its_data(small, tmp_path):
    png, svg, data = paper_figures.reproduce("trainable_depth", tmp_path, **TINY)
    assert png.read_bytes()[:4] == b"\x89PNG" and b"</svg>" in svg.read_bytes()[-20:]
    rows = list(csv.DictReader(data.open(newline="")))
    blocks = [row for row in rows if row["block"]]
    # Those of the deepest networks, and of the others the first.
    assert [(r["scheme"], r["layers"], r["block"]) for r in blocks] == [
        (scheme, layers, str(block))
        for scheme in ("bn", "fixup")
        for layers, count in (("10", 1), ("16", 7))
        for block in range(1, count + 1)
    ]
    last = [r for r in blocks if r["block"] == "7"]
    assert [float(r["gradient_norm"]) for r in last] == [1.0, 1.0]
    assert all(float(r["gradient_norm"]) > 0 for r in blocks)
    runs = [row for row in rows if row["learning_rate"]]
    rates = [str(rate) for rate in trainable_depth.RATES]
    tried = [r["learning_rate"] for r in runs if r["layers"] == "10"]
    assert tried == rates * 2
    # The deeper ones go on with the better rate.
    better = [r["learning_rate"] for r in runs if r["layers"] == "10" and r["best"] == "True"]
    assert [r["learning_rate"] for r in runs if r["layers"] == "16"] == better
    assert {(r["layers"], r["updates"]) for r in runs} == {("10", "6"), ("16", "4")}
    assert sum(r["best"] == "True" for r in runs) == 4


def test_the_seed_decides_the_data(small, monkeypatch):
    monkeypatch.setattr(trainable_depth, "SCHEMES", ("fixup",))
    monkeypatch.setattr(trainable_depth, "DEPTHS", 1)
    first, again, other = (
        paper_figures.FIGURES["trainable_depth"](seed=seed, **TINY).rows() for seed in (0, 0, 1)
    )
    assert first == again != other


def test_without_a_scheme_a_deep_network_is_lost(monkeypatch):
    monkeypatch.setattr(trainable_depth, "SCHEMES", ("none",))
    monkeypatch.setattr(trainable_depth, "UPDATES", ((math.inf, 3),))
    monkeypatch.setattr(trainable_depth, "CHUNK", 3)
    monkeypatch.setattr(trainable_depth, "DEPTHS", 2)
    monkeypatch.setattr(trainable_depth, "RATES", (0.02,))
    task = trainable_depth.synthetic_task(16, 8, seed=0)
    shallow, deepest = trainable_depth.train_all(task, most=40, width=4, seed=0)
    assert (shallow.layers, deepest.layers) == (10, 244)
    assert shallow.runs[0].updates == 3 and math.isfinite(shallow.best.loss)
    # What doubles 120 times overflows after an update: that is a result, and no error.
    assert deepest.runs[0].updates < 3 and math.isnan(deepest.best.loss) and not deepest.trains
    assert shallow.gradients[0] < 10 and deepest.gradients[0] > 1e5


def test_what_counts_as_training():
    good, bad, lost = Run(0.1, 9, 1.8), Run(0.02, 9, 2.2), Run(0.1, 3, math.nan)

    def trained(*runs):
        return Trained("nf", 10, (1.0,), runs, guessing=math.log(10))

    assert trained(lost, good).best is good and trained(bad, good).best is good
    assert trained(lost, good).trains and not trained(bad, lost).trains
    assert trained(lost, lost).best is lost and not trained(lost).trains


def test_the_synthetic_pictures():
    task = trainable_depth.synthetic_task(400, 7, seed=3)
    assert task.images.shape == (400, 7, 7, 3) and task.images.dtype == np.float32
    assert task.images.var() == pytest.approx(1, rel=0.15)
    assert task.guessing == pytest.approx(math.log(10))
    mean = task.images[task.labels == 4].mean(axis=0)
    # Half of the variance is the class's, of pixels in pairs.
    assert mean.var() == pytest.approx(0.5, rel=0.3)
    np.testing.assert_allclose(mean[0, 0], mean[1, 1], atol=0.6)
    again = trainable_depth.synthetic_task(400, 7, seed=3)
    np.testing.assert_array_equal(task.images, again.images)


def test_folders_are_the_classes(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(paper_figures, "measure", lambda task, *_: seen.append(task))
    paths = []
    for which, name in enumerate(["cat", "cat", "dog", "emu"]):
        path = tmp_path / name / f"{which}.png"
        path.parent.mkdir(exist_ok=True)
        photographs.photograph(20, 20, which % 2).save(path)
        paths.append(path)
    paper_figures.FIGURES["trainable_depth"](images=paths, size=6)
    paper_figures.FIGURES["trainable_depth"](images=paths[:2], size=6)
    named, unnamed = seen
    assert named.labels.tolist() == [0, 0, 1, 2] and named.classes == 3
    assert named.images.shape == (4, 6, 6, 3) and named.kind == "4 real pictures of 6 x 6"
    assert unnamed.classes == 10 and "random labels" in unnamed.kind


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    task = trainable_depth.synthetic_task(10, 8, seed=0)
    with pytest.raises(RuntimeError, match=r"must be TensorFlow or JAX.*Received: backend 'torch'"):
        trainable_depth.measure(task, 2, 4, 0)
