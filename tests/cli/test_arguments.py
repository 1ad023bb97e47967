from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import shlex
import subprocess
import sys

import pytest

from nf_zoo.cli import main
from nf_zoo.cli.arguments import build_parser, field_value, image_size
from nf_zoo.finetuning.settings import Settings

pytestmark = pytest.mark.fast


def commands(parser, words=()):
    """The words of every command and of every group of commands."""
    if words:
        yield words
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from commands(command, (*words, name))


def parsers(parser):
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from parsers(one)


def test_every_argument_says_what_it_is_in_words_of_the_command_line():
    found = [
        (parser.prog, action.option_strings or action.dest)
        for parser in parsers(build_parser())
        for action in parser._actions
        if not isinstance(action, argparse._SubParsersAction)
        and (not action.help or re.search(r"\bNone\b|\bTrue\b|tf\.|\ba dict\b|[(][(]", action.help))
    ]
    assert found == []


@pytest.mark.parametrize("command", [*commands(build_parser())], ids=" ".join)
def test_help_ends_with_two_examples_that_can_be_parsed(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: nf-zoo {' '.join(command)}" in shown
    examples = shown.rpartition("\nexamples:\n")[2].rstrip("\n").split("\n")
    assert len(examples) == 2 and len(set(examples)) == 2
    for example in examples:
        words = shlex.split(example.partition(" > ")[0])
        assert words[: len(command) + 1] == ["nf-zoo", *command]
        assert build_parser().parse_args(words[1:]).command


@pytest.mark.parametrize(
    "arguments",
    [
        ["learn"],
        ["predict", "nf_resnet50"],
        ["finetune", "pictures"],
        ["finetune", "pictures", "--output", "x", "--resume", "--overwrite"],
        ["finetune", "pictures", "--output", "x", "--image-size", "0"],
        ["finetune", "pictures", "--output", "x", "--set", "depths"],
        ["info", "nf_resnet50", "--size", "224x"],
    ],
)
def test_misuse_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: nf-zoo" in capsys.readouterr().err


def test_unknown_flags_are_refused_by_their_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["finetune", "pictures", "--output", "x", "--batchsize=4", "more"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("usage: nf-zoo finetune ")
    assert "unknown: --batchsize=4 more. Did you mean --batch-size?" in said


@pytest.mark.parametrize(("text", "size"), [("224", (224, 224)), ("192x256", (192, 256))])
def test_image_size(text, size):
    assert image_size(text) == size


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("depths=1,1", ("depths", (1, 1))),
        ("drop_rate=0.2", ("drop_rate", 0.2)),
        ("variant=paper", ("variant", "paper")),
        ("attention=None", ("attention", None)),
        ("name=a=b", ("name", "a=b")),
    ],
)
def test_field_value(text, field):
    assert field_value(text) == field


@pytest.mark.parametrize("text", ["depths", "depths=", "=1", "a b=1"])
def test_malformed_field(text):
    with pytest.raises(argparse.ArgumentTypeError, match="FIELD=VALUE"):
        field_value(text)


def training_options():
    """Return the options of `nf-zoo finetune` that follow from the least that it needs."""
    args = vars(build_parser().parse_args(["finetune", "pictures", "--output", "x"]))
    return {name: args[name] for name in args if name in Settings.__dataclass_fields__}


def test_training_options_are_those_of_finetune():
    from nf_zoo.finetuning import finetune

    parameters = set(inspect.signature(finetune).parameters)
    assert set(training_options()) == parameters - {"model", "data", "labels", "verbose"}


def test_options_left_out_leave_the_defaults_alone():
    options = training_options()
    assert options.pop("output") == "x"
    assert set(options.values()) == {None}


def test_training_options_are_parsed():
    line = "finetune pictures --output x --epochs 3 --no-flip --ema --randaugment --mixup 0.2 "
    line += "--set depths=1,1 --set drop_rate=0.1 --image-size 32x48 --class-weight balanced"
    args = build_parser().parse_args(line.split())
    assert (args.epochs, args.flip, args.ema, args.randaugment) == (3, False, True, True)
    assert (args.mixup, args.image_size, args.class_weight) == (0.2, (32, 48), "balanced")
    assert args.fields == [("depths", (1, 1)), ("drop_rate", 0.1)]


def test_help_has_every_option_with_its_line(capsys):
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(Settings):
        if field.name in training_options():
            line = field.metadata["help"].partition(". ")[0].replace("``", "")
            assert f"--{field.name.replace('_', '-')} " in shown and line in shown


def test_help_needs_nothing_heavy():
    script = (
        "import sys; from nf_zoo.cli.arguments import build_parser; build_parser(); "
        "print({'keras', 'tensorflow', 'numpy', 'PIL', 'rich'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "set()\n"
