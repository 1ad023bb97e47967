"""A stand-in for the Hugging Face Hub on the loopback interface, which can misbehave.

It answers the requests that the real client makes for reading and writing repositories; the
fixtures `hub_server` and `hub` are imported by the conftests that need them.
"""

from __future__ import annotations

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
from stand_in_hub_api import NAME, ApiAnswers, Repository, oid


class StandInHub(ThreadingHTTPServer):
    """Serves and takes files as the hub does, but for what its attributes say.

    Attributes:
        repositories: by name.
        misbehavior: what goes wrong, one of the words below in `_Handler`; None for nothing.
        answers: file name -> what is sent in place of its content.
        headers: headers of every answer that describes a file, over the true ones.
        token: what a request to write must bear, and one to read what is private; None for any.
        requests: (method, path, Range header) of each.
        tokens: the Authorization header of each.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.misbehavior: str | None = None
        self.answers: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self.token: str | None = None
        self.requests: list[tuple[str, str, str | None]] = []
        self.tokens: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def add(self, repository: str, filename: str, content: bytes, revision: str = "main") -> str:
        """Put a file into a repository; returns the new commit."""
        made = self.repositories.setdefault(repository, Repository())
        return made.commit(revision, {filename: content})

    def add_folder(self, repository: str, folder, revision: str = "main") -> str:
        """Put all files of a folder into a repository in one commit."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        return self.repositories.setdefault(repository, Repository()).commit(revision, files)

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        made = self.repositories[repository]
        return made.commits[made.branches[revision]]

    def downloads(self, filename: str | None = None) -> list[str | None]:
        """The Range header of every request for a file's content."""
        return [
            r
            for method, path, r in self.requests
            if method == "GET" and "/resolve/" in path and path.endswith(filename or "")
        ]

    def writes(self) -> list[str]:
        """The changes that were requested."""
        harmless = ("/preupload/", "/validate-yaml", "/paths-info/")
        return [
            f"{method} {path}"
            for method, path, _ in self.requests
            if method not in ("GET", "HEAD") and not any(word in path for word in harmless)
        ]

    def handle_error(self, request, client_address):
        """Clients that hang up in the middle are part of the game."""


class _Handler(ApiAnswers, BaseHTTPRequestHandler):
    server: StandInHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer()

    do_GET = do_POST = do_DELETE = do_HEAD

    def log_message(self, *_):
        pass

    def _answer(self):
        hub = self.server
        self.with_body = self.command != "HEAD"
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        hub.requests.append((self.command, self.path, self.headers.get("Range")))
        hub.tokens.append(self.headers.get("Authorization"))
        refusals = {
            "gated": (403, "GatedRepo"),
            "unauthorized": (401, None),
            "broken": (500, None),
            "unavailable": (503, None),
            "forbidden": (403, None),
            "too many requests": (429, None),
        }
        if hub.misbehavior in refusals:
            return self._refuse(*refusals[hub.misbehavior])
        if hub.misbehavior == "portal":
            return self._send(200, b"<html><body>Please log in</body></html>")
        if hub.misbehavior == "silent":
            return threading.Event().wait(1)
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/"):
            return self._answer_api(path)
        match = re.fullmatch(rf"/({NAME})/resolve/([^/]+)/(.+)", path)
        if match is None:
            return self._refuse(404, "RepoNotFound")
        return self._answer_file(*match.groups())

    def _answer_file(self, name: str, revision: str, filename: str):
        repository = self._readable(name)
        if repository is None:
            return None
        sha = repository.resolve(revision)
        if sha is None:
            return self._refuse(404, "RevisionNotFound")
        if filename not in repository.commits[sha]:
            return self._refuse(404, "EntryNotFound", sha)
        return self._send_file(filename, repository.commits[sha][filename], sha)

    def _readable(self, name: str) -> Repository | None:
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not self._is_authorized()):
            # The hub does not say of a private repository that it is there.
            self._refuse(401 if repository else 404, "RepoNotFound")
            return None
        return repository

    def _is_authorized(self) -> bool:
        token = self.server.token
        return token is None or self.headers.get("Authorization") == f"Bearer {token}"

    def _send_file(self, filename: str, content: bytes, sha: str):
        hub = self.server
        headers = {
            "ETag": f'"{oid(filename, content)}"',
            "X-Repo-Commit": sha,
            **hub.headers,
        }
        content = hub.answers.get(filename, content)
        if "Location" in headers:
            return self._send(302, b"", headers)
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        first = int(start[1]) if start else 0
        status = 200
        if start:
            status = 206
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        if self.with_body and hub.misbehavior in ("breaks off", "always breaks off", "stalls"):
            return self._send_half(status, content, first, headers)
        return self._send(status, content[first:], headers)

    def _send_half(self, status: int, content: bytes, first: int, headers: dict[str, str]):
        """Promise everything, send half of the file, then nothing more."""
        hub = self.server
        headers["Content-Length"] = str(len(content) - first)
        self.close_connection = True
        half = content[first : len(content) // 2]
        if hub.misbehavior == "stalls":
            self._send(status, half, headers)
            self.wfile.flush()
            return threading.Event().wait(1)
        if hub.misbehavior == "breaks off":
            hub.misbehavior = None
        return self._send(status, half, headers)

    def _refuse(self, status: int, code: str | None, sha: str | None = None):
        headers = {"X-Error-Code": code, "X-Error-Message": "refused"} if code else {}
        if sha:
            headers["X-Repo-Commit"] = sha
        self._send(status, b"", {**headers, **self.server.headers})

    def _send_json(self, document):
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.with_body:
            self.wfile.write(body)


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
    from huggingface_hub import constants, hf_api

    template = hub_server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub_server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hf_api.api, "endpoint", hub_server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "hub-assets"))
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


TOKEN = "hf_" + "stand" * 6


@pytest.fixture
def guarded_hub(hub, monkeypatch):
    """A hub that lets only the bearer of a token write."""
    hub.token = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.fixture
def impatient(monkeypatch):
    """A client that gives up after a fraction of a second."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr(file_download, "_ETAG_RETRY_TIMEOUT", 0.2)
