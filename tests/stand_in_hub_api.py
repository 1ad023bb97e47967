"""The repositories of the stand-in hub, and its answers below /api/."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field

NAME = r"(?:spaces/)?[^/]+/[^/]+"
"""Name of a repository in an address; that of a Space begins with ``spaces/``."""
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


class ApiAnswers:
    """The part of a request handler that answers for the API."""

    def _answer_api(self, path: str):
        if path == "/api/validate-yaml":
            return self._validate_card()
        if path == "/api/repos/create":
            return self._create()
        if path == "/api/repos/delete":
            request = json.loads(self.body)
            self.server.repositories.pop(_full_name(request), None)
            return self._send_json({})
        path = path.replace("/api/models/", "/api/")
        match = re.fullmatch(rf"/api/({NAME})(?:/([\w-]+))?(?:/(.+?))?", path)
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
        if self.command != "GET" and match[2] != "paths-info" and not self._is_authorized():
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
        """Check the head of a model card as the hub does, as far as it matters here."""
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
        if not self._is_authorized():
            return self._refuse(401, None)
        name = _full_name(request)
        if name in self.server.repositories:
            return self._refuse(409, None)
        private = bool(request.get("private") or request.get("visibility") == "private")
        made = self.server.repositories[name] = Repository(private=private)
        made.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        if request.get("type") == "space":
            made.commit("main", {"README.md": f"---\nsdk: {request['sdk']}\n---\n".encode()})
        return self._send_json({"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def _preupload(self, _, repository: Repository, revision: str):
        if self.server.misbehavior == "refuses uploads":
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
        if self.server.misbehavior == "refuses commits":
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


def _full_name(request: dict) -> str:
    """The name under which a repository is kept: that of a Space begins with ``spaces/``."""
    kind = "spaces/" if request.get("type") == "space" else ""
    return f"{kind}{request.get('organization', 'me')}/{request['name']}"


def _entries(files: dict[str, bytes]) -> list[dict]:
    entries = []
    for name, content in files.items():
        entry = {"type": "file", "path": name, "size": len(content), "oid": _git_oid(content)}
        if name.endswith(LFS_SUFFIXES):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
        entries.append(entry)
    return entries


def oid(filename: str, content: bytes) -> str:
    """The hub's ETag: SHA-256 of large files, git's hash of the others."""
    if filename.endswith(LFS_SUFFIXES):
        return hashlib.sha256(content).hexdigest()
    return _git_oid(content)


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
