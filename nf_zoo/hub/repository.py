"""The Hugging Face Hub and the hub client's cache; files from elsewhere on the web.

The client does the transport: connections, retries, resuming, locks, the cache. What is added here
is suspicion: the hub's answer is looked at before a file is fetched, a file is held against the
checksum that the hub gives for it, a load that fails leaves the version that was in the cache
before it in use, and the client's errors become ours, with the cause and the remedy.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from nf_zoo import atomic
from nf_zoo.hub.catalog import read_catalog
from nf_zoo.hub.checkpoint import INDEX_FILE, WEIGHTS_FILE, file_sha256
from nf_zoo.hub.description import CONFIG_FILE, is_keras_config
from nf_zoo.hub.errors import (
    CacheNotWritable,
    ChecksumMismatch,
    CorruptWeights,
    InvalidConfig,
    UnknownWeights,
    UnsafeWeights,
    WeightsAccessDenied,
    WeightsError,
    WeightsNotFound,
    WeightsOffline,
    first_few,
    printable,
)
from nf_zoo.hub.untrusted import arrays, keras_files
from nf_zoo.hub.untrusted.documents import MOST_BYTES
from nf_zoo.hub.untrusted.headers import pickle_remedy, read_index

HUB = "hf://"
LONGEST_WAIT = 120
MODEL_SUFFIXES = (keras_files.SUFFIX, *arrays.SUFFIXES)
_REPOSITORY = re.compile(r"(?=.{3,96}$)\w([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII)
_REVISION = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PLAIN = re.compile(r"[\w.-]{1,128}", re.ASCII)
_CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""Numbers of the errors of a disk that is full, or closed to this user."""
_downloads: contextvars.ContextVar[list[Path] | None] = contextvars.ContextVar(
    "downloads", default=None
)


