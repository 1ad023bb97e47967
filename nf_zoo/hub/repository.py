"""The Hugging Face Hub and the hub client's cache.

The client does the transport: connections, retries, resuming, locks, the cache. This module adds
checks. It examines the hub's answer before it fetches a file, and compares the file with the hub's
checksum. After a failed load the version that was in the cache before stays in use.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from nf_zoo import atomic
from nf_zoo.hub import errors
from nf_zoo.hub.checkpoint import INDEX_FILE, WEIGHTS_FILE, file_sha256
from nf_zoo.hub.client_errors import in_words, is_unconnected
from nf_zoo.hub.description import CONFIG_FILE, is_keras_config
from nf_zoo.hub.errors import printable
from nf_zoo.hub.untrusted import arrays, keras_files
from nf_zoo.hub.untrusted.documents import MOST_BYTES
from nf_zoo.hub.untrusted.headers import read_index

HUB = "hf://"
LONGEST_WAIT = 120
MODEL_SUFFIXES = (keras_files.SUFFIX, *arrays.SUFFIXES)
_REPOSITORY = re.compile(r"(?=.{3,96}$)\w([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII)
_REVISION = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PLAIN = re.compile(r"[\w.-]{1,128}", re.ASCII)
_downloads: contextvars.ContextVar[list[Path] | None] = contextvars.ContextVar(
    "downloads", default=None
)


@dataclasses.dataclass(frozen=True)
class HubRepository:
    """A repository on the Hugging Face Hub at a revision; one of the ``sources`` of weights.

    Its ``kind`` is ``"model"``, or ``"space"`` for a program that the hub runs.
    """

    name: str
    revision: str = "main"
    kind: str = "model"

    record = sha256 = None

    @classmethod
    def parse(cls, uri: str) -> HubRepository:
        """Read ``"hf://owner/name[@revision]"``."""
        name, at, revision = uri.removeprefix(HUB).partition("@")
        is_sound = _REPOSITORY.fullmatch(name) and (_REVISION.fullmatch(revision) or not at)
        if not uri.startswith(HUB) or not is_sound or ".." in uri or "--" in name:
            raise errors.UnknownWeights(
                f"A hub repository is written hf://owner/name or hf://owner/name@revision. "
                f"Received: {uri!r}"
            )
        return cls(name, revision or "main")

    def __str__(self) -> str:
        return f"{HUB}{self._path}@{self.revision}"

    @property
    def _path(self) -> str:
        return f"spaces/{self.name}" if self.kind == "space" else self.name

    @property
    def url(self) -> str:
        """Address of its page."""
        from huggingface_hub import constants

        branch = "" if self.revision == "main" else f"/tree/{self.revision}"
        return f"{constants.ENDPOINT}/{self._path}{branch}"

    @property
    def tag(self) -> str:
        """Name that a model keeps of the source of its weights."""
        return f"{HUB}{self.name}"

    def at_commit_of(self, path: Path) -> HubRepository:
        """Return the same repository at the commit that one of its cached files belongs to.

        Files fetched later then belong to the same version, even if another is published meanwhile.
        """
        commit = path.parent.name
        if not _COMMIT.fullmatch(commit):
            return self
        return dataclasses.replace(self, revision=commit)

    def pinned(self) -> HubRepository:
        """Return the repository at the current commit of its revision. Raises as ``fetch``."""
        path = self.description()
        return self if path is None else self.at_commit_of(path)

    def description(self) -> Path | None:
        """Return its config.json, if it has one. Raises as ``fetch``."""
        return self.find(CONFIG_FILE, MOST_BYTES)

    def weights(self) -> Path:
        """Return its weights file, or the index of several, all fetched. Raises as ``fetch``."""
        if (path := self.find(WEIGHTS_FILE)) is not None:
            return path
        if (index := self.find(INDEX_FILE, MOST_BYTES)) is None:
            return self.fetch(WEIGHTS_FILE)
        version = self.at_commit_of(index)
        for name in dict.fromkeys(read_index(index).values()):
            version.fetch(name)
        return index

    def files(self) -> list[Path]:
        """Return all files that a load needs, the weights last. Raises as ``fetch``."""
        config = self.description()
        if config is None:
            files, version = [], self
        else:
            files, version = [config], self.at_commit_of(config)
            if is_keras_config(config):
                return [version.fetch(name) for name in keras_files.PARTS]
        try:
            return [*files, version.weights()]
        except errors.WeightsNotFound:
            if (name := version.model_file()) is None:
                raise
            return [*files, version.fetch(name)]

    def model_file(self) -> str | None:
        """Return the name of its .keras file or .npz of DeepMind's; None if not exactly one."""
        names = [n for n in self.filenames() if n.endswith(MODEL_SUFFIXES) and "/" not in n]
        return names[0] if len(names) == 1 else None

    def fetch(self, filename: str, most_bytes: int | None = None) -> Path:
        """Return one file, from the cache or over the network.

        huggingface_hub handles HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and the access token.

        Raises:
            WeightsNotFound, WeightsAccessDenied, WeightsOffline: as their names say.
            CacheNotWritable: if the disk is full or closed.
            ChecksumMismatch: if the download differs from the hub's checksum; it is not kept.
            UnsafeWeights: if the hub's answer would lead outside the cache.
        """
        import huggingface_hub

        where = {"repo_id": self.name, "filename": filename, "revision": self.revision}
        where["repo_type"] = self.kind
        with in_words(self, filename):
            cached = huggingface_hub.try_to_load_from_cache(**where)
            if _COMMIT.fullmatch(self.revision) and isinstance(cached, str):
                return Path(cached)
            promised = _promised(self, filename, most_bytes, isinstance(cached, str))
            path = Path(huggingface_hub.hf_hub_download(**where))
        if str(path) != cached:
            note_download(path)
            _check_promise(path, promised)
        return path

    def find(self, filename: str, most_bytes: int | None = None) -> Path | None:
        """Fetch a file, or return None if it does not exist; the cache remembers that."""
        import huggingface_hub

        try:
            return self.fetch(filename, most_bytes)
        except errors.WeightsNotFound as error:
            if isinstance(error.__cause__, huggingface_hub.errors.RemoteEntryNotFoundError):
                return None
            raise
        except errors.WeightsOffline:
            cached = huggingface_hub.try_to_load_from_cache(
                self.name, filename, revision=self.revision
            )
            # Neither None (unknown) nor a path: known to be absent.
            if cached is not None and not isinstance(cached, str):
                return None
            raise

    def filenames(self) -> list[str]:
        """Return the names of its files; offline, of those in the cache."""
        import huggingface_hub

        try:
            with in_words(self, "list of files"):
                return huggingface_hub.list_repo_files(self.name, revision=self.revision)
        except errors.WeightsOffline as offline:
            try:
                folder = huggingface_hub.snapshot_download(
                    self.name, revision=self.revision, local_files_only=True
                )
            except huggingface_hub.errors.LocalEntryNotFoundError:
                raise offline from offline.__cause__
            return sorted(path.name for path in Path(folder).iterdir())

    def branch(self) -> Path:
        """Return the file in which the client keeps the commit of its revision, for a branch."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        folder = repo_folder_name(repo_id=self.name, repo_type="model")
        return Path(constants.HF_HUB_CACHE, folder, "refs", self.revision)


@contextlib.contextmanager
def earlier_version_kept(source) -> Iterator[None]:
    """Restore the earlier version in the cache if the block fails.

    A branch points to its earlier commit again, and files downloaded in the block are removed if
    they are damaged or unsafe.
    """
    branch = source.branch()
    before = branch.read_text(encoding="utf-8") if branch is not None and branch.is_file() else None
    token = _downloads.set([])
    try:
        yield
    except BaseException as error:
        if isinstance(error, errors.CorruptWeights | errors.UnsafeWeights | errors.InvalidConfig):
            for path in _downloads.get():
                _discard(path)
        if before is not None:
            with contextlib.suppress(OSError):
                atomic.write_text(branch, before)
        raise
    finally:
        _downloads.reset(token)


def note_download(path: Path) -> None:
    """Tell ``earlier_version_kept`` about a file that was not in the cache before."""
    if (downloads := _downloads.get()) is not None:
        downloads.append(path)


def _discard(path: Path) -> None:
    """Remove a file from the hub's cache, and its link target unless other files link to it."""
    target = path.resolve()
    path.unlink(missing_ok=True)
    if target.parent.name != "blobs":
        return
    others = (target.parent.parent / "snapshots").rglob("*")
    if not any(other.is_symlink() and other.resolve() == target for other in others):
        target.unlink(missing_ok=True)


