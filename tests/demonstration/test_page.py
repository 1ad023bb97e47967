"""The page of ``nf_zoo.demo``, used in a browser as a visitor would."""

from __future__ import annotations

import io
import json
import socket
import urllib.error
import urllib.request

import numpy as np
import pytest
import tiny_networks
from browser import browser
from PIL import Image
from sklearn.datasets import load_sample_images

import nf_zoo
from nf_zoo.models.grad_cam import grad_cam
from nf_zoo.pictures.preprocessing import Preprocessing

__all__ = ["browser"]

NAME = "wide_resnet16_1.cifar10"
LABELS = ("<img src=x onerror=document.title='broken'>", "*b*", "*b*")
HOSTILE = "&lt;b&gt;.png"
WAIT = 30_000


@pytest.fixture(scope="module")
def other():
    """A small network whose class names are hard to show."""
    model = tiny_networks.build(
        "nf_resnet", num_classes=3, labels=LABELS, preprocessing=Preprocessing(32, 1.0)
    )
    model.head.kernel.assign(np.random.default_rng(1).normal(size=model.head.kernel.shape))
    return model


@pytest.fixture(scope="module")
def served(other):
    """The page for a shipped network and another, which takes 1 MB."""
    page = nf_zoo.demo([NAME, other], block=False, port=free_port(), max_size=1)
    yield page
    page.close(verbose=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Photographs, one of them stored on its side, and files that are no pictures."""
    folder = tmp_path_factory.mktemp("files")
    temple, flower = map(Image.fromarray, load_sample_images().images)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    temple.save(folder / "temple.jpg", exif=exif)
    flower.save(folder / "flower.png")
    flower.resize((40, 40)).save(folder / HOSTILE)
    (folder / "broken.png").write_bytes((folder / "flower.png").read_bytes()[:5000])
    (folder / "notes.txt").write_text("no picture")
    (folder / "large.png").write_bytes((folder / "flower.png").read_bytes() + bytes(2**21))
    return folder


@pytest.fixture
def opened(browser, served):
    """Open the page; afterwards it must have met no error and asked nobody else."""
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.set_default_timeout(WAIT)
    errors, asked = [], []
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(served.local_url)
    page.wait_for_selector("input[type=file]", state="attached")
    yield page
    assert errors == []
    foreign = [url for url in asked if not url.startswith((served.local_url, "data:", "blob:"))]
    assert asked and not foreign
    page.close()


def drop(page, folder, *names) -> None:
    page.set_input_files("input[type=file]", [folder / name for name in names])


def image(page, kind: str, index: int = 0) -> np.ndarray:
    """The pixels of a picture on the page: ``heat``, ``given`` or ``plot``."""
    shown = page.locator(f".{kind} img").nth(index)
    shown.wait_for()
    content = page.request.get(shown.get_attribute("src")).body()
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_a_picture_is_classified_and_explained(opened, files):
    model = nf_zoo.create_model(NAME)
    drop(opened, files, "temple.jpg")
    pixels = model.preprocess(files / "temple.jpg")
    answers = model.decode_predictions(model.predict(pixels, verbose=0))[0]
    best = answers[0].name
    given = image(opened, "given")
    lines = opened.get_by_test_id("label").first.inner_text().split("\n")
    rows = [text for p in answers for text in (p.name, f"{p.probability:.0%}")]
    assert [line for line in lines if line] == [NAME, best, *rows]

    # The network's input, enlarged: turned upright, cut and resized as everywhere else.
    factor = len(given) // 32
    mean, std = model.preprocessing.mean, model.preprocessing.std
    np.testing.assert_array_equal(
        given[::factor, ::factor], np.rint((pixels[0] * std + mean) * 255)
    )

    # The photograph is changed where the heat map is hot.
    heat = grad_cam(model, pixels, [model.labels.index(best)])[0]
    assert opened.get_by_text(f"Evidence for {best}").first.is_visible()
    overlay = image(opened, "heat")
    cell = len(overlay) // len(heat)
    change = np.abs(overlay - given.astype("float32")).mean(axis=-1)
    change = change.reshape(len(heat), cell, len(heat), cell).mean(axis=(1, 3))
    assert np.corrcoef(heat.ravel(), change.ravel())[0, 1] > 0.7

    # Another picture, beside the first, has another.
    drop(opened, files, "flower.png")
    opened.get_by_role("heading", name="flower.png").wait_for()
    opened.wait_for_function("document.querySelectorAll('img').length == 8")  # 2 each, 2 networks
    other = image(opened, "heat", 2)
    assert other.shape == overlay.shape and not np.array_equal(other, overlay)


def test_what_is_no_picture_is_explained_and_names_are_text(opened, files, monkeypatch):
    opened.set_viewport_size({"width": 390, "height": 800})  # a phone
    drop(opened, files, "large.png")
    opened.get_by_text("exceed the maximum allowed size of 1.0 Mb").wait_for()
    monkeypatch.setattr("nf_zoo.demonstration.page.MOST_PICTURES", 3)
    drop(opened, files, "broken.png", HOSTILE, "notes.txt", "flower.png")
    opened.get_by_text("⚠ broken.png cannot be read; it may be corrupt or cut short").wait_for()
    opened.get_by_text("⚠ notes.txt is not a JPEG, PNG").wait_for()
    image(opened, "given")
    opened.get_by_text("The first 3 of 4 pictures are shown.").wait_for()
    assert opened.get_by_role("heading", name="flower.png").count() == 0
    assert opened.get_by_role("heading", name=HOSTILE, exact=True).count() == 1
    assert {LABELS[0], "*b* (1)", "*b* (2)"} <= set(
        opened.get_by_test_id("label").last.inner_text().split("\n")
    )
    assert opened.title() == "nf_zoo"
    assert opened.evaluate("document.documentElement.scrollWidth") == 390


def test_the_plot_follows_the_sliders(opened):
    opened.get_by_role("tab", name="Signal propagation").click()
    shown = [image(opened, "plot")]
    assert shown[0].shape[1] > 1000 and shown[0].std() > 10

    def number(label, value):
        place = opened.get_by_label(f"number input for {label}")
        place.fill(value)
        place.press("Enter")

    for change in (
        lambda: opened.get_by_label("none", exact=True).check(),
        lambda: number("Depth", "2"),
        lambda: number("alpha", "0.5"),
        lambda: opened.get_by_label("silu", exact=True).check(),
    ):
        source = opened.locator(".plot img").get_attribute("src")
        change()
        opened.wait_for_function(
            "old => document.querySelector('.plot img').src != old", arg=source
        )
        shown.append(image(opened, "plot"))
        assert not any(np.array_equal(shown[-1], before) for before in shown[:-1])


def test_the_server_gives_and_takes_nothing_else(served, files):
    def status(path, data=None, **headers):
        request = urllib.request.Request(served.local_url + path, data, headers)
        try:
            return urllib.request.urlopen(request).status
        except urllib.error.HTTPError as error:
            return error.code

    part = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n%b\r\n--x--'
    )
    kind = {"Content-type": "multipart/form-data; boundary=x"}
    assert status("gradio_api/upload", part % b"small", **kind) == 200
    assert status("gradio_api/upload", part % bytes(2**20 + 1), **kind) == 413
    assert status(f"gradio_api/file={files / 'flower.png'}") == 403
    assert status(f"gradio_api/file={nf_zoo.__file__}") == 403
    info = json.load(urllib.request.urlopen(f"{served.local_url}gradio_api/info"))
    assert info == {"named_endpoints": {}, "unnamed_endpoints": {}}
    config = json.load(urllib.request.urlopen(f"{served.local_url}config"))
    assert not config["analytics_enabled"]
    listening = served.server.config
    assert listening.host == "127.0.0.1"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_address_of_ipv6(host):
    page = nf_zoo.demo(NAME, host=host, block=False)
    try:
        assert page.local_url.startswith("http://[::1]:")
        assert urllib.request.urlopen(page.local_url).status == 200
    finally:
        page.close()


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(ValueError, match=r"must be a model to show. Received: none"):
        nf_zoo.demo([])
    with pytest.raises(ValueError, match=r"must have a classifier.*nf_resnet"):
        nf_zoo.demo(tiny_networks.build("nf_resnet", num_classes=0))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"the port free. Received: host 127.0.0.1, port {port}"):
            nf_zoo.demo(NAME, port=port)
    with pytest.raises(OSError, match=r"address of this machine.*host 192.0.2.1, port any"):
        nf_zoo.demo(NAME, host="192.0.2.1")
    with pytest.raises(ValueError, match=r"max_size must be above 0 and finite. Received: inf"):
        nf_zoo.demo(NAME, max_size=float("inf"))
    with pytest.raises(ValueError, match=r"max_size must be above 0 and finite. Received: 0"):
        nf_zoo.demo(NAME, max_size=0)
