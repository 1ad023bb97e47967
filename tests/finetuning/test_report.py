import json
import warnings

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from nf_zoo.finetuning import report
from nf_zoo.finetuning.evaluation import Evaluation, Sample


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved."""
    saved = []
    original = Figure.savefig

    def savefig(self, *args, **kwargs):
        saved.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


def texts(figure):
    return [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text"))]


def rows(count, warmup=0):
    return [
        {
            "epoch": i + 1,
            "phase": "head" if i < warmup else "whole",
            "cross_entropy": 1 / (i + 1),
            "accuracy": 1 - 1 / (i + 2),
            "val_cross_entropy": 1.1 / (i + 1),
            "val_accuracy": 0.9 - 1 / (i + 2),
        }
        for i in range(count)
    ]


@pytest.mark.parametrize(("count", "warmup"), [(1, 0), (1, 1), (5, 2), (90, 9)])
def test_learning_curve(tmp_path, figures, count, warmup):
    report.learning_curve(rows(count, warmup), tmp_path / "curve.png", pictures=60)
    assert Image.open(tmp_path / "curve.png").size == (1200, 480)
    loss, accuracy = figures[0].axes
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [r["cross_entropy"] for r in rows(count)])
    np.testing.assert_allclose(
        accuracy.lines[1].get_ydata(), [r["val_accuracy"] for r in rows(count)]
    )
    assert ("classifier alone" in texts(figures[0])) == (0 < warmup < count)
    band = accuracy.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() < rows(count)[0]["val_accuracy"] < band.max() <= 1


def test_epochs_of_an_earlier_version_leave_a_gap(tmp_path, figures):
    history = rows(4)
    del history[0]["cross_entropy"], history[0]["val_cross_entropy"]
    report.learning_curve(history, tmp_path / "curve.png")
    assert np.isnan(figures[0].axes[0].lines[0].get_ydata()).tolist() == [True] + 3 * [False]


@pytest.mark.parametrize("classes", [2, 12, 35, 200])
def test_confusion_matrix(tmp_path, figures, classes):
    confusion = np.diag(np.arange(1, classes + 1))
    confusion[0, 1] = 777
    labels = tuple(f"class {i}" for i in range(classes))
    report.confusion_matrix(confusion, labels, tmp_path / "matrix.png")
    shown = texts(figures[0])
    image = next(axes.images[0] for axes in figures[0].axes if axes.images)
    np.testing.assert_allclose(image.get_array()[0, :2], [1 / 778, 777 / 778])
    assert ("777" in shown) == (classes <= 20)
    assert ("class 1" in shown) == (classes <= 60)
    listed = [text for text in shown if text.startswith("Most common confusions")]
    assert len(listed) == (classes > 20)
    if listed:
        assert listed[0].splitlines()[1].split(maxsplit=1) == ["777", "class 0 as class 1"]
    assert max(Image.open(tmp_path / "matrix.png").size) < 3000


@pytest.mark.parametrize("mistakes", [0, 3])
def test_picture_grid_marks_mistakes(tmp_path, figures, mistakes):
    pixels = np.full((40, 30, 3), 200, np.uint8)
    right, wrong = Sample(pixels, 0, 0, 0.9), Sample(pixels, 0, 1, 0.8)
    evaluation = Evaluation(("cat", "dog"), np.eye(2), samples=[right, wrong] * 5)
    evaluation.mistakes = [wrong] * mistakes
    report.picture_grid(evaluation, tmp_path / "grid.png")
    shown = texts(figures[0])
    assert shown.count("cat · 90 %") == 5
    assert shown.count("dog · 80 %") == shown.count("is cat") == 5 + mistakes
    assert ("The most confident mistakes" in shown) == (mistakes > 0)
    red = [t for t in figures[0].findobj(lambda a: hasattr(a, "get_color")) if _is_wrong(t)]
    assert len(red) == 5 + mistakes


def _is_wrong(artist):
    return hasattr(artist, "get_text") and artist.get_text() and artist.get_color() == report.WRONG


@pytest.fixture
def without_export(monkeypatch):
    monkeypatch.setattr(
        "nf_zoo.deploy.saved_model.export_saved_model", lambda model, path: path.mkdir()
    )


class Model:
    def save(self, path):
        path.write_bytes(b"model")


def written(path, labels):
    """The report of a run with these labels, and the warnings."""
    path.mkdir()
    sample = Sample(np.full((8, 8, 3), 200, np.uint8), 0, 1, 0.8)
    evaluation = Evaluation(labels, np.eye(len(labels), dtype=int), samples=[sample])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report.write_report(path, Model(), {"labels": labels}, rows(2), evaluation)
    told = [str(warning.message) for warning in caught]
    return json.loads((path / "report.json").read_bytes()), told


HARD = {
    "dollars": ("$5_to_$10", r"$\frac$", "Ba$$in"),
    "controls": ("two\nlines", "bell\x07", "tab\t"),
    "bytes": ("caf\udce9", "x", "y"),
    "marks": ("_hidden", "100 %", "{braces}^2"),
}


@pytest.mark.fast
@pytest.mark.parametrize("kind", HARD)
def test_no_class_name_costs_a_plot(kind, tmp_path, figures, without_export):
    labels = HARD[kind]
    figures_of_report, told = written(tmp_path / "out", labels)
    assert (figures_of_report, told) == ({"labels": list(labels)}, [])
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    escaped = {"two\nlines": r"two\nlines", "caf\udce9": r"caf\udce9"}
    assert escaped.get(labels[0], labels[0]) in texts(figures[1])


@pytest.mark.fast
def test_a_plot_that_fails_is_named_and_the_rest_is_written(tmp_path, monkeypatch, without_export):
    def fails(evaluation, path):
        path.write_bytes(b"half")
        raise ValueError("no such\n\ncolor")

    monkeypatch.setattr(report, "picture_grid", fails)
    figures_of_report, (told,) = written(tmp_path / "out", ("cat", "dog"))
    assert told.startswith("predictions.png could not be made")
    assert told.endswith("ValueError: no such color")
    assert figures_of_report["missing"] == {"predictions.png": "ValueError: no such color"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.keras", "learning_curve.png", "history.csv", "saved_model"} < names
    assert "predictions.png" not in names


@pytest.mark.fast
def test_a_full_disk_is_no_missing_plot(tmp_path, monkeypatch, without_export):
    def full(evaluation, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "picture_grid", full)
    with pytest.raises(OSError, match="No space"):
        written(tmp_path / "out", ("cat", "dog"))


@pytest.fixture
def font_of_a_cat(tmp_path):
    """An installed font that has one Chinese character."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    glyphs = dict.fromkeys([".notdef", "cat"], pen.glyph())
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap({ord("猫"): "cat"})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Cat Sans", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "cat.ttf")
    manager = font_manager.fontManager
    before = list(manager.ttflist)
    manager.addfont(tmp_path / "cat.ttf")
    yield "Cat Sans"
    manager.ttflist[:] = before
    manager._findfont_cached.cache_clear()


@pytest.mark.fast
def test_an_installed_font_with_the_characters_is_used(
    tmp_path, figures, font_of_a_cat, without_export
):
    default = matplotlib.rcParams["font.family"]
    assert report.fonts_for("plain") == (default, [])
    assert report.fonts_for("a 猫") == ([*default, font_of_a_cat], [])
    assert written(tmp_path / "out", ("猫", "dog"))[1] == []
    named = [
        t for t in figures[1].findobj(lambda a: hasattr(a, "get_text")) if t.get_text() == "猫"
    ]
    assert named and all(font_of_a_cat in text.get_fontfamily() for text in named)


@pytest.mark.fast
def test_characters_of_no_font_are_told_once(tmp_path, without_export):
    (told,) = written(tmp_path / "out", ("\U00013080\U00013081", "dog"))[1]
    assert "\U00013080 \U00013081" in told and "install" in told