def _promised(repository: HubRepository, filename: str, most_bytes: int | None, is_cached: bool):
    """Return the hub's metadata of a file before it is fetched; None if the hub cannot be asked.

    The client builds paths from the hub's answer, so an answer that is not a plain name is refused.
    """
    import huggingface_hub
    from huggingface_hub import constants

    url = huggingface_hub.hf_hub_url(
        repository.name, filename, repo_type=repository.kind, revision=repository.revision
    )
    try:
        metadata = huggingface_hub.get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:
        if not is_cached:
            if is_unconnected(error):
                raise
            _check_patience(error, repository)
        # The client meets the same error again, and knows when its cache will do instead.
        return None
    for name, value in (("ETag", metadata.etag), ("X-Repo-Commit", metadata.commit_hash)):
        if value is not None and (not _PLAIN.fullmatch(value) or value.strip(".") == ""):
            raise errors.UnsafeWeights(
                f"The answer for {filename} of {repository.name} is not one that a hub gives: its "
                f"{name} is {printable(value)!r}. Nothing was fetched. Check HF_ENDPOINT "
                f"({constants.ENDPOINT}) and the network's proxy."
            )
    if most_bytes is not None and (metadata.size or 0) > most_bytes:
        raise errors.CorruptWeights(
            f"{filename} of {repository.name} must have {most_bytes} bytes at most. Received: "
            f"{metadata.size} bytes. Nothing was fetched."
        )
    return metadata


def _check_patience(error: Exception, repository: HubRepository) -> None:
    """Refuse a long wait: the client would wait as long as the hub asks, even for days."""
    response = getattr(error, "response", None)
    seconds = response.headers.get("Retry-After", "") if response is not None else ""
    if seconds.isdigit() and int(seconds) > LONGEST_WAIT:
        raise errors.WeightsOffline(
            f"The hub asks to wait {seconds[:12]} seconds before {repository.name} is fetched: too "
            "many requests, or maintenance. Try again later; logging in (`hf auth login`) raises "
            "the limits."
        ) from error


def _check_promise(path: Path, promised) -> None:
    """Compare a fresh download with its SHA-256, which is the hub's ETag for weights.

    For small files the ETag is git's hash; those are never trusted anyway.
    """
    etag = (promised.etag if promised is not None else None) or ""
    if not re.fullmatch("[0-9a-f]{64}", etag) or (found := file_sha256(path)) == etag:
        return
    _discard(path)
    raise errors.ChecksumMismatch(
        f"The download of {path.name} is not the file that the hub describes: its SHA-256 is "
        f"{found}, expected {etag}. It was not kept. Load again; if that does not help, a proxy or "
        "a mirror changes the files it passes on."
    )
