from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nf_zoo
from nf_zoo.cli import main
from nf_zoo.deploy.formats import SUFFIXES


@pytest.fixture
def broken(pictures, tmp_path):
    """The pictures with a corrupt one among them."""
    root = shutil.copytree(pictures, tmp_path / "broken")
    (root / "green" / "2.png").write_bytes(b"\x89PNG no picture")
    return root


def probabilities(rows) -> dict[str, dict[str, float]]:
    return {row["file"]: {p["name"]: p["probability"] for p in row["predictions"]} for row in rows}


FILES = [row.name for row in SUFFIXES.values()]


@pytest.mark.parametrize("form", ["keras", "tuned", "pretrained", "saved_model", *FILES])
def test_predict_from_every_form(form, saved, exported, model, pictures, answer):
    files = [str(path) for path in sorted(pictures.rglob("*.png"))]
    code, rows = answer("predict", {**saved, **exported}[form], *files, "--batch-size", 5)
    assert code == 0
    assert [row["file"] for row in rows] == files
    logits = model(model.preprocess(files), training=False)
    expected = nf_zoo.decode_predictions(logits, top=3, labels=model)
    # TensorFlow's resizing differs from Pillow's by a fraction of a gray level.
    tolerance = 2e-2 if form == "saved_model" else 1e-5
    for row, predictions in zip(rows, expected, strict=True):
        assert len(row["predictions"]) == 3
        found = {p["name"]: p["probability"] for p in row["predictions"]}
        for prediction in predictions:
            assert found[prediction.name] == pytest.approx(prediction.probability, abs=tolerance)


def test_the_answers_differ_between_pictures(saved, pictures, answer):
    rows = probabilities(answer("predict", saved["keras"], pictures)[1])
    assert np.std([row["red"] for row in rows.values()]) > 0.05


def test_folders_are_searched(saved, pictures, answer):
    _, rows = answer("predict", saved["keras"], pictures / "red", pictures / "blue" / "1.png")
    names = [row["file"].removeprefix(f"{pictures}/") for row in rows]
    assert names == ["red/0.png", "red/1.png", "red/2.png", "red/3.png", "blue/1.png"]


def test_corrupt_and_missing_files_are_named_and_the_others_predicted(saved, broken, capsys):
    files = [broken / "green", broken / "missing.png"]
    code = main(["predict", str(saved["keras"]), *map(str, files), "--top", "1"])
    printed = capsys.readouterr()
    assert code == 1
    assert [line.split()[0][-5:] for line in printed.out.splitlines()[1:]] == [
        "0.png",
        "1.png",
        "3.png",
    ]
    errors = printed.err.splitlines()
    assert "green/2.png is not a JPEG" in errors[0]
    assert "no such picture file" in errors[1] and "missing.png" in errors[1]
    assert errors[2] == "nf-zoo: 2 of 5 could not be read"


def test_the_json_of_a_corrupt_file(saved, broken, answer):
    code, rows = answer("predict", saved["keras"], broken / "green")
    assert code == 1
    assert ["error" in row for row in rows] == [False, False, True, False]
    assert ["predictions" in row for row in rows] == [True, True, False, True]


@pytest.mark.fast
def test_without_a_picture_no_model_is_opened(tmp_path, answer):
    code, rows = answer("predict", "no-such-model", tmp_path, tmp_path / "missing.png")
    assert code == 1
    assert "no picture in the folder" in rows[0]["error"]
    assert "no such picture file" in rows[1]["error"]


