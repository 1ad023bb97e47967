"""``nf-zoo demo``: what it serves, and what each form of a model shows of a picture."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import succeed

import nf_zoo
from nf_zoo.cli import main
from nf_zoo.demonstration.subjects import Subject
from nf_zoo.deploy.formats import SUFFIXES

FILES = [row.name for row in SUFFIXES.values()]


@pytest.mark.parametrize("form", ["tuned", "pretrained", "saved_model", *FILES])
def test_every_form_answers_as_predict_does(form, saved, exported, pictures, answer):
    path = {**saved, **exported}[form]
    picture = next(pictures.rglob("red/*.png"))
    _, (row,) = answer("predict", path, picture)
    shown = Subject(path).answer(np.asarray(Image.open(picture)))
    assert [p.name for p in shown.predictions] == [p["name"] for p in row["predictions"]]
    for one, other in zip(shown.predictions, row["predictions"], strict=True):
        assert one.probability == pytest.approx(other["probability"], abs=1e-5)
    has_layers = form in ("tuned", "pretrained")
    assert (shown.heat is not None) == has_layers
    assert (shown.given is not None) == (form != "saved_model")


def test_a_folded_network_has_the_same_heat_map(model, pictures):
    picture = np.asarray(Image.open(next(pictures.rglob("red/*.png"))))
    one, other = (Subject(net).answer(picture) for net in (model, nf_zoo.fold(model)))
    difference = np.asarray(one.heat, "float32") - np.asarray(other.heat, "float32")
    assert np.abs(difference).max() <= 1


@pytest.mark.fast
def test_a_gray_network_is_shown_in_gray(build_tiny, pictures):
    net = build_tiny(input_shape=(None, None, 1))
    shown = Subject(net).answer(np.asarray(Image.open(next(pictures.rglob("red/*.png")))))
    given = np.asarray(shown.given)
    assert given.shape == (320, 320, 3) and (given == given[..., :1]).all() and given.std() > 1
    assert np.ptp(np.asarray(shown.heat).astype(int), axis=-1).max() > 20  # over the colors


SERVED = """
import os, pathlib, signal, sys, threading, urllib.request
import gradio
from nf_zoo.cli import main

block_thread = gradio.Blocks.block_thread

def block_and_stop(page):
    address = f"http://127.0.0.1:{sys.argv[-1]}"
    print("of up to 0.5 MB each" in urllib.request.urlopen(f"{address}/config").read().decode())
    part = b'--x\\r\\nContent-Disposition: form-data; name="files"; filename="a.png"'
    kind = {"Content-type": "multipart/form-data; boundary=x"}
    data = part + b"\\r\\n\\r\\nbytes\\r\\n--x--"
    urllib.request.urlopen(urllib.request.Request(f"{address}/gradio_api/upload", data, kind))
    print(*pathlib.Path(os.environ["GRADIO_TEMP_DIR"]).rglob("a.png"))
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    block_thread(page)

gradio.Blocks.block_thread = block_and_stop
print(main(["demo", *sys.argv[1:-1], "--port", sys.argv[-1], "--max-size", "0.5"]))
"""


def test_the_command_serves_until_it_is_stopped(saved):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The server of Gradio sets up the logging of its process anew. It needs no proxy.
    nobody = "http://127.0.0.1:9"
    done = succeed(SERVED, saved["tuned"], port, http_proxy=nobody, NO_PROXY="example.org")
    address = f"Open http://127.0.0.1:{port}/ in a browser; Ctrl+C ends it."
    (upload,) = (line for line in done.stdout.splitlines() if line.endswith("a.png"))
    ended = "Keyboard interruption in main thread... closing server."  # Gradio's words
    assert done.stdout.splitlines() == [address, "True", upload, ended, "0"] and not done.stderr
    assert not Path(upload).parents[1].exists()  # it is removed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["./nothing.keras"], "no such model file or folder"),
        (["nf_resnt50"], "Did you mean nf_resnet50"),
        (["no_such_model"], "Received: 'no_such_model', and there is no such file or folder."),
        (["nf_resnet14.cifar10", "--max-size", "0"], "--max-size must be above 0"),
        (["nf_resnet14.cifar10", "--port", "65536"], "must be an integer in [1, 65535]. Received"),
    ],
)
def test_what_cannot_be_served(arguments, words, capsys):
    assert main(["demo", *arguments]) == 2
    assert words in capsys.readouterr().err
