import numpy as np
import pytest
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
            "loss": 1 / (i + 1),
            "accuracy": 1 - 1 / (i + 2),
            "val_loss": 1.1 / (i + 1),
            "val_accuracy": 0.9 - 1 / (i + 2),
        }
        for i in range(count)
    ]


@pytest.mark.parametrize(("count", "warmup"), [(1, 0), (1, 1), (5, 2), (90, 9)])
def test_learning_curve(tmp_path, figures, count, warmup):
    report.learning_curve(rows(count, warmup), tmp_path / "curve.png")
    assert Image.open(tmp_path / "curve.png").size == (1200, 480)
    loss, accuracy = figures[0].axes
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [r["loss"] for r in rows(count)])
    np.testing.assert_allclose(
        accuracy.lines[1].get_ydata(), [r["val_accuracy"] for r in rows(count)]
    )
    assert ("classifier alone" in texts(figures[0])) == (0 < warmup < count)


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
    assert shown.count("cat 90%") == 5
    assert shown.count("dog 80%") == shown.count("is cat") == 5 + mistakes
    assert ("The most confident mistakes" in shown) == (mistakes > 0)
    red = [t for t in figures[0].findobj(lambda a: hasattr(a, "get_color")) if _is_wrong(t)]
    assert len(red) == 5 + mistakes


def _is_wrong(artist):
    return hasattr(artist, "get_text") and artist.get_text() and artist.get_color() == report.WRONG
