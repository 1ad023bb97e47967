"""Every form computes the network, and the fastest is named. No time is checked."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys

import keras
import numpy as np
import pytest
import tiny_networks

import nf_zoo
from nf_zoo.cli import main
from nf_zoo.cli.arguments import build_parser
from nf_zoo.deploy import benchmarking
from nf_zoo.deploy.benchmarking import FORMS, Benchmark, Timing
from nf_zoo.deploy.formats import format_of


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(benchmarking, "TURN", 0.0)


def only(monkeypatch, *names):
    monkeypatch.setattr(benchmarking, "FORMS", {name: FORMS[name] for name in names})


def test_every_form_is_measured_and_computes_the_network(build_filled, monkeypatch):
    model, answers = build_filled("nf_resnet"), {}

    def watched(name, form):
        def open_form(source):
            opener = form.opener(source)

            def opener_of_one(images):
                run = opener(images)
                first = np.asarray(keras.tree.flatten(run())[0])
                answers[name, len(images)] = first, np.asarray(model(images))
                return run

            return opener_of_one

        return dataclasses.replace(form, opener=open_form)

    monkeypatch.setattr(benchmarking, "FORMS", {k: watched(k, x) for k, x in FORMS.items()})
    found = nf_zoo.benchmark(model, batch_sizes=(1, 2), size=(40, 56), rounds=1)
    # Not every processor has bfloat16.
    assert found.missing.keys() <= {"OpenVINO, bfloat16"}
    expected = {(name, count) for name in FORMS.keys() - found.missing for count in (1, 2)}
    assert {(x.form, x.batch_size) for x in found.timings} == answers.keys() == expected
    assert len(found.timings) == len(expected)
    for (name, _), (actual, wanted) in answers.items():
        assert actual.shape == wanted.shape
        change = np.sqrt(np.mean((actual - wanted) ** 2) / np.mean(wanted**2))
        bounds = {"float32": (0, 1e-5), "bfloat16": (1e-4, 0.1), "int8": (1e-4, 0.3)}
        low, high = bounds[FORMS[name].precision]
        assert low <= change <= high, name
    assert all(0 < x.least <= x.milliseconds <= x.most for x in found.timings)


@pytest.mark.fast
def test_the_fastest():
    rows = [("a", "int8", 1, 2.0), ("b", "float32", 1, 3.0), ("b", "float32", 8, 4.0)]
    timings = [Timing(*row, row[-1], row[-1], "how") for row in rows]
    found = Benchmark(timings, {})
    assert found.fastest(1).form == "a" and found.fastest(1, "float32").form == "b"
    assert found.fastest(8).pictures_per_second == 2000
    with pytest.raises(ValueError, match=r"batch_size=2 with precision=None.*'float32'"):
        found.fastest(2)


@pytest.mark.fast
@pytest.mark.parametrize("given", [{"batch_sizes": [2]}, {"batch_sizes": [1], "size": (64, 64)}])
def test_what_a_model_of_one_shape_cannot_do_is_not_measured(given):
    inputs = keras.Input(batch_shape=(1, 32, 32, 3))
    with pytest.raises(ValueError, match="inputs of one shape only"):
        nf_zoo.benchmark(keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs)), **given)


@pytest.mark.fast
@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.format])
def test_recipes_are_commands(name):
    form = FORMS[name]
    command, _, code = form.recipe.partition(", then ")
    assert code == form.code
    args = build_parser().parse_args(shlex.split(command)[1:])
    assert format_of(args.output).name == form.format
    assert {key: getattr(args, key) for key in form.options} == dict(form.options)
    assert (args.pictures == "FOLDER") == (form.precision == "int8")


def test_what_is_not_installed_is_named(build_filled, monkeypatch):
    only(monkeypatch, "Keras, folded", "OpenVINO")
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = nf_zoo.benchmark(build_filled("nf_resnet"), batch_sizes=[1], rounds=1)
    assert [timing.form for timing in found.timings] == ["Keras, folded"]
    assert "pip install 'nf-zoo[openvino]'" in found.missing["OpenVINO"]


def test_keras_models_too(monkeypatch):
    only(monkeypatch, "Keras", "SavedModel", "ONNX Runtime, int8")
    layers = [keras.Input((24, 24, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()]
    model = keras.Sequential(layers)
    found = nf_zoo.benchmark(model, batch_sizes=[2], size=24, rounds=1)
    assert (len(found.timings), found.missing) == (3, {})
    only(monkeypatch, "SavedModel")
    layers = [keras.Input((24, 24, 3), dtype="uint8"), keras.layers.Rescaling(1 / 255), *layers[1:]]
    found = nf_zoo.benchmark(keras.Sequential(layers), batch_sizes=[2], size=24, rounds=1)
    assert found.timings and not found.missing
    pair = [keras.Input((4,)), keras.Input((4,))]
    with pytest.raises(ValueError, match=r"must have one input\. Received: 'two', which has 2"):
        nf_zoo.benchmark(keras.Model(pair, keras.layers.Add()(pair), name="two"))


def test_the_command(build_filled, monkeypatch, tmp_path, capsys):
    only(monkeypatch, "Keras, folded", "LiteRT, int8")
    path = tmp_path / "a model.keras"
    build_filled("nf_resnet").save(path)
    arguments = ["benchmark", str(path), "--batch-sizes", "1", "2", "--rounds", "1"]
    assert main([*arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {(x["form"], x["batch_size"]) for x in said["timings"]} == {
        (form, count) for form in ("Keras, folded", "LiteRT, int8") for count in (1, 2)
    }
    recipes = {x["form"]: x["recipe"] for x in said["timings"]}
    assert shlex.split(recipes["LiteRT, int8"])[2] == str(path)
    only(monkeypatch, "Keras, folded")
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "Fastest at batch 2: Keras, folded\n  nf_zoo.fold(model)" in text
    assert main([*arguments, "--rounds", "0"]) == 2
    assert "rounds must be a positive integer. Received: 0" in capsys.readouterr().err


def test_an_error_of_the_runtime_costs_one_form():
    class Exhausted(Exception):
        """As TensorFlow's errors, which are no RuntimeError."""

    def opener(source):
        def run(images):
            raise Exhausted("no memory left")

        return run

    with pytest.MonkeyPatch.context() as patch:
        one, *_ = benchmarking.FORMS
        patch.setitem(
            benchmarking.FORMS, one, dataclasses.replace(benchmarking.FORMS[one], opener=opener)
        )
        model = tiny_networks.build("nf_resnet")
        result = nf_zoo.benchmark(model, batch_sizes=(1,), size=32, rounds=1)
    assert result.timings and "no memory left" in result.missing[f"{one}, batch 1"]
