"""Writing to the hub: what is there before, one commit, and nothing left of one that fails."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from nf_zoo.hub.errors import (
    PublishingFailed,
    WeightsAccessDenied,
    WeightsError,
)
from nf_zoo.hub.repository import HubRepository, explain

_EMPTY = {".gitattributes"}


@dataclasses.dataclass(frozen=True)
class Remote:
    """What is on the hub before.

    Attributes:
        exists: whether there is a repository.
        private: whether it is private.
        head: the branch's commit; None without a repository, or without that branch of it.
        files: of that commit.
    """

    exists: bool = False
    private: bool = False
    head: str | None = None
    files: tuple[str, ...] = ()


def look_at(target: HubRepository) -> Remote:
    """What the hub has now. Raises as `fetch_file`."""
    import huggingface_hub
    from huggingface_hub import errors as hub

    api = huggingface_hub.HfApi()
    try:
        try:
            info = api.model_info(target.name, revision=target.revision)
        except hub.RevisionNotFoundError:
            info = api.model_info(target.name)
            return Remote(exists=True, private=bool(info.private))
        except hub.RepositoryNotFoundError:
            return Remote()
    except Exception as error:
        raise (explain(error, target, "description") or error) from error
    files = tuple(sibling.rfilename for sibling in info.siblings or ())
    return Remote(True, bool(info.private), info.sha, files)


def download(target: HubRepository, remote: Remote, filename: str, scratch: Path) -> Path:
    """A file as it is on the hub now, not kept."""
    import huggingface_hub

    try:
        path = huggingface_hub.hf_hub_download(
            target.name, filename, revision=remote.head, cache_dir=scratch / "cache"
        )
    except Exception as error:
        raise (explain(error, target, filename) or error) from error
    return Path(path)


def upload(
    target: HubRepository,
    folder: Path,
    names: Iterable[str],
    removed: Iterable[str],
    remote: Remote,
    private: bool,
) -> str:
    """Put files into a repository in one commit; whatever fails is undone.

    Args:
        target: Where; made if `remote` says that it is not there, its branch too.
        folder: Where the files are.
        names: Which, relative to the folder and in the repository.
        removed: Files of the repository that go.
        remote: What `look_at` found; if something else is there by now, nothing is written.
        private: Whether a repository that is made is private.

    Returns:
        The commit's hash.

    Raises:
        WeightsAccessDenied: without the right to write there.
        PublishingFailed: for everything else.
    """
    import huggingface_hub
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = huggingface_hub.HfApi(library_name="nf_zoo")
    operations = [
        *(CommitOperationAdd(name, str(folder / name)) for name in names),
        *(CommitOperationDelete(name) for name in removed),
    ]
    with _undone_on_failure(target, remote) as undo:
        if not remote.exists:
            api.create_repo(target.name, private=private)
            undo.callback(_delete_if_empty, api, target)
        head = remote.head
        if head is None:
            head = api.model_info(target.name).sha
            if target.revision != "main":
                api.create_branch(target.name, branch=target.revision)
                undo.callback(api.delete_branch, target.name, branch=target.revision)
        done = api.create_commit(
            target.name,
            operations,
            commit_message="Published with nf_zoo",
            revision=target.revision,
            parent_commit=head,
        )
        return done.oid


@contextlib.contextmanager
def _undone_on_failure(target: HubRepository, remote: Remote) -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as undo:
        try:
            yield undo
        except Exception as error:
            with contextlib.suppress(Exception):
                undo.close()
            raise _explain_upload(error, target, _what_is_left(target, remote)) from error
        except BaseException:
            with contextlib.suppress(Exception):
                undo.close()
            raise
        undo.pop_all()


def _delete_if_empty(api, target: HubRepository) -> None:
    """Remove a repository made a moment ago, if nobody has put anything into it."""
    if set(api.list_repo_files(target.name)) <= _EMPTY:
        api.delete_repo(target.name)


def _what_is_left(target: HubRepository, remote: Remote) -> str:
    """What a failed upload changed: an answer that got lost is no proof that nothing did."""
    import huggingface_hub
    from huggingface_hub import errors as hub

    try:
        now = huggingface_hub.HfApi().model_info(target.name, revision=target.revision).sha
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError):
        now = None
    except Exception:
        return "could not be looked at afterwards"
    return "is as it was" if now == remote.head else "may have changed: look at its page"


def _explain_upload(error: Exception, target: HubRepository, rest: str) -> WeightsError:
    import huggingface_hub

    said = str(error).strip()
    if token := huggingface_hub.get_token():
        said = said.replace(token, "(token)")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return WeightsAccessDenied(
            f"The hub does not let this user write to {target.name}: the token must have the "
            f"permission to write there (`hf auth login`). {target.name} {rest}. The hub says: "
            f"{said}"
        )
    return PublishingFailed(
        f"The upload to {target} failed; {target.name} {rest}. Publish again when the cause is "
        f"mended: {said}"
    )
