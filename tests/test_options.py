from __future__ import annotations

import argparse
import dataclasses
import doctest
import inspect

import numpy as np
import pytest

from nf_zoo import options
from nf_zoo.options import Options, choice, number, option, picture_size, text, whole

pytestmark = pytest.mark.fast


@dataclasses.dataclass(frozen=True)
class Record(Options):
    rounds: int = option(3, "how often. Not seldom", whole(1))
    most: int | None = option(None, "the end; none by default", whole(0, "0 or more"), flag="limit")
    share: float = option(0.5, "``part`` in 100 %", number("in [0, 1)", lambda x: 0 <= x < 1))
    loud: bool = option(False, "tell everybody")
    kept: bool = option(True, "keep it")
    form: str | None = option(None, "the form", choice(None, "round", "flat"))
    size: tuple | None = option(None, "of a picture", picture_size(8))
    place: str | None = option(None, "where", text("DIR"))
    names: list | None = option(None, "only in Python")


@options.takes(Record)
def run(data, *, settings: Record, **rest):
    """Do it.

    Args:
        data: pictures.
        {settings}
        **rest: more.
    """
    return data, settings, rest


def test_module_documentation_is_true():
    assert doctest.testmod(options).attempted > 0
    assert doctest.testmod(options).failed == 0


def test_the_fields_are_the_arguments():
    parameters = inspect.signature(run).parameters
    names = [field.name for field in dataclasses.fields(Record)]
    assert list(parameters) == ["data", *names, "rest"]
    assert parameters["rounds"].default == 3
    assert parameters["rounds"].kind is inspect.Parameter.KEYWORD_ONLY
    assert run(1, rounds=5, extra=2) == (1, Record(rounds=5), {"extra": 2})
    assert run(data=1)[1] == Record()


def test_the_docstring_has_their_help():
    assert "        rounds: how often. Not seldom.\n" in run.__doc__
    assert "{settings}" not in run.__doc__


@pytest.mark.parametrize("call", [lambda: run(), lambda: run(1, 2)])
def test_wrong_calls_are_refused_by_name(call):
    with pytest.raises(TypeError, match=r"^run\(\) "):
        call()


def test_an_unknown_argument_is_refused():
    @options.takes(Record)
    def strict(*, settings):
        return settings

    with pytest.raises(TypeError, match=r"strict\(\) got an unexpected keyword argument 'round'"):
        strict(round=1)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rounds", 0, "rounds must be a positive integer. Received: 0"),
        ("rounds", 2.5, "rounds must be a positive integer. Received: 2.5"),
        ("rounds", None, "rounds must be a positive integer. Received: None"),
        ("most", -1, "most must be 0 or more or None. Received: -1"),
        ("share", 1, r"share must be in \[0, 1\). Received: 1"),
        ("share", float("nan"), "share must be"),
        ("share", "0.5", "share must be"),
        ("loud", "no", "loud must be True or False. Received: 'no'"),
        ("form", "square", "form must be None or 'round', 'flat'. Received: 'square'"),
        ("size", 7, r"size must be an integer or \(height, width\) of 8 or more or None"),
        ("size", (8, 8, 3), "size must be"),
        ("size", (8, 8.5), "size must be"),
    ],
)
def test_values_that_are_not_taken(name, value, message):
    with pytest.raises(ValueError, match=message):
        run(0, **{name: value})


def test_values_are_kept_in_their_own_type():
    record = Record(rounds=np.int64(2), share=np.float32(0.25), loud=np.bool_(True), size=16)
    assert (record.rounds, record.share, record.loud, record.size) == (2, 0.25, True, (16, 16))
    assert [type(x) for x in (record.rounds, record.share, record.loud)] == [int, float, bool]
    assert Record(size=[16, np.int32(24)]).size == (16, 24)


@pytest.fixture
def parser():
    made = argparse.ArgumentParser()
    options.add_flags(made, Record)
    return made


def test_the_fields_are_flags(parser):
    assert options.given(parser.parse_args([]), Record) == {}
    line = "--rounds 4 --limit 2 --share 0.1 --loud --no-kept --form flat --size 8x9 --place here"
    assert options.given(parser.parse_args(line.split()), Record) == {
        "rounds": 4,
        "most": 2,
        "share": 0.1,
        "loud": True,
        "kept": False,
        "form": "flat",
        "size": (8, 9),
        "place": "here",
    }


def test_the_help_is_one_line_with_the_default(parser):
    shown = " ".join(parser.format_help().split())
    assert "how often (3)" in shown and "Not seldom" not in shown
    assert "part in 100 % (0.5)" in shown
    assert "{round,flat}" in shown
    assert "names" not in shown


def test_some_of_the_fields(capsys):
    made = argparse.ArgumentParser()
    options.add_flags(made, Record, ["rounds"], required=True)
    options.add_flags(made, Record, without=["rounds", "loud"])
    assert not hasattr(made.parse_args(["--rounds", "1"]), "loud")
    with pytest.raises(SystemExit):
        made.parse_args([])
    assert "required: --rounds" in capsys.readouterr().err


def test_what_can_be_read_only_once_is_kept():
    from nf_zoo.deploy.benchmarking import BenchmarkSettings
    from nf_zoo.deploy.formats import OnnxOptions

    kept = OnnxOptions(precision="int8", pictures=iter([1]), keep_float=(x for x in ["head"]))
    assert (kept.pictures, kept.keep_float) == ((1,), ("head",))
    assert BenchmarkSettings(batch_sizes=iter([1, 8])).batch_sizes == (1, 8)
