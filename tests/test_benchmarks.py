"""The tables of speed, and the figures that the guides and README take from them."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import batch_norm_networks
import pytest

from benchmarks import training_forms
from benchmarks.speed import __main__ as speed
from benchmarks.speed import keras_networks, report
from benchmarks.tables import read_table, write_table

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[1]
ROWS = {
    "`export_onnx`, in ONNX Runtime": "ONNX Runtime",
    "the same file, in OpenVINO": "OpenVINO",
    "`export_saved_model(constants=True)`": "SavedModel, constants",
    "`fold` in TensorFlow": "folded",
    "unfolded": "unfolded",
    '`export_onnx(precision="int8")`, in ONNX Runtime': "ONNX Runtime int8",
    "timm, torch.compile with weights frozen": "torch.compile, frozen",
}
"""Row of the first table of docs/speed.md -> form in the measured one."""


def row(network, runtime, form, milliseconds, table="inference", batch=8):
    return {
        **{"table": table, "group": "g", "batch": batch, "network": network, "share": 0.5},
        **{"runtime": runtime, "form": form, "milliseconds": milliseconds, "step_megabytes": 7},
    }


def test_ratios_take_the_fastest_of_each_side():
    rows = [
        row("nf_resnet50", "keras", "unfolded", 10),
        row("nf_resnet50", "keras", "folded", 50),
        row("nf_resnet50", "keras", "folded, XLA", 40),
        row("nf_resnet50", "keras", "LiteRT", 25),
        row("nf_resnet50", "pytorch", "eager", 200),
        row("nf_resnet50", "pytorch", "torch.compile", 100),
        row("nf_resnet50", "pytorch", "torch.compile, frozen", 50),
        row("nf_resnet50", "pytorch", "eager", 1, batch=1),
        row("nf_resnet50", "keras", "TensorFlow", 30, table="training"),
        row("resnetv2_50", "keras", "TensorFlow", 60, table="training"),
    ]
    found = {
        (what, batch): other["milliseconds"] / ours["milliseconds"]
        for what, batch, ours, other in report.ratios(rows)
    }
    assert found == {
        ("nf_resnet50 in TensorFlow, against the best timm mode", 8): 2.5,
        ("nf_resnet50 in TensorFlow, against timm compiled with constants", 8): 1.25,
        ("nf_resnet50 exported, float32, against the best timm mode", 8): 4.0,
        ("nf_resnet50 exported, float32, against timm compiled with constants", 8): 2.0,
        ("step of nf_resnet50 against resnetv2_50", 8): 2.0,
    }


def test_a_form_is_compared_at_its_own_precision():
    def contender(form, network, seconds, size=100, **facts):
        task = {"form": form, "network": network, "size": size, "runtime": "keras"}
        task["training"] = False
        memory = {8: {"peak_bytes": 0, "step_bytes": 0}}
        facts = {"version": "1", "threads": 2, **facts}
        return SimpleNamespace(task=task, seconds={8: seconds}, memory=memory, facts=facts)

    work = {"multiply_adds": 10**6}
    contenders = [
        contender("OpenVINO", "net", [8.0], **work),
        contender("OpenVINO bfloat16", "net", [4.0], **work),
        contender("OpenVINO int8", "net", [2.0], **work),
        contender("matrix product", "", [1.0]),
        contender("matrix product", "", [0.5]),
        contender("matrix product, bfloat16", "", [0.25]),
    ]
    rows = speed.rows_of("inference", "net", 8, contenders, {})
    assert [r["precision"] for r in rows[:3]] == ["float32", "bfloat16", "int8"]
    assert [r["share"] for r in rows] == [0.5, 0.5, "", 0.5, 1.0, 1.0]


def test_every_precision_is_measured_and_compared():
    forms = speed.FORMS["inference"]
    tasks = speed.tasks_of("inference", ["nf_regnet_b1"])
    for runtime in ("keras", "pytorch"):
        ours = [t["form"] for t in tasks if t["runtime"] == runtime and t["network"]]
        assert tuple(ours) == forms[runtime]
        products = {t["form"] for t in tasks if t["runtime"] == runtime and not t["network"]}
        kinds = {speed.precision_of(form) for form in products}
        assert {speed.precision_of(form) for form in ours} <= kinds
    assert set(report.BFLOAT16) | set(report.EIGHT_BITS) < set(forms["keras"])
    assert {*report.TENSORFLOW, *report.EXPORTED} < set(forms["keras"])
    assert {report.FROZEN, report.FROZEN_BFLOAT16} < set(forms["pytorch"])
    rows = [
        row("net", "keras", "folded", 80),
        row("net", "keras", "OpenVINO bfloat16", 20),
        row("net", "keras", "OpenVINO int8", 40),
        row("net", "pytorch", "eager", 90),
        row("net", "pytorch", "torch.compile, frozen, bfloat16", 30),
    ]
    found = {
        what: other["milliseconds"] / our["milliseconds"]
        for what, _, our, other in report.ratios(rows)
    }
    assert found["net in TensorFlow, against the best timm mode"] == 90 / 80
    assert found["net in bfloat16, against timm's best"] == 1.5
    assert found["net, eight bits against our bfloat16"] == 0.5


def test_rows_of_before_the_precisions_stay():
    rows = speed.with_precisions(read_table(ROOT / "benchmarks" / "speed.csv"))
    assert {r["precision"] for r in rows if r["form"] == "LiteRT int8"} == {"int8"}
    assert {r["precision"] for r in rows if r["form"] == "OpenVINO"} == {"float32"}


def test_report_of_a_table(tmp_path, capsys):
    rows = [
        row("nf_resnet50", "keras", "folded", 50),
        row("nf_resnet50", "pytorch", "eager", 75),
        row("", "keras", "matrix product", 5),
    ]
    write_table(tmp_path / "speed.csv", rows, shown=False)
    report.write(read_table(tmp_path / "speed.csv"), tmp_path / "speed.csv")
    printed = capsys.readouterr().out
    assert "| nf_resnet50: timm, eager | 75 (50 %) |" in printed
    assert "| 8 | 1.50 | folded 50 ms, eager 75 ms |" in printed
    assert (tmp_path / "speed.png").stat().st_size > 1000


def test_figures_of_the_pages_are_those_of_the_table():
    table = read_table(ROOT / "benchmarks" / "speed.csv")
    times = {
        (r["form"], int(r["batch"])): float(r["milliseconds"])
        for r in table
        if (r["table"], r["network"]) == ("inference", "nf_resnet50")
    }
    page = (ROOT / "docs" / "speed.md").read_text()
    for name, form in ROWS.items():
        (line,) = re.findall(rf"^\| {re.escape(name)} \|(.+)\|$", page, re.MULTILINE)
        rates = [float(cell) for cell in line.split("|")]
        assert rates == [round(1000 * n / times[form, n], 1) for n in (1, 8, 32)], name


def test_the_row_of_the_readme_has_the_fastest_form_at_each_precision():
    lines = (ROOT / "README.md").read_text().splitlines()
    (row,) = (line for line in lines if line.startswith("| NF-ResNet-50, pictures a second"))
    table = read_table(ROOT / "benchmarks" / "speed_epyc.csv")
    expected = []
    for runtime, precisions in (
        ("keras", ("int8", "bfloat16", "float32")),
        ("pytorch", ("bfloat16", "float32")),
    ):
        for precision, batch in itertools.product(precisions, ("1", "8", "32")):
            here = {
                "network": "nf_resnet50",
                "runtime": runtime,
                "precision": precision,
                "batch": batch,
            }
            found = [float(r["milliseconds"]) for r in table if here.items() <= r.items()]
            expected.append(f"{1000 * int(batch) / min(found):.1f}")
    assert re.findall(r"\b\d+\.\d\b", row) == expected
    plain, exported, keras = (
        float(r["milliseconds"])
        for network, form in (
            ("nf_resnet50", "unfolded"),
            ("nf_resnet50", "ONNX Runtime"),
            ("keras.applications ResNet50V2", "unfolded"),
        )
        for r in read_table(ROOT / "benchmarks" / "speed.csv")
        if (r["table"], r["batch"]) == ("inference", "8")
        and (r["network"], r["form"]) == (network, form)
    )
    said = f"{plain / keras:.2f} times the speed of our network unexported, "
    said += f"{exported / keras:.2f} times exported"
    assert f"in float32: {said}" in row


def test_the_page_begins_with_the_fastest_form_of_the_third_processor():
    table = read_table(ROOT / "benchmarks" / "speed_epyc.csv")
    cells = []
    for precision in ("int8", "bfloat16"):
        here = {"network": "nf_resnet50", "runtime": "keras", "precision": precision}
        rows = [r for r in table if r["table"] == "inference" and here.items() <= r.items()]
        times = [
            min(float(r["milliseconds"]) for r in rows if r["batch"] == batch)
            for batch in ("1", "8", "32")
        ]
        cells.append(", ".join(f"{time:.0f}" for time in times))
    said = f"| int8: {cells[0]} | bfloat16 in OpenVINO: {cells[1]} |"
    assert said in (ROOT / "docs" / "speed.md").read_text()


def test_the_page_has_the_tables_of_the_second_processor():
    page = (ROOT / "docs" / "speed.md").read_text()
    rows = [r for r in read_table(ROOT / "benchmarks" / "speed_avx2.csv") if r["network"]]
    for table, batch in (("inference", 32), ("training", 8)):
        found = [r for r in rows if r["table"] == table]
        assert found and {int(r["batch"]) for r in found} == {batch}
        for line in report._lines(found, [batch]):
            assert line in page


def test_the_page_has_the_tables_and_ratios_of_the_third_processor():
    page = (ROOT / "docs" / "speed.md").read_text()
    table = read_table(ROOT / "benchmarks" / "speed_epyc.csv")
    for name, batches in (("inference", [1, 8, 32]), ("training", [8])):
        rows = [row for row in table if row["network"] and row["table"] == name]
        lines = list(report._lines(rows, batches))
        assert lines and not [line for line in lines if line not in page]
    found = {
        (what, int(batch)): float(other["milliseconds"]) / float(ours["milliseconds"])
        for what, batch, ours, other in report.ratios(table)
    }
    comparisons = (
        ", eight bits against our bfloat16",
        ", eight bits against our best float32",
        " in bfloat16, against timm compiled in bfloat16",
        " exported, float32, against timm compiled with constants",
    )
    networks = ("nf_resnet50", "nf_regnet_b1", "eca_nfnet_l0")
    for network, what in itertools.product(networks, comparisons):
        ratios = [found.get((f"{network}{what}", batch)) for batch in (1, 8, 32)]
        cells = ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        assert f"| {network}{what} | {' | '.join(cells)} |" in page
    for network in networks:
        step = f"step of {network}"
        half = found[f"{step} in bfloat16, against the best timm mode in bfloat16", 8]
        whole = found[f"{step} against the best timm mode", 8]
        assert f"| {network} | {whole:.2f} | {half:.2f} |" in page


def test_the_page_has_the_ratios_of_the_second_processor():
    page = (ROOT / "docs" / "speed.md").read_text()
    found = {
        what: float(other["milliseconds"]) / float(ours["milliseconds"])
        for what, _, ours, other in report.ratios(read_table(ROOT / "benchmarks/speed_avx2.csv"))
    }
    for network in ("nf_regnet_b1", "eca_nfnet_l0", "nfnet_f0"):
        cells = [
            f"{found[f'{network} {where}, against the best timm mode']:.2f}"
            for where in ("in TensorFlow", "exported, float32")
        ]
        assert f"| {network} | {' | '.join(cells)} |" in page


def test_the_page_has_the_forms_of_training():
    page = (ROOT / "docs" / "speed.md").read_text()
    rows = read_table(ROOT / "benchmarks" / "training_forms.csv")
    assert len(rows) == sum(len(case[-1]) for case in training_forms.GROUPS["forms"])
    for found in rows:
        assert f"| {' | '.join(found.values())} |" in page
    times = {tuple(found.values())[:3]: int(found["milliseconds"]) for found in rows}
    fused = times["resnetv2_50", "TensorFlow, fused normalization", "float32"]
    ratio = fused / times["nf_resnet50", "TensorFlow", "float32"]
    goals = (ROOT / "benchmarks" / "README.md").read_text()
    assert f"(with TensorFlow's fused normalization in the twin: {ratio:.2f})" in goals


def test_the_page_has_the_steps_with_momentum_in_one_operation():
    page = (ROOT / "docs" / "speed.md").read_text()
    rows = read_table(ROOT / "benchmarks" / "training_momentum.csv")
    assert len(rows) == sum(len(case[-1]) for case in training_forms.GROUPS["momentum"])
    for keras_update, ours in zip(rows[::2], rows[1::2], strict=True):
        cells = [ours["network"], f"{ours['pixels']}, {ours['pictures']}"]
        for key in ("milliseconds", "megabytes"):
            cells += [ours[key], keras_update[key]]
        assert f"| {' | '.join(cells)} |" in page


def test_forms_of_training_are_known_and_conversions_have_no_batch_norm():
    cases = [case for cases in training_forms.GROUPS.values() for case in cases]
    forms = {form for case in cases for _, form in case[-1]}
    known = {training_forms.OURS, keras_networks.ONE_UPDATE, *keras_networks.TRAINING_CHANGES}
    assert forms <= known
    model = batch_norm_networks.unet()
    for form in training_forms.CONVERSIONS[1:]:
        converted = keras_networks.TRAINING_CHANGES[form](model)
        assert not batch_norm_networks.norms_of(converted)
        assert converted.output_shape == model.output_shape


def test_the_page_has_the_steps_of_conversions():
    page = (ROOT / "docs" / "convert.md").read_text()
    rows = read_table(ROOT / "benchmarks" / "training_conversion.csv")
    cases = training_forms.GROUPS["conversion"]
    assert [(r["network"], r["form"]) for r in rows] == [pair for *_, c in cases for pair in c]
    for before, *after in (rows[i : i + 3] for i in range(0, len(rows), 3)):
        cells = [f"{before['milliseconds']}, {before['megabytes']}"]
        for one in after:
            shares = [float(one[key]) / float(before[key]) for key in ("milliseconds", "megabytes")]
            cells.append(", ".join(f"{share:.2f}" for share in shares))
        name = before["network"].removeprefix(keras_networks.APPLICATION)
        assert f"| {name} | {' | '.join(cells)} |" in page
