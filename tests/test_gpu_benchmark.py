"""The benchmark on a GPU: its order, its budget and its rows, with contenders of no weight."""

from __future__ import annotations

import csv
import sys
import time

import pytest

from benchmarks.gpu import worker
from benchmarks.gpu.plan import NETWORKS, plan
from benchmarks.gpu.report import Rows, tables
from benchmarks.gpu.schedule import Limits, Schedule

pytestmark = pytest.mark.fast

CONTENDER = """
import json, sys, time

def say(**message):
    print(json.dumps(message), flush=True)

task = json.loads(sys.stdin.readline())["build"]
how = task["how"]
if how == "no network":
    sys.exit("there is no such network")
say(built=True, facts={"multiply_adds": 10**9, "device": "a card", "version": "1"})
json.loads(sys.stdin.readline())
if how == "compiles for ever":
    time.sleep(600)
if how == "straggler":
    say(program=1, error="still compiling")
say(compiled=True, stragglers=int(how == "straggler"))
json.loads(sys.stdin.readline())
if how == "runs for ever":
    say(program=0, seconds=[0.25], calls=1, memory=2**20, compile_seconds=1.0)
    time.sleep(600)
for place in range(len(task["programs"])):
    say(program=place, seconds=[0.5, 0.25, 1.0], calls=2, memory=0, compile_seconds=2.0)
say(done=True)
"""
COMMAND = [sys.executable, "-c", CONTENDER]
LIMITS = Limits(prepare=1.0, overrun=0.2, grace=0.3, time=0.5, worthwhile=0.5)


def contender(name, how="well", programs=2):
    batches = [{"batch": batch} for batch in range(1, programs + 1)]
    program = {"form": "folded", "task": "inference", "precision": "TF32"}
    return {
        **{"network": name, "name": name, "runtime": "jax", "size": 8, "how": how},
        "programs": [program | batch for batch in batches],
    }


def results_of(waves, budget=20.0, limits=LIMITS):
    """(network, batch, error or seconds) in the order in which they came."""
    found = []

    def write(task, facts, program, result):
        what = result.get("error", result.get("seconds"))
        found.append((task["network"], program["batch"], what))

    Schedule(waves, budget, write, limits, COMMAND).run()
    return found


def test_contenders_come_in_the_order_of_their_waves():
    found = results_of([[contender("a"), contender("b")], [contender("c")]])
    assert [name for name, _, _ in found] == [*"aabbcc"]
    assert all(what == [0.5, 0.25, 1.0] for _, _, what in found)


@pytest.mark.parametrize(
    "how, batches, stage",
    [("compiles for ever", [1, 2], "compiling"), ("runs for ever", [2], "being timed")],
)
@pytest.mark.slow
def test_what_overruns_is_killed_and_says_so(how, batches, stage):
    began = time.monotonic()
    found = results_of([[contender("slow", how), contender("b")], [contender("c")]])
    assert time.monotonic() - began < 15
    late = {batch: what for name, batch, what in found if name == "slow" and isinstance(what, str)}
    assert list(late) == batches
    assert all(
        what.startswith(f"killed while {stage}: it took more than") for what in late.values()
    )
    measured = [name for name, _, what in found if what == [0.5, 0.25, 1.0]]
    assert measured == [*"bbcc"]


def test_what_fails_says_why_and_the_others_go_on():
    found = results_of([[contender("a", "no network"), contender("b")]])
    errors = [what for name, _, what in found if name == "a"]
    assert errors == ["ended with 1: there is no such network"] * 2
    assert [name for name, _, what in found if name == "b"] == ["b", "b"]


def test_what_still_compiles_is_timed_last():
    found = results_of([[contender("a", "straggler"), contender("b")]])
    assert found[0] == ("a", 2, "still compiling")
    assert [name for name, _, _ in found[1:]] == ["b", "b", "a"]


@pytest.mark.slow
def test_it_ends_with_the_budget_and_nothing_goes_without_a_row():
    began = time.monotonic()
    limits = Limits(prepare=60.0, overrun=60.0, grace=60.0)
    waves = [[contender("a", "compiles for ever")], [contender("b"), contender("c")]]
    found = results_of(waves, 1.5, limits)
    assert time.monotonic() - began < 8
    assert [(name, batch) for name, batch, _ in found] == [(n, b) for n in "abc" for b in (1, 2)]
    assert all("the budget of 1.5 s was spent" in what for _, _, what in found)