def test_the_table_names_the_likeliest_class_first(saved, pictures, answer, capsys):
    file = pictures / "red" / "0.png"
    assert main(["predict", str(saved["keras"]), str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = answer("predict", saved["keras"], file)[1]
    names = [prediction["name"] for prediction in row["predictions"]]
    assert lines[1].split()[:2] == [str(file), names[0]]
    assert [line.split()[0] for line in lines[2:]] == names[1:]


def test_features_are_no_predictions(build_tiny, pictures, tmp_path, capsys):
    build_tiny(num_classes=0, labels=None).save(tmp_path / "model.keras")
    assert main(["predict", str(tmp_path / "model.keras"), str(pictures)]) == 2
    assert "has no classifier" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--top", "--batch-size"])
def test_numbers_must_be_positive(option, saved, pictures, capsys):
    assert main(["predict", str(saved["keras"]), str(pictures), option, "0"]) == 2
    assert f"{option} must be 1 or more" in capsys.readouterr().err


def test_evaluate(saved, model, pictures, answer):
    code, result = answer("evaluate", saved["tuned"], pictures, "--batch-size", 5)
    assert code == 0
    expected = nf_zoo.evaluate(model, pictures)
    assert result["confusion_matrix"] == expected["confusion_matrix"]
    assert result["cross_entropy"] == pytest.approx(expected["cross_entropy"], rel=1e-4)
    assert 0 < result["accuracy"] < 1


@pytest.mark.parametrize("form", FILES)
def test_evaluate_a_file(form, exported, model, pictures, answer):
    code, result = answer("evaluate", exported[form], pictures, "--batch-size", 5)
    assert code == 0
    expected = nf_zoo.evaluate(model, pictures)
    assert result["confusion_matrix"] == expected["confusion_matrix"]
    assert result["cross_entropy"] == pytest.approx(expected["cross_entropy"], rel=1e-3)


def test_a_file_in_eight_bits_that_takes_raw_gray_pixels(
    build_tiny, pictures, tmp_path, answer, capsys
):
    model = build_tiny(
        input_shape=(16, 16, 1), include_preprocessing=True, classifier_activation="softmax"
    )
    model.save(tmp_path / "model.keras")
    names = [str(tmp_path / "model.keras"), str(tmp_path / "model.onnx")]
    assert main(["export", *names, "--precision", "int8", "--pictures", str(pictures)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    change = re.search(r"differ from those of the Keras model by ([\d.]+) % \(rms\)", said)
    assert 0 < float(change[1]) < 30
    exact, rounded = (probabilities(answer("predict", name, pictures)[1]) for name in names)
    pairs = np.array([[exact[f][name], rounded[f][name]] for f in exact for name in exact[f]])
    assert np.ptp(pairs[:, 0]) > 0.5 and np.corrcoef(pairs.T)[0, 1] > 0.9


def test_evaluate_a_saved_model(saved, model, pictures, answer):
    code, result = answer("evaluate", saved["saved_model"], pictures, "--batch-size", 5)
    assert code == 0
    expected = nf_zoo.evaluate(model, pictures)
    assert result.keys() == expected.keys()
    assert result["confusion_matrix"] == expected["confusion_matrix"]
    assert result["cross_entropy"] == pytest.approx(expected["cross_entropy"], rel=1e-3)


def test_evaluate_a_saved_model_sends_it_the_files(saved, pictures, tmp_path, answer, capsys):
    """Its own decoder counts: what it cannot decode is named, not answered for it."""
    folder = Path(shutil.copytree(pictures, tmp_path / "pictures"))
    some = sorted(folder.rglob("*.png"))[0]
    Image.open(some).save(some.with_suffix(".tiff"))
    count = answer("evaluate", saved["tuned"], folder)[1]["pictures"]
    code, result = answer("evaluate", saved["saved_model"], folder)
    assert code == 1 and result["pictures"] == count - 1
    name = some.with_suffix(".tiff").relative_to(folder).as_posix()
    assert list(result["skipped"]) == [name] and "cannot decode" in result["skipped"][name]
    capsys.readouterr()
    assert main(["evaluate", str(saved["saved_model"]), str(folder)]) == 1
    assert f"Pictures skipped: 1 ({name}); --json says why" in capsys.readouterr().out
    assert main(["evaluate", str(saved["saved_model"]), str(folder), "--strict"]) == 2
    for path in folder.rglob("*.*"):
        path.write_bytes(b"broken")
    capsys.readouterr()
    assert main(["evaluate", str(saved["saved_model"]), str(folder)]) == 2
    assert "No picture can be read" in capsys.readouterr().err


def test_evaluate_in_words(saved, model, broken, capsys):
    assert main(["evaluate", str(saved["tuned"]), str(broken)]) == 1
    printed = capsys.readouterr()
    rows = {line.split()[0]: line.split()[1:] for line in printed.out.splitlines() if line}
    with pytest.warns(UserWarning, match="cannot be read"):
        expected = nf_zoo.evaluate(model, broken)
    for row in expected["per_class"]:
        figures = [f"{100 * row[name]:.1f}" for name in ("recall", "precision", "f1")]
        assert rows[row["label"]] == [str(row["support"]), *figures]
    low, high = (100 * share for share in expected["accuracy_interval"])
    interval = f"(95 % confidence: {low:.1f} to {high:.1f} %)"
    headline = f"Accuracy {100 * expected['accuracy']:.2f} % {interval} on 11 pictures"
    assert headline in printed.out
    assert printed.err.startswith("warning: 1 file of ") and printed.err.count("\n") == 1


@pytest.mark.parametrize("form", ["tuned", "saved_model"])
def test_evaluate_strictly(form, saved, broken, capsys):
    assert main(["evaluate", str(saved[form]), str(broken), "--strict"]) == 2
    assert "allows none: green/2.png" in capsys.readouterr().err


def test_only_the_weakest_of_many_classes_are_shown(saved, pictures, capsys, monkeypatch):
    monkeypatch.setattr("nf_zoo.cli.predicting.MOST_CLASSES", 1)
    assert main(["evaluate", str(saved["keras"]), str(pictures)]) == 0
    printed = capsys.readouterr().out
    assert "The 1 weakest of 3 classes" in printed
    assert (
        sum(line.split()[:1] in (["blue"], ["green"], ["red"]) for line in printed.splitlines())
        == 1
    )


@pytest.mark.fast
def test_evaluate_no_folder(capsys):
    assert main(["evaluate", "nf_resnet50", "no-such-folder"]) == 2
    assert "There is no such folder" in capsys.readouterr().err


def test_what_is_not_answered_is_counted_or_named(saved, pictures, tmp_path, answer, capsys):
    """Links, thumbnails, pictures without suffix or of other kinds, in both commands alike."""
    odd = tmp_path / "odd"
    (odd / "red" / "@eaDir").mkdir(parents=True)
    shutil.copy(pictures / "red" / "0.png", odd / "red" / "photo")
    shutil.copy(pictures / "red" / "1.png", odd / "red" / "@eaDir" / "1.png")
    shutil.copy(pictures / "red" / "1.png", odd / "red" / os.fsdecode(b"caf\xe9.png"))
    (odd / "red" / "scan.jp2").write_bytes(b"no such kind")
    (odd / "red" / "broken.heic").write_bytes(b"broken")
    (odd / "red" / "more").symlink_to(pictures / "red")
    (odd / "blue").symlink_to(pictures / "blue")
    code, rows = answer("predict", saved["keras"], odd)
    assert code == 1
    named = [row["file"].removeprefix(f"{odd}/") for row in rows]
    inside = [f"more/{i}.png" for i in range(4)]
    found = ["broken.heic", r"caf\udce9.png", *inside, "photo"]
    assert sorted(named) == sorted(
        [f"blue/{i}.png" for i in range(4)] + [f"red/{x}" for x in found]
    )
    assert [row["file"][-11:] for row in rows if "error" in row] == ["broken.heic"]
    assert "odd: 1 .jp2, 1 in @eaDir/" in capsys.readouterr().err
    code, result = answer("evaluate", saved["keras"], odd)
    assert code == 1
    assert result["pictures"] == 10
    assert list(result["skipped"]) == ["red/broken.heic"]
    assert result["ignored"] == {".jp2": 1, "in @eaDir/": 1}
    capsys.readouterr()
    assert main(["evaluate", str(saved["saved_model"]), str(odd)]) == 1
    assert "Files ignored: 1 .jp2, 1 in @eaDir/" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["keras", "saved_model"])
def test_a_very_thin_picture_is_answered_like_any_other(form, saved, tmp_path, answer):
    pixels = np.zeros((1, 1_000_000, 3), np.uint8)
    pixels[..., 0] = np.arange(1_000_000) % 250
    for label, turned in (("red", pixels), ("blue", pixels.swapaxes(0, 1))):
        (tmp_path / label).mkdir()
        Image.fromarray(turned).save(tmp_path / label / "thin.png")
    code, rows = answer("predict", saved[form], tmp_path)
    assert code == 0 and all(len(row["predictions"]) == 3 for row in rows)
    code, result = answer("evaluate", saved[form], tmp_path)
    assert (code, result["pictures"]) == (0, 2)


@pytest.mark.fast
@pytest.mark.parametrize("command", [["finetune", "", "--output", "x"], ["evaluate", "y", ""]])
def test_an_empty_name_is_not_the_current_folder(command, pictures, monkeypatch, capsys):
    monkeypatch.chdir(pictures)
    assert main(command) == 2
    assert "name of the folder is empty" in capsys.readouterr().err
    assert not (pictures / "x").exists()
