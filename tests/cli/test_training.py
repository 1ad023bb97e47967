from __future__ import annotations

import json
import re
import shutil
import time

import pytest
import tensorflow as tf

from nf_zoo.cli import main
from nf_zoo.hub.catalog import read_catalog

TINY = "--model nf_resnet10 --pretrained none --set depths=1, --set widths=8, --set stem_width=8"
QUICK = "--image-size 16 --epochs 1 --no-flip --seed 3"


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    """The folder of a fine-tuning run by command line."""
    output = tmp_path_factory.mktemp("finetune") / "run"
    arguments = ["finetune", str(pictures), "--output", str(output), *TINY.split(), *QUICK.split()]
    assert main(arguments) == 0
    return output


def test_finetune_obeys_its_options(run):
    settings = json.loads((run / "report.json").read_text())["run"]["settings"]
    assert (settings["image_size"], settings["epochs"]) == ([16, 16], 1)
    assert (settings["flip"], settings["seed"]) == (False, 3)
    model = tf.keras.models.load_model(run / "model.keras")
    assert (model.config.depths, model.config.widths) == ((1,), (8,))


def test_its_folder_predicts_and_evaluates(run, pictures, answer):
    code, rows = answer("predict", run, pictures / "red")
    assert code == 0
    assert {p["name"] for p in rows[0]["predictions"]} == {"blue", "green", "red"}
    assert answer("evaluate", run, pictures)[1]["pictures"] == 12


def test_it_can_be_the_start_of_another(run, pictures, tmp_path, capsys):
    output = tmp_path / "second"
    arguments = ["finetune", str(pictures), "--output", str(output), "--model", str(run)]
    assert main([*arguments, *QUICK.split()]) == 0
    assert f"nf-zoo predict {output}" in capsys.readouterr().out
    assert (output / "saved_model" / "saved_model.pb").is_file()


def test_a_file_with_the_name_of_a_network_is_a_file(run, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(run / "model.keras", "nf_resnet10.keras")
    start = ["--model", "nf_resnet10.keras"]
    assert main(["finetune", str(pictures), "--output", "again", *start, *QUICK.split()]) == 0
    started = json.loads((tmp_path / "again" / "report.json").read_text())["run"]["started_from"]
    assert started["architecture"] == "nf_resnet10"


def test_export(run, tmp_path, capsys):
    target = tmp_path / "exported"
    assert main(["export", str(run), str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    assert "serving_bytes" in tf.saved_model.load(str(target)).signatures
    assert main(["export", str(run), str(target)]) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    assert main(["export", str(run), str(target), "--overwrite", "--constants"]) == 0
    assert not tf.saved_model.load(str(target)).network.captured_inputs
    assert main(["export", str(run), f"{target}.onnx", "--constants"]) == 2
    assert "leave --constants" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite", "model.xml"])
def test_export_of_a_file(name, run, pictures, tmp_path, capsys):
    target = tmp_path / name
    assert main(["export", str(run), str(target)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert target.is_file() and "examples/predict_" in printed
    found = re.search(r"differ from those of the Keras model by at most (\S+) of the", printed)
    assert 0 <= float(found[1]) <= 1e-4
    assert main(["export", str(run), str(tmp_path / "model.onxx")]) == 2
    assert "must end in .onnx, .tflite, .xml" in capsys.readouterr().err
    small = ["export", str(run), str(tmp_path / "small"), "--format", "onnx", "--precision", "int8"]
    assert main([*small, "--pictures", str(pictures), "--keep-float", "head,stem_conv"]) == 0
    assert main(["export", str(run), str(tmp_path / "folder"), "--precision", "int8"]) == 2
    assert "--format onnx has float32 and int8" in capsys.readouterr().err
    assert main([*small[:2], f"{tmp_path / 'other'}.onnx", "--precision", "int8"]) == 2
    assert "int8 needs pictures" in capsys.readouterr().err
    written = [name, "small", *(["model.bin"] if name == "model.xml" else [])]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(written)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("missing --output x", "There is no such folder"),
        ("PICTURES --output x --model nf_resnet26", "To start untrained: --pretrained none"),
        ("PICTURES --output x --model nf_resnet51", "Did you mean"),
        ("PICTURES --output x --pretrained ra9", "has no weights called 'ra9'"),
        (
            "PICTURES --output x --model nf_resnet26 --pretrained none --set depth=1",
            "--set: .*depth",
        ),
        ("PICTURES --output x --model y.keras --set drop_rate=1", "--set go with the name"),
        ("PICTURES --output PICTURES", "not the folder of a fine-tuning run"),
        ("PICTURES --output x --model nf_resnet10 --pretrained none --epochs 0", "epochs must be"),
    ],
)
def test_mistakes_write_nothing(arguments, message, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["finetune", *arguments.replace("PICTURES", str(pictures)).split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fast
@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("finetune PICTURES --output x", "--model"),
        ("finetune PICTURES --output x --model hf://me/flowers", "in place of hf://me/flowers"),
        ("predict nf_resnet50 PICTURES/red", "in place of nf_resnet50"),
        ("evaluate nf_resnet50 PICTURES", "in place of nf_resnet50"),
        ("export nfnet_l0 x", "in place of nfnet_l0"),
        ("benchmark nfnet_l0", "in place of nfnet_l0"),
        ("publish nfnet_l0 me/flowers --dry-run", "in place of nfnet_l0"),
        ("signal-propagation measure nfnet_l0 --pretrained --shape 32", "in place of nfnet_l0"),
        ("fetch nfnet_l0", ""),
    ],
)
def test_offline_the_error_says_what_to_type(
    line, place, pictures, tmp_path, hub, monkeypatch, capsys
):
    hub.server_close()
    hub.shutdown()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waits for another attempt"))
    assert main(line.replace("PICTURES", str(pictures)).split()) in (1, 2)
    error = capsys.readouterr().err
    assert "cannot be reached" in error and place in error
    shipped = [record.name for record in read_catalog() if record.source == "shipped"]
    assert not place or sum(name in error for name in shipped) >= 5
    assert not re.search(r"\w=|nf_zoo\.\w+\(", error), "Python's syntax"


@pytest.mark.fast
@pytest.mark.parametrize("name", ["nf_resnet26", "nfnet_f0", "resnet10"])
def test_errors_of_weights_are_not_in_python(name, pictures, capsys):
    for line in (f"predict {name} PICTURES", f"finetune PICTURES --output x --model {name}"):
        assert main(line.replace("PICTURES", str(pictures)).split()) == 2
        assert not re.search(r"\w=|nf_zoo\.\w+\(", capsys.readouterr().err)


def test_a_finished_run_is_kept(run, pictures, capsys):
    before = (run / "report.json").read_bytes()
    assert main(["finetune", str(pictures), "--output", str(run)]) == 2
    assert "replace it with --overwrite" in capsys.readouterr().err
    assert (run / "report.json").read_bytes() == before


@pytest.mark.fast
def test_interruption_says_how_to_go_on(pictures, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("nf_zoo.finetuning.fine_tune.finetune", interrupt)
    monkeypatch.setattr("nf_zoo.finetuning.finetune", interrupt, raising=False)
    arguments = ["finetune", str(pictures), "--output", str(tmp_path / "run"), *TINY.split()]
    assert main(arguments) == 130
    assert "--resume goes on" in capsys.readouterr().err
