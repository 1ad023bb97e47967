"""Fine-tuning on all files that cameras and editors make, and who reads which of them later."""

from __future__ import annotations

import csv
import os
import warnings

import numpy as np
import pytest
from picture_files import CASES

import nf_zoo
from nf_zoo.hub.opening import SavedModel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CASES.is_dir(), reason="the collection lies beside a checkout"),
    pytest.mark.filterwarnings("ignore"),
]
NOT_IN_TENSORFLOW = ("avif", "heic", "tiff", "trunc_end")
"""Beginnings of the names of files that Pillow alone decodes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("collection") / "pictures"
    for index, path in enumerate(sorted(CASES.iterdir())):
        place = root / ("odd" if index % 2 else "even") / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    return root


def test_every_file_is_accounted_for_and_read_alike_by_all(folder, tmp_path, tiny):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        options = {"epochs": 1, "batch_size": 8, "verbose": 0}
        result = nf_zoo.finetune(tiny(), folder, output=tmp_path / "out", **options)
    report = result.metrics
    counts = report["counts"]
    files = sum(len(names) for _, _, names in os.walk(folder))
    assert sum(counts.values()) + sum(report["ignored"].values()) == files > 90
    assert counts["skipped"] == len(report["skipped"]) > 5
    assert any("cannot be read" in str(warning.message) for warning in said)

    with open(tmp_path / "out" / "pictures.csv", newline="", encoding="utf-8") as file:
        taken = [folder / row["file"] for row in csv.DictReader(file)]
    assert len(taken) == counts["train"] + counts["validation"]
    found = nf_zoo.evaluate(result.model, folder)
    assert found["pictures"] == counts["train"] + counts["validation"]
    assert list(found["skipped"]) == list(report["skipped"])
    served = SavedModel(tmp_path / "out" / "saved_model")
    answers, valid = served.probabilities_of_files(taken)
    alone = {path.name for path, known in zip(taken, valid, strict=True) if not known}
    assert alone and all(name.startswith(NOT_IN_TENSORFLOW) for name in alone)
    for path, answer, known in zip(taken, answers, valid, strict=True):
        if known:
            logits = result.model.predict(result.model.preprocess(path), verbose=0)
            expected = np.exp(logits[0]) / np.exp(logits[0]).sum()
            np.testing.assert_allclose(answer, expected, atol=2e-2, err_msg=path.name)