def test_rows_are_in_the_file_as_soon_as_they_come(tmp_path, capsys):
    path, seen = tmp_path / "gpu.csv", []
    product = contender("", programs=1) | {"size": 1000}
    product["programs"] = [product["programs"][0] | {"task": "product"}]
    with Rows(path) as rows:

        def write(*arguments):
            rows.write(*arguments)
            seen.append(len(list(csv.DictReader(path.open()))))

        waves = [[product, contender("a"), contender("b", "no network")]]
        Schedule(waves, 20.0, write, LIMITS, COMMAND).run()
    assert seen == [1, 2, 3, 4, 5]
    table = list(csv.DictReader(path.open()))
    (row,) = [row for row in table if (row["network"], row["batch"]) == ("a", "2")]
    assert (row["milliseconds"], row["calls"], row["pictures_a_second"]) == (
        "500.0",
        "3 x 2",
        "4.0",
    )
    # 2e9 operations a picture, against a product of 2e9 in half a second.
    assert (row["teraflops"], row["share"], row["device"]) == ("0.008", "2.0", "a card")
    text = tables(table)
    assert "Measured on a card; 1." in text
    assert "| a: nf_zoo, JAX, folded | TF32 | 500.0 (100 %) | 500.0 (200 %) |" in text
    assert "- 2 x b jax: ended with 1: there is no such network" in text


def test_the_plan_begins_with_what_matters_most():
    waves = plan(list(NETWORKS), [1, 32, 256], 224, 8192)
    first = [
        (c["network"], p["precision"]) for c in waves[0] for p in c["programs"] if c["network"]
    ]
    assert set(first) == {("nf_resnet50", "bfloat16"), ("nf_resnet50", "TF32")}
    assert {c["runtime"] for c in waves[0]} == {"jax", "pytorch"}
    everything = [
        (c["runtime"], c["network"], *p.values()) for w in waves for c in w for p in c["programs"]
    ]
    assert len(everything) == len(set(everything))
    ours = {found[1:] for found in everything if found[0] == "jax" and found[1]}
    assert ours == {
        (network, form, task, precision, batch)
        for network in NETWORKS
        for form, task in (
            ("folded", "inference"),
            ("unfolded", "inference"),
            ("training", "training"),
        )
        for precision in ("bfloat16", "TF32", "float32")
        for batch in (1, 32, 256)
        if (task, batch) != ("training", 1) or precision == "bfloat16"
    }
    assert {c["network"] for c in waves[-1]} == set(NETWORKS)
    assert all(c["runtime"] != "tensorflow" for w in waves for c in w)
    assert plan(["nf_resnet50"], [1, 32], 224, 8, tensorflow=True)[-1][0]["environment"]


def test_a_worker_compiles_what_there_is_time_for(monkeypatch):
    class Network:
        threads = 1
        facts = {}

        def __init__(self, task):
            pass

        def trace(self, program):
            pass

        def compile(self, program):
            if program["batch"] == 2:
                raise ValueError("out of memory\nand more")

        def start(self, program, compiled):
            return (lambda: None), (lambda: None), (lambda: 7)

        def clean(self):
            pass

    said = []
    found = worker.Worker(said.append)
    found._network, found._task = Network(None), contender("a", programs=3)
    found._task["timing"] = {"repetitions": 2, "seconds": 1e-6}
    found.compile(10.0, 1.0)
    found.time()
    assert said[0] == {"program": 1, "error": "ValueError: out of memory"}
    assert said[1] == {"compiled": True, "stragglers": 0}
    assert [(m["program"], m["memory"], len(m["seconds"])) for m in said[2:4]] == [
        (0, 7, 2),
        (2, 7, 2),
    ]
    assert said[4] == {"done": True}
    said.clear()
    found = worker.Worker(said.append)
    found._network, found._task = Network(None), contender("a", programs=1)
    found.compile(-1.0, 0.0)
    assert said[0]["error"].startswith("TimeoutError: not compiled")
