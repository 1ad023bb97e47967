from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import succeed
from rich.console import Console
from rich.status import Status

from nf_zoo import quickstart as module
from nf_zoo.cli import main
from nf_zoo.quickstart import quickstart

SMALL = {
    "pretrained": False,
    "epochs": 1,
    "training_pictures": 3,
    "validation_pictures": 2,
    "test_pictures": 2,
    "depths": (1,),
    "widths": (8,),
    "stem_width": 8,
}


@pytest.fixture(scope="module")
def progress():
    """The texts that stood beside the spinner."""
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Status, "update", lambda self, text: shown.append(str(text)))
        yield shown


@pytest.fixture(scope="module")
def finished(tmp_path_factory, progress):
    output = tmp_path_factory.mktemp("quickstart") / "here"
    return output, quickstart(output, **SMALL)


def test_the_record(finished):
    output, record = finished
    assert json.loads((output / "quickstart.json").read_text()) == record
    assert record["pictures"] == {"train": 30, "val": 20, "test": 20}
    for name in ("fine_tuned", "from_scratch"):
        row = record[name]
        assert row["wrong"] == round(20 * (1 - row["test_accuracy"]))
    report = json.loads((output / "fine_tuned" / "report.json").read_text())
    assert report["test"]["accuracy"] == record["fine_tuned"]["test_accuracy"]
    assert report["test"]["pictures"] == 20


def test_progress_is_shown(finished, progress):
    right = r"1 of 1 epochs, \d+% of the validation pictures right; now the test pictures"
    for title, text in zip(("Pretrained", "From scratch"), progress, strict=True):
        assert re.fullmatch(f"{title}: {right}", text)


def test_the_saved_model_answered(finished):
    output, record = finished
    assert [row["digit"] for row in record["served"]] == ["0", "2", "4", "6", "8"]
    for row in record["served"]:
        assert (output / row["file"]).is_file()
        assert row["saved_model"] == pytest.approx(row["keras"], abs=1e-4)


def test_the_program_answers_help(finished):
    output, _ = finished
    helped = succeed("import runpy; runpy.run_path('predict.py')", "--help", cwd=output).stdout
    assert "usage: " in helped and "Predict with the exported network." in helped


def test_the_pictures_are_the_digits(finished):
    from sklearn.datasets import load_digits

    output, _ = finished
    digits = load_digits()
    files = sorted((output / "digits").rglob("*.png"))
    assert len(files) == 70 == len({path.name for path in files})
    for path in files[::7]:
        index = int(path.stem)
        assert int(path.parent.name) == digits.target[index]
        picture = Image.open(path)
        assert (picture.mode, picture.size) == ("RGB", (32, 32))
        small = np.asarray(picture.convert("L").resize((8, 8), Image.Resampling.BOX), dtype=float)
        assert np.corrcoef(small.ravel(), digits.images[index].ravel())[0, 1] > 0.95


def test_training_digits_come_before_the_others(finished):
    output, _ = finished
    for digit in range(10):
        train, val, test = (
            [int(path.stem) for path in (output / "digits" / split / str(digit)).iterdir()]
            for split in ("train", "val", "test")
        )
        assert max(train) < min(val) and max(val) < min(test)


def test_what_next_shows_a_few_pictures_of_several_classes(tmp_path, finished, capsys):
    output, record = finished
    module._print_end(Console(width=200), output, record["seconds"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    command = next(line for line in lines if line.startswith("nf-zoo predict "))
    _, _, network, *pictures = shlex.split(command)
    pictures = pictures[: pictures.index("--top")]
    assert Path(network, "model.keras").is_file()
    assert [Path(name).parent.name for name in pictures] == ["1", "4", "7"]
    assert all(Path(name).is_file() for name in pictures)
    assert main(shlex.split(command)[1:]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 3 * len(pictures)


def test_an_earlier_one_is_replaced_on_request_only(finished, capsys):
    output, record = finished
    assert main(["quickstart", "--output", str(output)]) == 2
    assert "choose another, or pass --overwrite" in capsys.readouterr().err
    assert json.loads((output / "quickstart.json").read_text()) == record


def test_overwrite(tmp_path, monkeypatch):
    module._take_folder(tmp_path / "here", overwrite=False)
    assert (tmp_path / "here" / "quickstart.json").is_file()
    module._take_folder(tmp_path / "here", overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_folders_are_left_alone(overwrite, tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="something else"):
        quickstart(tmp_path, overwrite=overwrite, **SMALL)
    assert [path.name for path in tmp_path.rglob("*")] == ["digits", "mine.txt"]


def test_too_many_pictures_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"at most 174 together.*Received: 164, 10, None"):
        quickstart(tmp_path / "out", training_pictures=164)
    assert not (tmp_path / "out").exists()


def test_both_networks_have_the_same_precision():
    fields = {"depths": (1,), "widths": (8,), "stem_width": 8, "dtype": "mixed_bfloat16"}
    policies = [model.dtype_policy.name for _, model in module._networks(False, 0, fields)]
    assert policies == ["mixed_bfloat16"] * 2


@pytest.mark.parametrize("answer", [["3", 0.5], ["1", 0.51]])
def test_a_different_answer_is_an_error(answer):
    row = {"file": "x.png", "saved_model": answer, "keras": ["1", 0.5]}
    with pytest.raises(RuntimeError, match="answers differently"):
        module._check_served([row])