@dataclasses.dataclass(frozen=True)
class HubRepository:
    """A repository of the Hugging Face Hub at a revision; one of the `sources` of weights."""

    name: str
    revision: str = "main"

    record = sha256 = None

    @classmethod
    def parse(cls, uri: str) -> HubRepository:
        """Read "hf://owner/name[@revision]".

        Raises:
            UnknownWeights: if the text is not of that form.
        """
        name, at, revision = uri.removeprefix(HUB).partition("@")
        is_sound = _REPOSITORY.fullmatch(name) and (_REVISION.fullmatch(revision) or not at)
        if not uri.startswith(HUB) or not is_sound or ".." in uri or "--" in name:
            raise UnknownWeights(
                f"A hub repository is written hf://owner/name or hf://owner/name@revision. "
                f"Received: {uri!r}"
            )
        return cls(name, revision or "main")

    def __str__(self) -> str:
        return f"{HUB}{self.name}@{self.revision}"

    @property
    def tag(self) -> str:
        """What a model remembers of where its weights are from."""
        return self.name

    def at_commit_of(self, path: Path) -> HubRepository:
        """Return the same repository at the commit that a cached file of it belongs to.

        What is fetched next then belongs to the same version, whatever is published meanwhile.
        """
        commit = path.parent.name
        if not _COMMIT.fullmatch(commit):
            return self
        return dataclasses.replace(self, revision=commit)

    def pinned(self) -> HubRepository:
        """Return the repository at the commit its revision stands for now. Raises as `fetch`."""
        path = self.description()
        return self if path is None else self.at_commit_of(path)

    def description(self) -> Path | None:
        """Return its config.json, if it has one. Raises as `fetch`."""
        return self.find(CONFIG_FILE, MOST_BYTES)

    def weights(self) -> Path:
        """Return its weights file, or the index of several, with them. Raises as `fetch`."""
        if (path := self.find(WEIGHTS_FILE)) is not None:
            return path
        if (index := self.find(INDEX_FILE, MOST_BYTES)) is None:
            return self.fetch(WEIGHTS_FILE)
        version = self.at_commit_of(index)
        for name in dict.fromkeys(read_index(index).values()):
            version.fetch(name)
        return index

    def files(self) -> list[Path]:
        """Return all that a load of it needs, its weights last. Raises as `fetch`."""
        config = self.description()
        if config is None:
            files, version = [], self
        else:
            files, version = [config], self.at_commit_of(config)
            if is_keras_config(config):
                return [version.fetch(name) for name in keras_files.PARTS]
        try:
            return [*files, version.weights()]
        except WeightsNotFound:
            if (name := version.model_file()) is None:
                raise
            return [*files, version.fetch(name)]

    def model_file(self) -> str | None:
        """Return the name of its one .keras file or .npz of DeepMind's; None if there are more."""
        names = [n for n in self.filenames() if n.endswith(MODEL_SUFFIXES) and "/" not in n]
        return names[0] if len(names) == 1 else None

    def fetch(self, filename: str, most_bytes: int | None = None) -> Path:
        """Return one file, from the cache or over the network.

        HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and the access token are huggingface_hub's affair.

        Args:
            filename: Which.
            most_bytes: The size beyond which it is not fetched; None for any.

        Raises:
            WeightsNotFound, WeightsAccessDenied, WeightsOffline: as they say.
            CacheNotWritable: if the disk is full or closed.
            ChecksumMismatch: if what came is not what the hub describes; it is not kept.
            UnsafeWeights: if the hub's answer would lead outside the cache.
        """
        import huggingface_hub

        where = {"repo_id": self.name, "filename": filename, "revision": self.revision}
        with in_words(self, filename):
            cached = huggingface_hub.try_to_load_from_cache(**where)
            if _COMMIT.fullmatch(self.revision) and isinstance(cached, str):
                return Path(cached)
            promised = _promised(self, filename, most_bytes, isinstance(cached, str))
            path = Path(huggingface_hub.hf_hub_download(**where))
        if str(path) != cached:
            _note_download(path)
            _check_promise(path, promised)
        return path

    def find(self, filename: str, most_bytes: int | None = None) -> Path | None:
        """As `fetch`, but None if there is no such file; the cache remembers that."""
        import huggingface_hub

        try:
            return self.fetch(filename, most_bytes)
        except WeightsNotFound as error:
            if isinstance(error.__cause__, huggingface_hub.errors.RemoteEntryNotFoundError):
                return None
            raise
        except WeightsOffline:
            cached = huggingface_hub.try_to_load_from_cache(
                self.name, filename, revision=self.revision
            )
            # Neither None (not known) nor a path: known to be absent.
            if cached is not None and not isinstance(cached, str):
                return None
            raise

    def filenames(self) -> list[str]:
        """Return the names of its files; without a network, of those in the cache.

        Raises:
            WeightsError: as `fetch`.
        """
        import huggingface_hub

        try:
            with in_words(self, "list of files"):
                return huggingface_hub.list_repo_files(self.name, revision=self.revision)
        except WeightsOffline as offline:
            try:
                folder = huggingface_hub.snapshot_download(
                    self.name, revision=self.revision, local_files_only=True
                )
            except huggingface_hub.errors.LocalEntryNotFoundError:
                raise offline from offline.__cause__
            return sorted(path.name for path in Path(folder).iterdir())

    def branch(self) -> Path:
        """Return the file in which the client keeps the commit of its revision, if a branch."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        folder = repo_folder_name(repo_id=self.name, repo_type="model")
        return Path(constants.HF_HUB_CACHE, folder, "refs", self.revision)


@contextlib.contextmanager
def earlier_version_kept(source) -> Iterator[None]:
    """If what happens inside fails, the cache answers afterwards as it did before.

    A branch points again to the commit it pointed to in the cache, and files that came inside and
    are damaged or unsafe are removed.

    Args:
        source: One of `sources`.
    """
    branch = source.branch()
    before = branch.read_text() if branch is not None and branch.is_file() else None
    token = _downloads.set([])
    try:
        yield
    except BaseException as error:
        if isinstance(error, CorruptWeights | UnsafeWeights | InvalidConfig):
            for path in _downloads.get():
                _discard(path)
        if before is not None:
            with contextlib.suppress(OSError):
                atomic.write_text(branch, before)
        raise
    finally:
        _downloads.reset(token)


def _note_download(path: Path) -> None:
    """Tell `earlier_version_kept` of a file that was not in the cache before."""
    if (downloads := _downloads.get()) is not None:
        downloads.append(path)


def _discard(path: Path) -> None:
    """Remove a file from the hub's cache, and what it is a link to unless others are too."""
    target = path.resolve()
    path.unlink(missing_ok=True)
    if target.parent.name != "blobs":
        return
    others = (target.parent.parent / "snapshots").rglob("*")
    if not any(other.is_symlink() and other.resolve() == target for other in others):
        target.unlink(missing_ok=True)


