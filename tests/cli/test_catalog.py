from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import nf_zoo
from nf_zoo.cli import main
from nf_zoo.hub.catalog import find_record, records_of

pytestmark = pytest.mark.fast

TINY = ["nf_resnet26", "nf_resnet50", "resnetv2_26"]


def test_list_has_every_network(answer):
    code, rows = answer("list")
    assert code == 0
    assert [row["name"] for row in rows] == nf_zoo.list_models()
    row = next(row for row in rows if row["name"] == "nf_resnet50")
    record = find_record("nf_resnet50")
    assert row["factory"] == "NFResNet50"
    assert row["checkpoints"][0] == record.tag
    assert row["input_size"] == list(record.preprocessing.input_size)
    assert (row["top1"], row["license"]) == (record.top1, record.license)


def test_list_has_every_checkpoint(answer):
    _, rows = answer("list", "--pretrained")
    assert [row["name"] for row in rows] == nf_zoo.list_models(pretrained=True)
    row = next(row for row in rows if row["name"] == "resnet50.tv_in1k")
    record = find_record("resnet50", "tv_in1k")
    assert (row["default"], row["top1"], row["license"]) == (False, record.top1, record.license)


def test_a_network_without_checkpoints(answer):
    _, (row,) = answer("list", "nf_resnet600")
    assert row["checkpoints"] == []
    assert row["input_size"] is row["top1"] is row["license"] is row["shipped"] is None
    assert row["parameters"] > 10**8


def test_the_data_set_the_size_and_where_the_weights_are(answer):
    _, rows = answer("list", "--pretrained")
    rows = {row["name"]: row for row in rows}
    tiny, large = rows["nf_resnet26.tiny_imagenet"], rows["resnet50.tv_in1k"]
    assert (tiny["dataset"], tiny["shipped"]) == ("Tiny ImageNet", True)
    assert (large["dataset"], large["shipped"]) == ("ImageNet", False)
    for row in (tiny, large, rows["wide_resnet16_1.cifar10_bn"]):
        assert row["parameters"] == nf_zoo.model_info(row["name"]).parameters
    assert all(row["parameters"] and row["dataset"] for row in rows.values())
    assert all(row["parameters"] for row in answer("list")[1])


def test_the_parameters_are_those_of_the_checkpoint_shown(answer, capsys):
    model = nf_zoo.create_model("nf_resnet26.tiny_imagenet")
    count = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    for arguments in (["nf_resnet26"], ["nf_resnet26", "--pretrained"]):
        assert answer("list", *arguments)[1][0]["parameters"] == count < 4_000_000
    main(["info", "nf_resnet26"])
    assert f"{count:,}" in capsys.readouterr().out
    counts = {row["name"]: row["parameters"] for row in answer("list", "--pretrained")[1]}
    for row in answer("list")[1]:
        if row["checkpoints"]:
            assert row["parameters"] == counts[f"{row['name']}.{row['checkpoints'][0]}"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("nf_resnet10*", ["nf_resnet10", "nf_resnet101"]),
        ("nf_eca", ["nf_ecaresnet26", "nf_ecaresnet50", "nf_ecaresnet101"]),
        *((pattern, TINY) for pattern in ("tiny", "*.tiny_*")),
        ("Tiny ImageNet", ["nf_resnet26", "resnetv2_26"]),  # of the checkpoint that is shown
    ],
)
def test_patterns(pattern, names, answer):
    assert [row["name"] for row in answer("list", pattern)[1]] == names


def test_nothing_found(answer, capsys):
    assert answer("list", "vgg") == (1, [])
    assert "nothing is called 'vgg'" in capsys.readouterr().err


def test_table(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = "Name Factory Parameters Checkpoints Data set Input Top-1 License Weights"
    assert " ".join(lines[0].split()) == titles
    (line,) = [line for line in lines if line.startswith("nf_resnet50 ")]
    record = find_record("nf_resnet50")
    assert line.split()[1:6] == ["NFResNet50", "25.6", "M", f"{record.tag},", "tiny_imagenet"]
    assert line.rstrip().endswith("to download")
    assert f"{record.top1:.1f}" in line and record.license in line


def test_table_of_checkpoints(capsys):
    assert main(["list", "resnet50", "--pretrained"]) == 0
    printed = capsys.readouterr().out
    for record in records_of("resnet50"):
        assert f"resnet50.{record.tag} " in printed


def test_listing_imports_no_keras():
    script = (
        "import sys; from nf_zoo.cli import main; main(['list']); main(['list', '--pretrained']); "
        "print({'keras', 'tensorflow', 'sklearn', 'matplotlib'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "set()"


def test_info(answer):
    code, document = answer("info", "resnet18.tv_in1k", "--size", "64x96")
    info = nf_zoo.model_info("resnet18.tv_in1k", (64, 96))
    assert code == 0
    assert (document["parameters"], document["multiply_adds"]) == (11_689_512, info.multiply_adds)
    assert document["input_size"] == [64, 96]
    assert document["config"]["depths"] == [2, 2, 2, 2]
    (weights,) = document["weights"]
    record = find_record("resnet18", "tv_in1k")
    assert weights["name"] == record.name
    assert weights["pinned"] is record.pinned
    assert weights["accuracy_source"] == record.accuracy_source


def test_info_in_words(capsys):
    assert main(["info", "resnet18"]) == 0
    printed = capsys.readouterr().out
    assert "11,689,512 parameters" in printed
    for record in records_of("resnet18"):
        assert record.name in printed
        assert record.repository in printed
        assert f"top-1 {record.top1:.2f} %" in printed
    assert record.accuracy_source in printed


def test_info_without_checkpoints(capsys):
    assert main(["info", "nf_resnet101"]) == 0
    assert "No checkpoints are published" in capsys.readouterr().out


def test_json_holds_no_table(capsys):
    main(["info", "nf_resnet26", "--json"])
    json.loads(capsys.readouterr().out)
