"""Devices and hosts: what is refused, and how."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from programs import printed_by
from test_invariance import free_ports

from training.recipe import RecipeError
from training.strategy import make_strategy, meet, read_tf_config

pytestmark = pytest.mark.fast


def config(cluster, index=0, kind="worker"):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


@pytest.mark.parametrize(
    ("environment", "word"),
    [
        ({"TF_CONFIG": "{not json"}, "must look like"),
        ({"TF_CONFIG": '{"cluster": {}}'}, "must look like"),
        (config({"worker": ["a:1"]}, index=1), r"index must be\s+in \[0, 1\)"),
        (config({"worker": ["a:1"]}, kind="chief"), "has 0 of type 'chief'"),
        (config({"worker": ["a"]}), "host:port"),
        (config({"worker": ["a:x"]}), "host:port"),
        (config({"worker": ["a:1", "a:1"]}), "must appear once"),
        (config({"worker": ["a:1"], "ps": ["b:2"]}), "parameter server"),
    ],
)
def test_a_wrong_tf_config_is_explained(environment, word):
    with pytest.raises(RecipeError, match=word):
        read_tf_config(environment)


def test_without_tf_config_there_is_one_host():
    assert read_tf_config({}) == ({}, None)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("parameter_server", "Keras 3 has no training loop"),
        ("data_parallel", "does nothing on the TensorFlow backend"),
        ("sideways", "auto, one_device"),
        ("multi_worker", "TF_CONFIG"),
        ("tpu", "No TPU answers"),
    ],
)
def test_what_cannot_work_is_refused(kind, word, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(RecipeError, match=word):
        make_strategy(kind)


def test_a_worker_that_never_comes_is_named():
    own, other = free_ports(2)
    cluster = {"worker": [f"127.0.0.1:{own}", f"127.0.0.1:{other}"]}
    with pytest.raises(RecipeError, match=f"within 1 s.*127.0.0.1:{other}$"):
        meet(cluster, {"type": "worker", "index": 0}, timeout=1.0)


def test_an_address_in_use_is_named():
    own, other = free_ports(2)
    cluster = {"worker": [f"127.0.0.1:{own}", f"127.0.0.1:{other}"]}
    with (
        socket.create_server(("", own)),
        pytest.raises(RecipeError, match=f"cannot listen on 127.0.0.1:{own}"),
    ):
        meet(cluster, {"type": "worker", "index": 0}, timeout=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_workers_that_start_one_after_the_other_meet(host):
    if host != "127.0.0.1" and not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    cluster = {"worker": [f"{host}:{port}" for port in free_ports(3)]}
    tasks = [{"type": "worker", "index": index} for index in range(3)]
    with ThreadPoolExecutor(3) as pool:
        waiting = []
        for task in tasks:
            waiting.append(pool.submit(meet, cluster, task, 20.0))
            time.sleep(0.3)
        assert [one.result() for one in waiting] == [None] * 3


@pytest.mark.slow
def test_one_thread_would_not_do():
    program = (
        "import tensorflow as tf; from training.strategy import make_strategy; "
        "make_strategy('one_device'); print(tf.config.threading.get_inter_op_parallelism_threads())"
    )
    threads = {n: printed_by(program, TF_NUM_INTEROP_THREADS=n) for n in ("1", "3")}
    assert threads == {"1": "2", "3": "0"}
