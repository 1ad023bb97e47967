"""A stand-in for the Hugging Face Hub on the loopback interface, and tiny timm-format files."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import goldens
import numpy as np
import pytest

TINY = {"depths": (1, 1, 1, 1), "widths": (8, 16, 16, 32), "stem_width": 8}


class StandInHub(ThreadingHTTPServer):
    """Serves files as the hub does; `misbehaviour` says what goes wrong, if anything."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[tuple[str, str, str], bytes] = {}
        self.misbehaviour: str | None = None
        self.requests: list[tuple[str, str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def add(self, repository: str, filename: str, content: bytes, revision: str = "main"):
        self.files[repository, revision, filename] = content

    def downloads(self) -> list[str | None]:
        """The Range header of every request for a file's content."""
        return [r for method, path, r in self.requests if method == "GET" and "/resolve/" in path]


class _Handler(BaseHTTPRequestHandler):
    server: StandInHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def log_message(self, *_):
        pass

    def _answer(self, with_body: bool):
        hub = self.server
        hub.requests.append((self.command, self.path, self.headers.get("Range")))
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if hub.misbehaviour == "gated":
            return self._refuse(403, "GatedRepo")
        if hub.misbehaviour == "unauthorised":
            return self._refuse(401, None)
        if hub.misbehaviour == "broken":
            return self._refuse(500, None)
        if hub.misbehaviour == "portal":
            return self._send(200, b"<html><body>Please log in</body></html>", {}, with_body)
        repository, revision, filename = match.groups() if match else ("", "", "")
        if not any(repository == known for known, _, _ in hub.files):
            return self._refuse(404, "RepoNotFound")
        if not any((repository, revision) == known[:2] for known in hub.files):
            return self._refuse(404, "RevisionNotFound")
        if (repository, revision, filename) not in hub.files:
            return self._refuse(404, "EntryNotFound", revision)
        return self._send_file(hub.files[repository, revision, filename], revision, with_body)

    def _send_file(self, content: bytes, revision: str, with_body: bool):
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": commit(revision),
        }
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if start:
            first = int(start[1])
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            return self._send(206, content[first:], headers, with_body)
        if with_body and self.server.misbehaviour == "breaks off":
            headers["Content-Length"] = str(len(content))
            self.server.misbehaviour = None
            self.close_connection = True
            return self._send(200, content[: len(content) // 2], headers, with_body)
        return self._send(200, content, headers, with_body)

    def _refuse(self, status: int, code: str | None, revision: str | None = None):
        headers = {"X-Error-Code": code, "X-Error-Message": "refused"} if code else {}
        if revision:
            headers["X-Repo-Commit"] = commit(revision)
        self._send(status, b"", headers, with_body=False)

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def commit(revision: str) -> str:
    return hashlib.sha1(revision.encode()).hexdigest()


@pytest.fixture
def hub_server():
    server = StandInHub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(hub_server, monkeypatch, tmp_path):
    """The stand-in hub, with the real client of this process pointed at it and its own cache."""
    import huggingface_hub
    from huggingface_hub import constants

    template = hub_server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub_server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # The client waits up to 8 seconds between attempts.
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    huggingface_hub.close_session()
    yield hub_server
    huggingface_hub.close_session()


@pytest.fixture
def tiny():
    """Builds four-block models: tiny("nf_resnet50", num_classes=5)."""
    from nf_zoo.models.registry import build_model

    return lambda name, **options: build_model(name, **{**TINY, "num_classes": 5, **options})


NFNET = {"depths": (1, 1, 1, 1), "widths": (16, 16, 32, 32), "stem_widths": (4, 4, 8, 8)}


@pytest.fixture
def nfnet():
    """Builds four-block NFNets."""
    from nf_zoo.models.registry import build_model

    options = {**NFNET, "group_width": 4, "num_classes": 5}
    return lambda name, **more: build_model(name, **{**options, **more})


@pytest.fixture
def timm_tensors():
    """What timm's state dictionary of a model would hold, filled by name."""

    def make(model) -> dict[str, np.ndarray]:
        from nf_zoo.hub import from_timm

        tensors = {}
        for step in from_timm.plan(model):
            shape = timm_shape(model, step.name, tuple(step.variable.shape))
            tensors[step.key] = np.asarray(goldens.fill_timm(step.key, shape))
            if step.key.endswith("running_mean"):
                counter = step.key.replace("running_mean", "num_batches_tracked")
                tensors[counter] = np.array(7)
        return tensors

    return make


def timm_shape(model, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that timm gives the variable of that name."""
    if name.endswith("kernel"):
        is_convolution_head = name == "head/kernel" and model.architecture.startswith("resnetv2")
        return (*shape[::-1], 1, 1) if is_convolution_head else _channels_first(shape)
    return (*shape, 1, 1, 1) if name.endswith("/gain") and shape else shape


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in (3, 2, 0, 1)) if len(shape) == 4 else shape[::-1]


@pytest.fixture
def write(tmp_path):
    """Writes tensors as a safetensors file and returns its path."""
    from nf_zoo.hub.files import write_tensors

    def write(tensors, name="model.safetensors", metadata=None):
        path = tmp_path / name
        write_tensors(tensors, path, metadata or {"format": "pt"})
        return path

    return write


@pytest.fixture
def values():
    """All variables of a model by name, as arrays."""
    import keras

    from nf_zoo.models.classifier import variable_names

    return lambda model: {
        name: keras.ops.convert_to_numpy(variable).copy()
        for name, variable in variable_names(model).items()
    }


@pytest.fixture
def unchanged(values):
    """A context manager: whatever happens inside, the model's variables stay as they are."""

    @contextlib.contextmanager
    def unchanged(model):
        before = values(model)
        yield
        for name, value in values(model).items():
            np.testing.assert_array_equal(value, before[name], err_msg=name)

    return unchanged