def fetch_url(url: str, filename: str) -> Path:
    """Return the local path of a file on the web, downloaded once.

    It is kept among the hub client's assets (HF_HOME, HF_ASSETS_CACHE) and appears there whole; a
    download that breaks off is resumed by the next call. HF_HUB_OFFLINE is respected.

    Args:
        url: Its address.
        filename: What to call it.

    Raises:
        WeightsOffline: if it is not there yet and cannot be fetched; says how to do without.
        WeightsNotFound: if the server has no such file.
        CacheNotWritable: if the disk is full or closed.
    """
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.utils import WeakFileLock

    folder = huggingface_hub.cached_assets_path(
        "nf_zoo", subfolder="weights", assets_dir=constants.HF_ASSETS_CACHE
    )
    path = folder / filename
    if path.is_file():
        return path
    if constants.HF_HUB_OFFLINE:
        raise WeightsOffline(_advice(url, path, "HF_HUB_OFFLINE is set"))
    with WeakFileLock(path.with_name(f".{filename}.lock")):
        # Another process may have fetched it while this one waited.
        if not path.is_file():
            _download(url, path)
            _note_download(path)
    return path


def _download(url: str, path: Path) -> None:
    from huggingface_hub.file_download import http_get

    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "ab") as file:
            http_get(url, file, resume_size=file.tell())
    except Exception as error:
        # The client's errors are OSErrors or those of the HTTP library it is built on.
        if not isinstance(error, OSError) and not type(error).__module__.startswith("httpx"):
            raise
        if isinstance(error, OSError) and error.errno in _CLOSED:
            partial.unlink(missing_ok=True)
            raise _not_writable(error, path.name, str(path.parent)) from error
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 416:
            # What the server has nothing to add to is not what it has: from the start next time.
            partial.unlink(missing_ok=True)
        if status in (403, 404, 410):
            raise WeightsNotFound(
                _advice(url, path, f"the server does not have it (any more): {error}")
            ) from error
        cause = f"the download failed ({error}); load again to resume it"
        raise WeightsOffline(_advice(url, path, cause)) from error
    os.replace(partial, path)


def _advice(url: str, path: Path, cause: str) -> str:
    return (
        f"{path.name} is not in the cache ({path.parent}), and {cause}. Or fetch {url} by other "
        f"means and pass the file, pretrained='path/to/{path.name}'."
    )


def _promised(repository: HubRepository, filename: str, most_bytes: int | None, is_cached: bool):
    """What the hub says of a file before it is fetched; None if it cannot be asked.

    The client makes paths of what the hub answers, so an answer that is no name ends here.
    """
    import huggingface_hub
    from huggingface_hub import constants

    url = huggingface_hub.hf_hub_url(repository.name, filename, revision=repository.revision)
    try:
        metadata = huggingface_hub.get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:
        if not is_cached:
            _check_patience(error, repository)
        # The client meets the same again, and knows when its cache will do instead.
        return None
    for name, value in (("ETag", metadata.etag), ("X-Repo-Commit", metadata.commit_hash)):
        if value is not None and (not _PLAIN.fullmatch(value) or value.strip(".") == ""):
            raise UnsafeWeights(
                f"The hub's answer for {filename} of {repository.name} is no answer of a hub: its "
                f"{name} is {printable(value)!r}. Nothing was fetched. Check HF_ENDPOINT "
                f"({constants.ENDPOINT}) and the network's proxy."
            )
    if most_bytes is not None and (metadata.size or 0) > most_bytes:
        raise CorruptWeights(
            f"{filename} of {repository.name} is {metadata.size} bytes, {most_bytes} at most: that "
            "is no such file. Nothing was fetched."
        )
    return metadata


def _check_patience(error: Exception, repository: HubRepository) -> None:
    """The client waits as long as it is told to before it asks again, days if need be."""
    response = getattr(error, "response", None)
    seconds = response.headers.get("Retry-After", "") if response is not None else ""
    if seconds.isdigit() and int(seconds) > LONGEST_WAIT:
        raise WeightsOffline(
            f"The hub asks to wait {seconds[:12]} seconds before {repository.name} is fetched: too "
            "many requests, or maintenance. Try again later; logging in (`hf auth login`) raises "
            "the limits."
        ) from error


