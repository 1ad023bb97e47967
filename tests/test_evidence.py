"""The programs behind docs/results.md, and that the page says what the tables say."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
from pathlib import Path

import batch_norm_networks
import keras
import numpy as np
import pytest
import tiny_networks
from matplotlib.figure import Figure

import nf_zoo
from benchmarks.tables import read_table
from evidence import (
    conversion,
    conversion_networks,
    conversion_report,
    report,
    small_batch_finetuning,
    transfer,
)
from evidence.__main__ import main
from evidence.experiments import EXPERIMENTS, Setting, search
from evidence.table import Table
from nf_zoo import create_model
from training.data.arrays import ArrayPictures

ROOT = Path(__file__).parents[1]
MEASURED = sorted((ROOT / "docs" / "results").glob("*.csv"))


@pytest.mark.fast
def test_the_pages_have_the_tables_as_measured():
    pages = [page.read_text() for page in report.PAGES]
    for page in pages:
        assert report.put_tables(page, ROOT / "docs" / "results") == page
    shown = re.findall(r"<!-- (\w+) -->\n\|", "".join(pages))
    assert sorted(shown) == sorted(path.stem for path in MEASURED)
    assert all(path.with_suffix(".png").is_file() for path in MEASURED)


@pytest.mark.fast
@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_no_point_is_outside_of_its_panel(path):
    rows = report.rows_of(path.stem, path.parent)
    figure = Figure()
    report.PLOTS[path.stem][1](rows, figure)
    for panel in figure.axes:
        drawn = [line.get_ydata() for line in panel.lines if len(line.get_ydata()) > 0]
        points = np.concatenate([np.asarray(values, "float64") for values in drawn])
        low, high = sorted(panel.get_ylim())
        points = points[np.isfinite(points)]
        assert np.all((low <= points) & (points <= high)), (panel.get_title(), low, high)


@pytest.mark.fast
@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_every_row_says_where_it_comes_from(path):
    for row in read_table(path):
        assert row["commit"] and row["device"] and row["recipe"] and row["seed"]
        if path.stem == "conversion_signals":
            assert float(row["variance"]) > 0
        else:
            assert (row["outcome"] == "finished") == bool(row["top1"])


@pytest.mark.fast
@pytest.mark.parametrize("start", [0.1, 3.2, 0.05])
def test_search_finds_the_best_rate_and_where_runs_fail(start):
    tried = {}

    def run(rate):
        tried[rate] = 0.0 if rate > 2.0 else 60.0 - 10.0 * abs(np.log2(rate / 0.4))
        return tried[rate]

    assert search(run, start) == pytest.approx(0.4)
    assert max(tried) > 2.0 and min(tried) <= 0.2


@pytest.mark.fast
def test_search_gives_up_where_nothing_trains():
    tried = []
    search(lambda rate: tried.append(rate) or 10.0, 0.1)
    assert len(tried) == len(set(tried)) < 12


def row(value, seed=0, top1="50.00", **key):
    return {"size": value, "seed": seed, "outcome": "finished", "top1": top1, **key}


@pytest.mark.fast
def test_rows_of_several_writers_are_sorted(tmp_path):
    one, other = (Table(tmp_path / "new" / "table.csv", ("size",)) for _ in range(2))
    one.add(row(16, seed=1))
    other.add(row(2))
    one.add(row(16))
    assert [(r["size"], r["seed"]) for r in one.rows()] == [("2", "0"), ("16", "0"), ("16", "1")]
    assert other.find({"size": 16}, 1)["top1"] == "50.00" and other.find({"size": 4}, 0) is None


@pytest.mark.fast
def test_rows_that_belong_together_are_added_once(tmp_path):
    table = Table(tmp_path / "table.csv", ("size",), measured=("seed", "variance"))
    table.add({"size": 2, "seed": 0, "variance": "1.0"})
    found = table.add_together([{"size": n, "seed": 0, "variance": "9.0"} for n in (10, 2)])
    assert [one["variance"] for one in found] == ["9.0", "1.0"]
    assert [list(one.values()) for one in table.rows()] == [["2", "0", "1.0"], ["10", "0", "9.0"]]


@pytest.mark.fast
def test_outcomes_in_words():
    assert report.outcome([]) == ""
    assert report.outcome([row(1, top1="50.0"), row(1, top1="52.0")]) == "51.0 ± 1.0"
    failed = {**row(1, top1=""), "outcome": "diverged"}
    assert report.outcome([failed]) == "diverged"
    assert report.outcome([failed, row(1)]) == "50.0 (1 of 2 diverged)"


@pytest.mark.fast
def test_the_best_and_the_largest_rate():
    runs = (("0.1", "40"), ("0.2", "50"), ("0.2", "54"), ("0.2", ""), ("0.4", "30"), ("0.8", ""))
    rows = [
        {
            **{"scheme": "nf", "batch_size": "16", "learning_rate": rate, "top1": top1},
            "outcome": "finished" if top1 else "diverged",
        }
        for rate, top1 in runs
    ]
    assert report.summary(report.rates_of(rows, "nf", "16")) == (0.2, 0.4)
    (_, cells) = report.learning_rate_lines(rows)
    assert cells[1:] == ["16", "0.2", "0.4", "52.0 ± 2.0 (1 of 3 diverged)"]


@pytest.fixture
def pictures(tmp_path):
    """An .npz file of 60 training and 20 test pictures of ten classes, 16 x 16."""
    rng = np.random.default_rng(0)
    values = {"labels": [f"class {n}" for n in range(10)]}
    for split, count in (("train", 60), ("test", 20)):
        classes = np.arange(count, dtype="int32") % 10
        images = rng.integers(0, 100, (count, 16, 16, 3)) + 15 * classes[:, None, None, None]
        values |= {f"{split}_images": images.astype("uint8"), f"{split}_classes": classes}
    np.savez(tmp_path / "pictures.npz", **values)
    return tmp_path / "pictures.npz"


def test_an_experiment_is_measured_once_and_drawn(pictures, tmp_path):
    setting = Setting(str(pictures), tmp_path / "results", seeds=1, scale=0.005)
    next(EXPERIMENTS["depth"](setting))()
    path = tmp_path / "results" / "depth.csv"
    before = path.read_text()
    (measured,) = read_table(path)
    assert measured["layers"] == "16" and measured["scheme"] == "bn"
    assert json.loads(measured["recipe"])["steps"] == 2
    next(EXPERIMENTS["depth"](setting))()
    assert path.read_text() == before

    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- depth -->\nold\n<!-- end -->\nAfter.\n")
    report.write(tmp_path / "results", page)
    assert f"| BatchNorm | {float(measured['top1']):.1f} |" in page.read_text()
    assert page.read_text().startswith("Before.") and page.read_text().endswith("After.\n")
    assert (tmp_path / "results" / "depth.png").stat().st_size > 5000


def test_transfer_starts_from_a_checkpoint_or_from_the_same_network_untrained(
    pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr(transfer, "PER_CLASS", (2,))
    experiment = transfer.Transfer("small", ("wide_resnet16_1.cifar10",), 16, test_per_class=1)
    for task in experiment(Setting(str(pictures), tmp_path, seeds=1, scale=0.005)):
        task()
    rows = read_table(tmp_path / "small.csv")
    assert [(row["network"], row["per_class"], row["start"]) for row in rows] == [
        ("wide_resnet16_1", "2", "checkpoint"),
        ("wide_resnet16_1", "2", "scratch"),
    ]
    assert all(float(row["top1"]) % 10 == 0 for row in rows)  # of ten test pictures

    trained, untrained = (
        create_model("wide_resnet16_2.cifar10", pretrained=trained) for trained in (True, False)
    )
    assert trained.options() == untrained.options() and not trained.config.zero_init_gain
    assert not np.allclose(trained.head.kernel, untrained.head.kernel)


def cell(rate, seed, validation, top1="50.00", **key):
    key = {"set": "digits", "variant": "NF", "batch_size": "4", **key}
    outcome = "finished" if top1 else "diverged"
    measured = {"validation": validation, "top1": top1, "outcome": outcome}
    return {**key, "learning_rate": rate, "seed": str(seed), **measured}


@pytest.mark.fast
def test_a_cell_is_shown_at_the_rate_that_seed_0_validates_better():
    rows = [
        *(cell("0.02", 0, "61.00", "40.00"), cell("0.007", 0, "64.50", "39.00")),
        *(cell("0.02", 1, "99.00", "99.00"), cell("0.007", 1, "60.00", "41.00")),
        *(cell("0.02", 0, "", "", variant="BatchNorm"), cell("0.02", 0, "9.00", batch_size="32")),
    ]
    found = small_batch_finetuning.chosen(rows, set="digits", variant="NF", batch_size=4)
    assert [(row["learning_rate"], row["seed"]) for row in found] == [
        ("0.007", "0"),
        ("0.007", "1"),
    ]
    _, *lines = report.small_batch_finetuning_lines(rows)
    assert lines == [
        ["digits", "NF", "40.0 ± 1.0", "50.0", "1 to 2"],
        ["digits", "BatchNorm", "diverged", "", "1"],
    ]


@pytest.mark.fast
def test_seed_0_runs_at_every_rate_and_others_at_the_better_one(tmp_path):
    table, runs = Table(tmp_path / "table.csv", ("learning_rate",), also=("validation",)), []

    def measure(key, seed):
        runs.append((key["learning_rate"], seed))
        validation = {"0.1": "40.00", "0.2": "60.00", "0.4": ""}[key["learning_rate"]]
        return {"seed": seed, "outcome": "finished", "top1": "50.00", "validation": validation}

    for seed in (1, 0, 2):
        rates = ("0.1", "0.2", "0.4")
        small_batch_finetuning.at_the_better_rate(table, {}, rates, seed, measure)
    assert runs == [("0.1", 0), ("0.2", 0), ("0.4", 0), ("0.2", 1), ("0.2", 2)]


@pytest.mark.fast
def test_a_rate_is_the_default_of_finetune_and_another():
    assert small_batch_finetuning.rates_of(1) == ("0.02", "0.006667")
    assert small_batch_finetuning.rates_of(128) == ("0.1", "0.3")


@pytest.mark.fast
def test_pictures_of_a_seed_are_of_every_class_and_validate_apart():
    classes = np.arange(240, dtype="int32") % 3
    images = np.arange(240).reshape(-1, 1, 1, 1) * np.ones((1, 2, 2, 3))
    pictures = ArrayPictures((images, classes), (images, classes), ["a", "b", "c"])
    drawn = small_batch_finetuning.drawn
    (train, of_train), (validation, of_validation) = small_batch_finetuning.drawn(
        pictures, 1, 40, 20
    )
    assert np.bincount(of_train).tolist() == [40] * 3
    assert np.bincount(of_validation).tolist() == [20] * 3
    assert not {*train[:, 0, 0, 0]} & {*validation[:, 0, 0, 0]}
    assert (train[:, 0, 0, 0] % 3 == of_train).all()
    other, _ = drawn(pictures, 2, 40, 20)
    assert {*train[:, 0, 0, 0]} != {*other[0][:, 0, 0, 0]}


@pytest.mark.fast
def test_weights_differ_by_a_share_of_their_change():
    start, one, other = ({"a": np.array([x]), "b": np.zeros(1)} for x in (1.0, 5.0, 5.5))
    assert small_batch_finetuning.relative_difference(start, one, other) == 0.125


@pytest.mark.fast
def test_no_task_starts_after_the_minutes(pictures, tmp_path):
    assert main(["depth", f"--pictures={pictures}", f"--output={tmp_path}", "--minutes=0"]) == 0
    assert not list(tmp_path.glob("*.csv"))


def test_small_batches_and_micro_batches_are_measured_once_and_drawn(tmp_path, monkeypatch):
    networks = ("wide_resnet", "wide_resnet_bn")
    pixels = {"preprocessing": {"input_size": 32, "crop_fraction": 1.0}}

    def tiny(name):
        return tiny_networks.fill(tiny_networks.build(name, **pixels), "start")

    monkeypatch.setattr(nf_zoo, "create_model", tiny)
    digits = dataclasses.replace(small_batch_finetuning.SETS["digits"], networks=networks)
    monkeypatch.setattr(small_batch_finetuning, "SETS", {"CIFAR-10 (JPEG)": digits})
    monkeypatch.setattr(small_batch_finetuning, "rates_of", lambda batch_size: ["0.02"])
    for name, count in (("TRAINED", 4), ("VALIDATED", 1), ("TESTED", 2)):
        monkeypatch.setattr(small_batch_finetuning, name, count)
    setting = Setting("", tmp_path, seeds=1, scale=0.1)
    experiments = small_batch_finetuning.EXPERIMENTS
    monkeypatch.setattr(small_batch_finetuning, "BATCH_SIZES", (32,))
    # The third cell of a set is BatchNorm with frozen statistics.
    for _ in range(2):
        list(experiments["small_batch_finetuning"](setting))[2]()
    rows = read_table(tmp_path / "small_batch_finetuning.csv")
    assert [row["learning_rate"] for row in rows] == ["0.02"]
    assert {row["variant"] for row in rows} == {"BatchNorm, frozen"}
    assert all(float(row["top1"]) % 5 == 0 and "freeze" in row["recipe"] for row in rows)

    for task in experiments["accumulate"](setting):
        task()
    rows = read_table(tmp_path / "accumulate.csv")
    found = {row["variant"]: float(row["difference"]) for row in rows if row["difference"]}
    assert found["NF"] < 1e-3 < 1e-2 < found["BatchNorm"]  # after a single step

    monkeypatch.setattr(conversion, "FINETUNED_AT", (32,))
    next(conversion.conversion_finetuning(setting))()
    (removed,) = read_table(tmp_path / "conversion_finetuning.csv")
    recipes = [one["recipe"].split(", ", 2) for one in (removed, *rows)]
    assert recipes[0][1:2] == ["wide_resnet_bn without_batch_norm"]
    page = tmp_path / "page.md"
    page.write_text("<!-- conversion_finetuning -->\n<!-- end -->")
    report.write(tmp_path, page)
    lines = [line.split(" | ")[1] for line in page.read_text().splitlines() if " | " in line]
    assert lines == ["network", "BatchNorm, frozen", "BatchNorm, removed"]
    drawn = sorted(path.name for path in tmp_path.glob("*.png"))
    assert drawn == [
        *("accumulate.png", "conversion_finetuning.png"),
        *("small_batch_finetuning.cifar10.png", "small_batch_finetuning.png"),
    ]


def test_a_network_without_batch_norm_is_fine_tuned_as_it_is():
    """Its classifier is new, and the rest computes what the network with BatchNorm does."""
    model = tiny_networks.fill(tiny_networks.build("resnet_v2"), "start")
    for found, given in (
        (conversion.without_batch_norm(model), model),
        (conversion.without_batch_norm(model).with_classifier(5), model.with_classifier(5)),
    ):
        assert not batch_norm_networks.norms_of(found) and batch_norm_networks.norms_of(given)
        found.head.set_weights(given.head.get_weights())
        x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype("float32")
        expected = np.asarray(given(x, training=False))
        difference = np.abs(np.asarray(found(x, training=True)) - expected).max()
        assert difference < 1e-5 * np.abs(expected).max()
        assert found.preprocessing == given.preprocessing and found.options() == given.options()


def test_signals_are_measured_in_every_form_and_drawn(tmp_path, monkeypatch):
    small = functools.partial(conversion_networks.unet, side=16, levels=2, width=4)
    monkeypatch.setattr(conversion_networks, "SIGNALS", {"one": small, "other": small})
    for _ in range(2):
        for task in conversion.conversion_signals(Setting("", tmp_path, seeds=1)):
            task()
    rows = read_table(tmp_path / "conversion_signals.csv")
    forms = [(one["network"], one["form"], one["name"]) for one in rows]
    expected = itertools.product(("one", "other"), sorted(conversion.FORMS), ("join1",))
    assert forms == list(expected)
    assert [bool(one["predicted"]) for one in rows] == [False, True, False] * 2
    variances = {one["form"]: float(one["variance"]) for one in rows}
    assert variances["unnormalized"] < variances["normalizer-free"]
    page = tmp_path / "page.md"
    page.write_text("<!-- conversion_signals -->\n<!-- end -->")
    report.write(tmp_path, page)
    assert f"| one | {float(rows[1]['predicted']):#.2g} |" in page.read_text()
    assert (tmp_path / "conversion_signals.png").stat().st_size > 5000


def test_both_forms_are_trained_from_scratch_and_drawn(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion_networks, "TRAINED", {"U": unet_classifier})
    small = {"TRAINED": 4, "VALIDATED": 1, "BATCH_SIZES": (2,), "RATES": (0.001,)}
    for name, value in small.items():
        monkeypatch.setattr(conversion, name, value)
    for task in conversion.conversion_training(Setting(str(pictures), tmp_path, seeds=1)):
        task()
    rows = read_table(tmp_path / "conversion_training.csv")
    assert [one["form"] for one in rows] == ["BatchNorm", "normalizer-free"]
    assert all(one["outcome"] == "finished" and one["learning_rate"] == "0.002" for one in rows)
    assert all("over 40 pictures of 16 pixels, batch 2" in one["recipe"] for one in rows)
    page = tmp_path / "page.md"
    page.write_text("<!-- conversion_training -->\n<!-- end -->")
    report.write(tmp_path, page)
    shown = re.findall(r"\| U \| (.+?) \| \d+\.\d \| 1 \|", page.read_text())
    assert shown == ["BatchNorm", "normalizer-free"]
    assert (tmp_path / "conversion_training.png").stat().st_size > 5000


def unet_classifier(side):
    body = conversion_networks.unet(side, levels=2, width=4)
    layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    return keras.Sequential([*body.layers[:4], *layers])


@pytest.mark.fast
def test_signals_of_conversions_are_as_predicted():
    """The claims of docs/convert.md on every network and seed."""
    rows = read_table(ROOT / "docs" / "results" / "conversion_signals.csv")
    networks = {one["network"] for one in rows}
    assert networks == {*conversion_networks.SIGNALS}
    for network in networks:
        converted = conversion_report.last_blocks(rows, network, "normalizer-free")
        removed = conversion_report.last_blocks(rows, network, "unnormalized")
        assert len(converted) == len(removed) == 3
        for one, other in zip(converted, removed, strict=True):
            predicted = float(one["predicted"])
            assert predicted / 3 < float(one["variance"]) < 3 * predicted
            assert float(other["variance"]) < predicted / 30


@pytest.mark.fast
def test_test_pictures_are_the_first_of_each_class():
    classes = np.array([0, 1, 1, 0, 1, 0])
    images = np.arange(6).reshape(6, 1, 1, 1) * np.ones((1, 2, 2, 3), "uint8")
    pictures = ArrayPictures((images, classes), (images, classes), ["a", "b"])
    chosen = transfer.tested_on(pictures, 2)
    assert chosen.test[0][:, 0, 0, 0].tolist() == [0, 1, 2, 3] and len(chosen.train[1]) == 6


@pytest.mark.fast
def test_classes_of_a_seed_are_numbered_anew():
    classes = np.arange(40, dtype="int32") % 20
    images = classes[:, None, None, None] * np.ones((1, 2, 2, 3), "uint8")
    pictures = ArrayPictures((images, classes), (images, classes), [f"c{n}" for n in range(20)])
    some = transfer.some_classes(pictures, seed=3)
    assert len(some.labels) == 10 and sorted(set(some.train[1])) == list(range(10))
    for image, one in zip(*some.test, strict=True):
        assert some.labels[one] == f"c{image[0, 0, 0]}"
    assert transfer.some_classes(pictures, seed=4).labels != some.labels


def rows_of(table):
    page = (ROOT / "docs" / "results.md").read_text()
    text = page.partition(f"<!-- {table} -->")[2].partition("<!-- end -->")[0]
    lines = (line for line in text.splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_the_cost_of_clipping_is_that_of_the_table():
    head, _, *rows = rows_of("small_batches_open")
    found = {name: dict(zip(head[1:], cells, strict=True)) for name, *cells in rows}
    costs = {
        size: float(found["NF, gains from 1"][size].split()[0])
        - float(found["NF, gains from 1, clipped"][size].split()[0])
        for size in head[1:]
    }
    eight, two = round(costs["batch 8"]), round(costs["batch 2"])
    said = f"costs {eight} points in batches of 8 and {two} in batches of 2"
    assert said in " ".join((ROOT / "docs" / "results.md").read_text().split())
    assert costs["batch 128"] < 0  # nothing


def test_readme_has_the_accuracies_of_small_batches():
    head, *cells = rows_of("small_batch_finetuning")
    found = {row[1]: dict(zip(head, row, strict=True)) for row in cells if row[0][:5] == "CIFAR"}
    paragraph = (ROOT / "README.md").read_text().split("## Try it")[0].split("\n\n")[-2]
    expected = [
        found[network]["batch 1"].split()[0] for network in ("NF", "BatchNorm", "BatchNorm, frozen")
    ]
    scratch = {row[0]: row[1] for row in rows_of("small_batches_open")}  # batches of 2
    expected += [scratch[name].split()[0] for name in ("NF, gains from 1", "BatchNorm")]
    assert re.findall(r"\d+\.\d+", paragraph) == expected


def test_readme_has_the_accuracies_of_the_quickstart():
    record = json.loads((ROOT / "docs/results/quickstart.json").read_text())
    shares = [record[name]["test_accuracy"] for name in ("fine_tuned", "from_scratch")]
    paragraph = (ROOT / "README.md").read_text().split("nf-zoo quickstart")[1].split("\n\n")[1]
    assert re.findall(r"\d+\.\d+", paragraph) == [f"{100 * share:.1f}" for share in shares]
    assert f"of {record['pictures']['test']:,} other pictures" in paragraph
