"""``report.html``, opened in a browser as a reader would."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_networks
from browser import browser

from nf_zoo.finetuning.evaluation import Evaluation, Sample
from nf_zoo.finetuning.report_page import write_page
from nf_zoo.pictures.preprocessing import Preprocessing

__all__ = ["browser"]

LABELS = ("ash", "</script><script>document.title = 'broken'</script>", "caf\udce9 $5\nlong " * 4)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page of a run whose labels are hard, its evaluation and its folder."""
    model = tiny_networks.build("nf_resnet", num_classes=3, preprocessing=Preprocessing(32, 1.0))
    model.head.kernel.assign(np.random.default_rng(1).normal(size=model.head.kernel.shape))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 32, 32, 3), dtype="uint8")
    evaluation = Evaluation(LABELS, np.array([[8, 1, 1], [0, 4, 2], [0, 0, 2]]), top5=18)
    evaluation.samples = [Sample(pixels[0], 0, 0, 0.984, "ash/1.png")]
    evaluation.mistakes = [Sample(pixels[1], 0, 1, 0.9, "ash/2.png"), Sample(pixels[2], 1, 2, 0.7)]
    history = [
        {"epoch": 1, "phase": "head", "cross_entropy": float("nan"), "accuracy": 0.5}
        | {"val_cross_entropy": 1.0, "val_accuracy": 0.5, "learning_rate": 0.1, "seconds": 1.0},
        {"epoch": 2, "phase": "whole", "cross_entropy": 0.7, "accuracy": 0.8}
        | {"val_cross_entropy": 0.6, "val_accuracy": 14 / 18, "learning_rate": 0.1, "seconds": 1.0},
    ]
    settings = {"epochs": 2000, "weight_decay": 0.0005, "learning_rate": 3e-5, "ema": 0.9999}
    report = evaluation.metrics() | {"run": {"settings": settings}}
    report["findings"] = {"copies_across_classes": [["ash/2.png", "elm/1.png"]], "dull": ["a", "b"]}
    path = tmp_path_factory.mktemp("a run") / "report.html"
    write_page(path, model, report, history, evaluation)
    return path, evaluation