def _check_promise(path: Path, promised) -> None:
    """Hold a fresh download against its SHA-256, which is what the hub gives as ETag of weights.

    Of small files it gives git's hash; those are read with suspicion anyway.
    """
    etag = (promised.etag if promised is not None else None) or ""
    if not re.fullmatch("[0-9a-f]{64}", etag) or (found := file_sha256(path)) == etag:
        return
    _discard(path)
    raise ChecksumMismatch(
        f"What came as {path.name} is not what the hub describes: its SHA-256 is {found}, "
        f"expected {etag}. It was not kept. Load again; if that does not help, a proxy or a mirror "
        "changes what it passes on."
    )


@contextlib.contextmanager
def in_words(repository: HubRepository, filename: str) -> Iterator[None]:
    """Turn what the hub client raises inside into our errors; others pass as they are.

    Args:
        repository: What is asked for.
        filename: The file that is asked for, or what else it is.
    """
    try:
        yield
    except Exception as error:
        explained = _explain(error, repository, filename)
        if explained is None or explained is error:
            raise
        raise explained from error


def _explain(error: Exception, repository: HubRepository, filename: str) -> WeightsError | None:
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    if isinstance(error, WeightsError):
        return error
    where = f"{repository.name} (revision {repository.revision})"
    refused = _is_refusal(error) or _is_refusal(error.__cause__)
    if isinstance(error, hub.GatedRepoError) or refused:
        return WeightsAccessDenied(
            f"The hub refuses access to {repository.name}: it does not exist, is private, or its "
            f"conditions must be accepted first. Check the name, log in with `hf auth login`, and "
            f"visit the repository's page. The hub says: {error.__cause__ or error}"
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return WeightsNotFound(
            f"{repository.name} has no revision {repository.revision!r}: leave '@revision' out for "
            "'main', or name an existing branch, tag or commit."
        )
    if isinstance(error, hub.RepositoryNotFoundError | hub.HFValidationError):
        return WeightsNotFound(
            f"There is no repository {repository.name} on the hub: check its name."
        )
    if isinstance(error, hub.LocalEntryNotFoundError):
        return _offline(error, where, filename)
    if isinstance(error, hub.EntryNotFoundError):
        remedy = ""
        if filename.endswith(".safetensors"):
            remedy = (
                " nf_zoo reads safetensors only; older repositories may hold just a pickle, which "
                f"must be converted first. {pickle_remedy('pytorch_model.bin')}"
            )
        return WeightsNotFound(f"{where} holds no {filename}.{remedy}")
    if isinstance(error, OSError) and error.errno in _CLOSED:
        return _not_writable(error, filename, constants.HF_HUB_CACHE)
    if isinstance(error, ValueError):
        return UnsafeWeights(
            f"The hub's answer for {filename} of {where} is refused by its client: "
            f"{printable(error)}. Check HF_ENDPOINT and the network's proxy."
        )
    if isinstance(error, OSError) or type(error).__module__.startswith("httpx"):
        return WeightsOffline(
            f"The download of {filename} from {where} broke off: {error}. Load again to resume it."
        )
    return None


def _not_writable(error: OSError, filename: str, cache: str) -> CacheNotWritable:
    return CacheNotWritable(
        f"{filename} cannot be written to the cache ({cache}): {error.strerror}. Nothing of it was "
        "kept. Make room, or set HF_HOME to a disk that has some."
    )


def _offline(error: Exception, where: str, filename: str) -> WeightsOffline:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        cause = "HF_HUB_OFFLINE is set"
    else:
        cause = f"the hub at {constants.ENDPOINT} cannot be reached ({error.__cause__ or error})"
    shipped = [record.name for record in read_catalog() if record.source == "shipped"]
    return WeightsOffline(
        f"{filename} of {where} is not in the cache ({constants.HF_HUB_CACHE}), and {cause}. "
        "Either connect to the network (unset HF_HUB_OFFLINE, or point HF_ENDPOINT at a mirror); "
        "or set HF_HOME to a cache that holds the file; or pass a file you have, "
        "pretrained='path/to/model.safetensors'; or use weights that come with nf_zoo: "
        f"{first_few(shipped) or 'none in this version'}."
    )


def _is_refusal(error: BaseException | None) -> bool:
    """Whether the answer is about the user; of a private repository it is that there is none."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return status == 401 or (status == 403 and not response.headers.get("X-Error-Code"))
