"""A stand-in for the Hugging Face Hub on the loopback interface, which can misbehave.

It answers the requests that the real client makes for reading and writing repositories; the
fixtures `hub_server` and `hub` are imported by the conftests that need them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

LFS_SUFFIXES = (".safetensors", ".keras", ".h5", ".npz", ".pb")


@dataclass
class Repository:
    """Commits by their hash, each with all its files, and branches that point to them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def commit(self, branch: str, changes: dict[str, bytes | None]) -> str:
        files = {**self.commits.get(self.branches.get(branch), {}), **changes}
        files = {name: content for name, content in files.items() if content is not None}
        digest = hashlib.sha1(f"{len(self.commits)}".encode())
        for name in sorted(files):
            digest.update(name.encode() + b"\0" + files[name])
        sha = digest.hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


class StandInHub(ThreadingHTTPServer):
    """Serves and takes files as the hub does, but for what its attributes say.

    Attributes:
        repositories: by name.
        misbehaviour: what goes wrong, one of the words below in `_Handler`; None for nothing.
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
        self.misbehaviour: str | None = None
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
        """What was asked for to be changed."""
        harmless = ("/preupload/", "/validate-yaml", "/paths-info/")
        return [
            f"{method} {path}"
            for method, path, _ in self.requests
            if method not in ("GET", "HEAD") and not any(word in path for word in harmless)
        ]

    def handle_error(self, request, client_address):
        """Clients that hang up in the middle are part of the game."""


class _Handler(BaseHTTPRequestHandler):
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
            "unauthorised": (401, None),
            "broken": (500, None),
            "unavailable": (503, None),
            "forbidden": (403, None),
            "too many requests": (429, None),
        }
        if hub.misbehaviour in refusals:
            return self._refuse(*refusals[hub.misbehaviour])
        if hub.misbehaviour == "portal":
            return self._send(200, b"<html><body>Please log in</body></html>")
        if hub.misbehaviour == "silent":
            return threading.Event().wait(1)
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/"):
            return self._answer_api(path)
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
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
        if repository is None or (repository.private and not self._is_authorised()):
            # The hub does not say of a private repository that it is there.
            self._refuse(401 if repository else 404, "RepoNotFound")
            return None
        return repository

    def _is_authorised(self) -> bool:
        token = self.server.token
        return token is None or self.headers.get("Authorization") == f"Bearer {token}"

    def _send_file(self, filename: str, content: bytes, sha: str):
        hub = self.server
        headers = {
            "ETag": f'"{_oid(filename, content)}"',
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
        if self.with_body and hub.misbehaviour in ("breaks off", "always breaks off", "stalls"):
            return self._send_half(status, content, first, headers)
        return self._send(status, content[first:], headers)

    def _send_half(self, status: int, content: bytes, first: int, headers: dict[str, str]):
        """Promise everything, send half of the file, then nothing more."""
        hub = self.server
        headers["Content-Length"] = str(len(content) - first)
        self.close_connection = True
        half = content[first : len(content) // 2]
        if hub.misbehaviour == "stalls":
            self._send(status, half, headers)
            self.wfile.flush()
            return threading.Event().wait(1)
        if hub.misbehaviour == "breaks off":
            hub.misbehaviour = None
        return self._send(status, half, headers)

    def _answer_api(self, path: str):
        if path == "/api/validate-yaml":
            return self._validate_card()
        if path == "/api/repos/create":
            return self._create()
        if path == "/api/repos/delete":
            request = json.loads(self.body)
            self.server.repositories.pop(f"{request['organization']}/{request['name']}", None)
            return self._send_json({})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/([\w-]+))?(?:/(.+?))?", path)
        repository = self._readable(match[1]) if match else None
        if repository is None:
            return None if match else self._refuse(404, None)
        actions = {
            ("GET", None): self._describe,
            ("GET", "revision"): self._describe,
            ("GET", "tree"): self._list,
            ("POST", "paths-info"): self._list,
            ("POST", "preupload"): self._preupload,
            ("POST", "commit"): self._commit,
            ("POST", "branch"): self._branch,
            ("DELETE", "branch"): self._branch,
        }
        action = actions.get((self.command, match[2]))
        if action is None:
            return self._refuse(404, None)
        if self.command != "GET" and match[2] != "paths-info" and not self._is_authorised():
            return self._refuse(403, None)
        return action(match[1], repository, match[3] or "main")

    def _describe(self, name: str, repository: Repository, revision: str):
        sha = repository.resolve(revision)
        if sha is None:
            return self._refuse(404, "RevisionNotFound")
        siblings = [
            {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]}
            | ({"lfs": {**entry["lfs"], "sha256": entry["lfs"]["oid"]}} if "lfs" in entry else {})
            for entry in _entries(repository.commits[sha])
        ]
        document = {"id": name, "sha": sha, "private": repository.private, "siblings": siblings}
        return self._send_json(document)

    def _list(self, _, repository: Repository, revision: str):
        sha = repository.resolve(revision)
        if sha is None:
            return self._refuse(404, "RevisionNotFound")
        return self._send_json(_entries(repository.commits[sha]))

    def _validate_card(self):
        """What the hub checks of a model card's head, as far as it matters here."""
        import yaml

        text = json.loads(self.body)["content"]
        head = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
        errors = [
            f'"{name}" must be a text'
            for name in ("license", "library_name", "pipeline_tag")
            if not isinstance(head.get(name, ""), str)
        ]
        for entry in head.get("model-index", []):
            for result in entry["results"]:
                if not all(isinstance(m["value"], float) for m in result["metrics"]):
                    errors.append('"model-index" has a value that is no number')
        report = {"errors": [{"message": error} for error in errors], "warnings": []}
        return self._send(400 if errors else 200, json.dumps(report).encode())

    def _create(self):
        request = json.loads(self.body)
        if not self._is_authorised():
            return self._refuse(401, None)
        name = f"{request.get('organization', 'me')}/{request['name']}"
        if name in self.server.repositories:
            return self._refuse(409, None)
        private = bool(request.get("private") or request.get("visibility") == "private")
        made = self.server.repositories[name] = Repository(private=private)
        made.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return self._send_json({"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def _preupload(self, _, repository: Repository, revision: str):
        if self.server.misbehaviour == "refuses uploads":
            return self._refuse(507, None)
        files = json.loads(self.body)["files"]
        answer = [
            {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
        ]
        return self._send_json({"files": answer})

    def _branch(self, _, repository: Repository, branch: str):
        if self.command == "DELETE":
            repository.branches.pop(branch)
        else:
            start = json.loads(self.body or b"{}").get("startingPoint", "main")
            repository.branches[branch] = repository.resolve(start)
        return self._send_json({})

    def _commit(self, name: str, repository: Repository, branch: str):
        if self.server.misbehaviour == "refuses commits":
            return self._refuse(500, None)
        if branch not in repository.branches:
            return self._refuse(404, "RevisionNotFound")
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        parent = next(line["value"] for line in lines if line["key"] == "header")
        if parent.get("parentCommit") not in (None, repository.branches[branch]):
            return self._refuse(412, None)
        changes: dict[str, bytes | None] = {}
        for line in lines:
            if line["key"] == "file":
                changes[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                changes[line["value"]["path"]] = None
        sha = repository.commit(branch, changes)
        url = f"{self.server.url}/{name}/commit/{sha}"
        return self._send_json({"commitUrl": url, "commitOid": sha, "success": True})

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


def _entries(files: dict[str, bytes]) -> list[dict]:
    entries = []
    for name, content in files.items():
        entry = {"type": "file", "path": name, "size": len(content), "oid": _git_oid(content)}
        if name.endswith(LFS_SUFFIXES):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
        entries.append(entry)
    return entries


def _oid(filename: str, content: bytes) -> str:
    """The hub's ETag: SHA-256 of large files, git's hash of the others."""
    if filename.endswith(LFS_SUFFIXES):
        return hashlib.sha256(content).hexdigest()
    return _git_oid(content)


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


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


@pytest.fixture
def impatient(monkeypatch):
    """A client that gives up after a fraction of a second."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr(file_download, "_ETAG_RETRY_TIMEOUT", 0.2)
