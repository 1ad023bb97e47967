from __future__ import annotations

import csv

import pytest

from nf_zoo.cli import main
from nf_zoo.models.classifier import build_model

SMALL = ["--depth", "2", "--width", "8", "--pictures", "6"]


def run(*arguments) -> int:
    return main(["signal-propagation", *map(str, arguments)])


def test_a_figure(tmp_path, capsys):
    assert run("figure", "linear", "--output", tmp_path / "out", "--seed", 5, *SMALL) == 0
    names = [f"linear.{suffix}" for suffix in ("png", "svg", "csv")]
    assert capsys.readouterr().out.split() == [str(tmp_path / "out" / name) for name in names]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    first = (tmp_path / "out" / "linear.csv").read_bytes()
    assert run("figure", "linear", "--output", tmp_path / "again", "--seed", 5, *SMALL) == 0
    assert (tmp_path / "again" / "linear.csv").read_bytes() == first
    assert first.count(b"\n") == 3


def test_a_figure_on_pictures(pictures, tmp_path):
    options = ["--images", pictures, "--size", 8, *SMALL]
    assert run("figure", "convolutional_batch_norm", "--output", tmp_path, *options) == 0
    with (tmp_path / "convolutional_batch_norm.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["inputs"], row["pictures"]) for row in rows} == {("images", "6")}


@pytest.fixture
def unreadable(tmp_path):
    folder = tmp_path / "unreadable"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no picture")
    return folder


@pytest.mark.parametrize("kind", [("figure", "bn_order"), ("measure", "wide_resnet10_1")])
def test_pictures_that_cannot_be_read(kind, unreadable, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder, message in (
        (unreadable, "a.png is not a JPEG"),
        (tmp_path / "empty", "There is no picture in the folder. Received: "),
        (tmp_path / "missing", "There is no such folder of pictures. Received: "),
    ):
        assert run(*kind, "--output", tmp_path / "out", "--images", folder) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [("figure", "linear"), ("measure", "wide_resnet10_1")])
def test_an_output_that_cannot_be_written(kind, tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    assert run(*kind, "--output", tmp_path / "file") == 2
    error = capsys.readouterr().err
    assert "must be a writable folder" in error and error.count("\n") == 1
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.fast
@pytest.mark.parametrize("arguments", [[], ["figure", "lines", "--output", "x"]])
def test_misuse(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    assert "usage: nf-zoo signal-propagation" in capsys.readouterr().err


def test_measure_prints_a_row_for_every_block(capsys):
    assert run("measure", "wide_resnet10_1", "--shape", "8x12", "--unit-gains") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "wide_resnet10_1: 3 blocks, 32 noise, unit gains"
    assert [line.split()[0] for line in lines[2:]] == [f"stage{n}_block1" for n in (1, 2, 3)]
    assert all(float(line.split()[2]) > 1 for line in lines[2:])


def test_measure_a_saved_model_on_pictures(saved, pictures, model, tmp_path, capsys):
    options = ["--images", pictures, "--output", tmp_path / "out"]
    assert run("measure", saved["keras"], *options) == 0
    names = [f"{model.name}.{suffix}" for suffix in ("png", "svg", "csv")]
    assert capsys.readouterr().out.split() == [str(tmp_path / "out" / name) for name in names]
    with (tmp_path / "out" / names[2]).open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == [b.name for b in model.blocks]


def test_the_seed_decides_the_weights(capsys):
    texts = []
    for seed in (1, 1, 2):
        assert run("measure", "wide_resnet10_1", "--shape", "8", "--seed", seed) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.fast
def test_nothing_is_called_that(capsys):
    assert run("measure", "wide_resnet17_1") == 2
    assert "the nearest is wide_resnet16_1" in capsys.readouterr().err
    assert run("measure", "no_such_network") == 2
    assert "no_such_network" in capsys.readouterr().err


def test_measure_on_the_model_s_own_shape_and_channels(tmp_path, capsys):
    model = build_model("wide_resnet10_1", num_classes=2, widths=(4, 8, 8), input_shape=(24, 16, 1))
    model.save(tmp_path / "gray.keras")
    assert run("measure", tmp_path / "gray.keras") == 0
    assert "3 blocks, 32 noise" in capsys.readouterr().out
    assert run("measure", tmp_path / "gray.keras", "--shape", "24x16") == 0
    assert "3 blocks, 32 noise" in capsys.readouterr().out


def test_measure_says_why_there_is_no_theory(pictures, capsys):
    assert run("measure", "wide_resnet10_1", "--images", pictures) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "No theory: it covers only noise, and these are pictures."