@pytest.fixture
def opened(browser, made):
    """Open the page; afterwards it must have complained of nothing and asked for nothing."""
    pages = []

    def run(width=1100, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(made[0].as_uri())
        pages.append((page, said, asked))
        return page

    yield run
    for page, said, asked in pages:
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [made[0].as_uri()]
        page.close()


def column(page, index):
    return page.locator(f"#classes tbody td:nth-child({index})").all_inner_texts()


def test_figures_and_captions(opened, made):
    page = opened()
    assert page.title() == "nf_zoo: Fine-tuned network, 3 classes"
    text = page.inner_text("main").replace("\xa0", " ")
    for words in (
        "77.8 %",
        "18 pictures (95 % confidence: 54.8 to 91.0 %)",
        "ash · 98 %",
        "is ash",
        "· 90 %",
    ):
        assert words in text
    assert page.locator("#curves svg circle").count() == 7  # one of eight figures is NaN
    assert f"load_pretrained({str(made[0].parent)!r})".replace("'", '"') in text
    assert page.inner_text("#shell") == f"nf-zoo predict '{made[0].parent}' picture.jpg"
    ticks = page.locator("#curves figure:nth-of-type(2) svg text").all_text_contents()
    assert ticks[:4] == ["40 %", "60 %", "80 %", "100 %"]
    shown = page.locator("img").evaluate_all("all => all.map(img => img.naturalWidth)")
    assert shown == [32] * 5  # two mistakes with their heat maps, and a sample
    page.locator("#mistakes input").uncheck()
    assert not page.locator("img.heat").first.is_visible()


def test_settings_keep_their_digits(opened):
    page = opened()
    shown = page.locator("#facts details", has_text="Settings").locator("td").all_text_contents()
    facts = dict(zip(shown[::2], shown[1::2], strict=True))
    assert facts == {
        "epochs": "2,000",
        "weight decay": "0.0005",
        "learning rate": "0.00003",
        "ema": "0.9999",
    }


def test_what_looked_wrong_is_on_the_page(opened):
    rows = opened().locator("#facts details", has_text="What looked wrong").locator("td")
    assert rows.all_text_contents() == [
        *("copies across classes", "ash/2.png = elm/1.png"),
        *("dull", "a, b"),
    ]


def test_few_classes_stand_beside_the_matrix(opened):
    page = opened()
    for axis in ("#rows", "#columns"):
        names = page.locator(f"{axis} span").all_text_contents()
        assert len(names) == 3 and names[:2] == list(LABELS[:2])
    box, first = (page.locator(x).first.bounding_box() for x in ("#matrix", "#rows span"))
    assert first["x"] + first["width"] <= box["x"] + 1 and first["y"] >= box["y"] - 1


def test_without_scripts_the_main_figures_are_text(browser, made):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(made[0].as_uri())
    text = page.inner_text("main")
    assert "Validation accuracy 77.8 % (95 % confidence: 54.8 to 91.0 %) of 18 pictures." in text
    assert f"{LABELS[1]}: 66.7 % of 6 pictures right." in text
    assert "nf_zoo.load_pretrained(" in text
    assert "Confusion matrix" not in text and page.title() == "Report of a run"
    page.context.close()


def test_networks_are_told_apart(browser, made, tmp_path):
    _, evaluation = made
    options = {"num_classes": 3}, {"num_classes": 200}
    started_from = {"architecture": "nf_resnet10", "weights": "before", "options": options[1]}
    report = evaluation.metrics() | {"run": {"settings": {}, "started_from": started_from}}
    report["model"] = {"architecture": "nf_resnet10", "options": options[0]}
    evaluation = Evaluation(LABELS, evaluation.confusion)
    write_page(tmp_path / "report.html", None, report, [{"epoch": 1}], evaluation)
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert "started from before" in page.inner_text("#subtitle")
    for title, classes in (("Options of this network", 3), ("it started from", 200)):
        table = page.locator("#facts details", has_text=title)
        assert table.locator("td").all_text_contents() == ["num classes", str(classes)]
    page.close()


def test_class_names_are_text(opened):
    page = opened()
    shown = column(page, 1)
    assert shown[:2] == ["ash", LABELS[1]]
    assert shown[2].startswith(r"caf\udce9 $5\u000along")


def test_the_table_is_sorted_by_a_click(opened):
    page = opened()
    assert column(page, 3) == ["80.0 %", "66.7 %", "100.0 %"]
    recall = page.get_by_role("button", name="Recall")
    recall.click()
    assert column(page, 3) == ["66.7 %", "80.0 %", "100.0 %"]
    recall.click()
    assert column(page, 3) == ["100.0 %", "80.0 %", "66.7 %"]
    page.get_by_role("button", name="Class", exact=True).click()
    assert page.locator("#classes th[aria-sort]").count() == 1


def test_the_matrix_tells_of_the_cell_under_the_pointer(opened):
    page = opened()
    box = page.locator("#matrix").bounding_box()
    third = box["width"] / 3
    page.locator("#matrix").hover(position={"x": 2.5 * third, "y": 0.5 * third})
    assert page.inner_text("#told").startswith("ash taken for caf")
    assert page.inner_text("#told").endswith(": 1 of 10 (10.0 %)")
    page.locator("#matrix").hover(position={"x": 0.5 * third, "y": 0.5 * third})
    assert page.inner_text("#told") == "ash, recognized: 8 of 10 (80.0 %)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(scheme, opened):
    page = opened(width=390, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    ground, ink = page.evaluate(
        "(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))"
    )
    bright = [sum(map(int, color[4:-1].split(","))) for color in (ground, ink)]
    assert abs(bright[0] - bright[1]) > 500 and (bright[0] < 382) == (scheme == "dark")


def test_a_page_that_fails_costs_no_result(tmp_path, monkeypatch):
    from nf_zoo.finetuning import report

    class Model:
        def save(self, path):
            path.write_bytes(b"model")

    def fail(path, *rest):
        path.write_text("half")
        raise ValueError("no page")

    monkeypatch.setattr(report, "write_page", fail)
    monkeypatch.setattr(
        "nf_zoo.deploy.saved_model.export_saved_model", lambda model, path: path.mkdir()
    )
    sample = Sample(np.zeros((8, 8, 3), "uint8"), 0, 0, 0.8)
    evaluation = Evaluation(("a", "b"), np.eye(2, dtype=int), samples=[sample])
    row = {"epoch": 1, "phase": "whole", "cross_entropy": 1.0, "accuracy": 0.5}
    row |= {"val_cross_entropy": 1.0, "val_accuracy": 0.5}
    with pytest.warns(UserWarning, match=r"report\.html could not be made.*no page"):
        report.write_report(tmp_path, Model(), {}, [row], evaluation)
    assert (tmp_path / "report.json").is_file() and (tmp_path / "model.keras").is_file()
    assert not (tmp_path / "report.html").exists()
