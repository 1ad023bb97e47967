"""Publishing on the Hugging Face Hub: look first, then upload in one commit or not at all."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from nf_zoo.deploy.exporting import LABELS_FILE, PREPROCESSING_FILE
from nf_zoo.hub import errors
from nf_zoo.hub.card import CARD_FILE, CardDetails, is_generated
from nf_zoo.hub.client_errors import in_words
from nf_zoo.hub.description import CONFIG_FILE, read_config
from nf_zoo.hub.errors import first_few
from nf_zoo.hub.folder import (
    MAX_SHARD_SIZE,
    METRICS_FILE,
    SAVED_MODEL,
    check_kind,
    is_ours,
    save_pretrained,
)
from nf_zoo.hub.repository import HUB, HubRepository
from nf_zoo.hub.untrusted.documents import MOST_BYTES
from nf_zoo.models.classifier import ImageClassifier

_WEIGHTS = (".safetensors", ".keras", ".h5", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".msgpack")
_EMPTY = {"model": {".gitattributes"}, "space": {".gitattributes", CARD_FILE}}
"""Kind of a repository -> files of one that is still empty."""


@dataclasses.dataclass(frozen=True)
class Publication:
    """Result of an upload or a dry run.

    Attributes:
        url: page of the repository.
        commit: hash of the new commit; None after a dry run.
        files: path in the repository -> size in bytes.
        removed: files of an earlier version that are removed.
    """

    url: str
    commit: str | None
    files: dict[str, int]
    removed: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Remote:
    """State of the hub before an upload."""

    exists: bool = False
    private: bool = False
    # the branch's commit; None if the repository or the branch does not exist
    head: str | None = None
    # the commit to build on: the branch's, or main's, with which a new branch begins
    base: str | None = None
    files: tuple[str, ...] = ()  # files of ``base``

    def of(self, target: HubRepository) -> HubRepository:
        """Return the repository at ``base``."""
        return dataclasses.replace(target, revision=self.base)


def push_to_hub(
    model: ImageClassifier,
    repository: str,
    *,
    revision: str = "main",
    private: bool = False,
    force: bool = False,
    dry_run: bool = False,
    dtype: str | None = None,
    card: CardDetails | None = None,
    metrics: Mapping[str, Any] | None = None,
    saved_model: bool = False,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    verbose: bool = True,
) -> Publication:
    """Publish a model on the Hugging Face Hub, so that ``load_pretrained`` finds it there.

    The files of ``save_pretrained`` are uploaded in one commit. The repository is created if
    needed. The same commit removes files of an earlier version that are no longer part of the
    model. A README.md written by hand there stays, unless ``card`` is given. The hub client finds
    the token itself (HF_TOKEN, or ``hf auth login``).

    Args:
        model: the model.
        repository: ``"owner/name"``.
        revision: the branch; created from main if it does not exist.
        private: make the repository private if it is created.
        force: replace a model of another architecture, or of another library.
        dry_run: only show what would be uploaded, and the card; write nothing on the hub, which
            need not be reached.
        dtype, metrics, saved_model, max_shard_size: as for ``save_pretrained``.
        card: contents of the model card that the model itself does not know.
        verbose: print the files uploaded, and the address.

    Returns:
        a ``Publication``.

    Raises:
        RepositoryTaken: if there is another model and ``force`` is false; or if ``private`` is true
            and the repository is public.
        WeightsAccessDenied: without a token, or without permission to write there.
        WeightsOffline: if the hub cannot be reached.
        PublishingFailed: if the upload fails; the message says what is in the repository now.
        UnknownWeights: if the name is malformed.
        ValueError: as ``save_pretrained``.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.create_model("nf_resnet26", num_classes=10)
        >>> nf_zoo.push_to_hub(model, "me/my-nf-resnet", dry_run=True)  # doctest: +SKIP
    """
    check_kind(model)
    target = writable(repository, revision, dry_run=dry_run)
    details = dataclasses.replace(card or CardDetails(), repository=target.name)
    remote = look_before(target, private, dry_run, verbose)
    if not force:
        _refuse_another_model(model, target, remote)
    with tempfile.TemporaryDirectory(prefix="nf_zoo-") as scratch:
        folder = save_pretrained(
            model,
            Path(scratch) / "model",
            dtype,
            card=details,
            metrics=metrics,
            saved_model=saved_model,
            max_shard_size=max_shard_size,
        )
        has_card = card is None and CARD_FILE in remote.files
        if has_card and not is_generated(remote.of(target).fetch(CARD_FILE, MOST_BYTES)):
            (folder / CARD_FILE).unlink()
        return publish_folder(target, folder, remote, [CARD_FILE], private, dry_run, verbose)


def writable(
    repository: str, revision: str = "main", kind: str = "model", *, dry_run: bool = False
) -> HubRepository:
    """Return the repository to publish to; refuse a malformed name, or to go without a token."""
    import huggingface_hub

    target = HubRepository.parse(f"{HUB}{repository.removeprefix(HUB)}@{revision}")
    if not dry_run and huggingface_hub.get_token() is None:
        raise errors.WeightsAccessDenied(
            f"Publishing to {target.name} needs an access token with write permission: run "
            "`hf auth login`, or set HF_TOKEN. To see what would be uploaded: dry_run=True."
        )
    return dataclasses.replace(target, kind=kind)


def look_before(target: HubRepository, private: bool, dry_run: bool, verbose: bool) -> Remote:
    """Return the present state of the hub, which a dry run can do without."""
    try:
        remote = look_at(target)
    except errors.WeightsOffline:
        if not dry_run:
            raise
        remote = Remote()
        if verbose:
            print(f"The hub cannot be reached: what {target} holds now is not compared.")
    if private and remote.exists and not remote.private:
        raise errors.RepositoryTaken(
            f"{target.name} is public already: make it private on its settings page first."
        )
    return remote


def publish_folder(
    target: HubRepository,
    folder: Path,
    remote: Remote,
    shown: Sequence[str],
    private: bool,
    dry_run: bool,
    verbose: bool,
) -> Publication:
    """Upload a folder's files, or tell what would be, with the text of those to be ``shown``."""
    plan = _plan(target, folder, remote)
    if verbose:
        print(_in_words(target, plan, remote, dry_run))
    for name in shown if verbose and dry_run else ():
        if name in plan.files:
            print(f"\n{name}:\n\n{(folder / name).read_text(encoding='utf-8')}")
    if dry_run:
        return plan
    commit = _upload(target, folder, plan, remote, private)
    if verbose:
        print(plan.url)
    return dataclasses.replace(plan, commit=commit)


def _refuse_another_model(model, target: HubRepository, remote: Remote) -> None:
    holds = any(name == CONFIG_FILE or name.endswith(_WEIGHTS) for name in remote.files)
    if remote.head is None or not holds:  # main keeps what a new branch replaces
        return
    there = "weights not written by nf_zoo"
    if CONFIG_FILE in remote.files:
        try:
            there = read_config(remote.of(target).fetch(CONFIG_FILE, MOST_BYTES)).architecture
        except errors.InvalidConfig:
            there = "a model of another library"
    if there != model.architecture:
        raise errors.RepositoryTaken(
            f"{target} holds {there}, which a {model.architecture} would replace: choose another "
            "repository or revision, or pass force=True. Nothing was uploaded."
        )


def _plan(target: HubRepository, folder: Path, remote: Remote) -> Publication:
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    texts = (PREPROCESSING_FILE, LABELS_FILE, METRICS_FILE)
    ours = (
        name
        for name in remote.files
        if is_ours(name) or name in texts or name.startswith(f"{SAVED_MODEL}/")
    )
    old = tuple(name for name in ours if name not in files) if target.kind == "model" else ()
    return Publication(target.url, None, files, old)


def _in_words(target: HubRepository, plan: Publication, remote: Remote, dry_run: bool) -> str:
    verb = "Would upload" if dry_run else "Uploading"
    lines = [f"{verb} {len(plan.files)} files, {decimal(sum(plan.files.values()))}, to {target}:"]
    lines += [f"  {decimal(size):>9}  {name}" for name, size in plan.files.items()]
    if plan.removed:
        lines.append(f"  removed: {first_few(plan.removed)}")
    if CARD_FILE in remote.files and CARD_FILE not in plan.files:
        lines.append(f"  kept: {CARD_FILE}, which was written by hand")
    if remote.exists:
        lines.append("  the repository exists" + (" and is private" if remote.private else ""))
    return "\n".join(lines)


def look_at(target: HubRepository) -> Remote:
    """Return the present state of the hub. Raises as ``HubRepository.fetch``."""
    import huggingface_hub
    from huggingface_hub import errors as hub

    api = huggingface_hub.HfApi()
    with in_words(target, "description"):
        try:
            info = api.repo_info(target.name, revision=target.revision, repo_type=target.kind)
            head = info.sha
        except hub.RevisionNotFoundError:
            info, head = api.repo_info(target.name, repo_type=target.kind), None
        except hub.RepositoryNotFoundError:
            return Remote()
    files = tuple(sibling.rfilename for sibling in info.siblings or ())
    return Remote(True, bool(info.private), head, info.sha, files)


def _upload(
    target: HubRepository, folder: Path, plan: Publication, remote: Remote, private: bool
) -> str:
    """Commit the files to the repository; return the commit's hash; undo all on failure."""
    import huggingface_hub
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = huggingface_hub.HfApi(library_name="nf_zoo")
    operations = [
        *(CommitOperationAdd(name, str(folder / name)) for name in plan.files),
        *(CommitOperationDelete(name) for name in plan.removed),
    ]
    undo, kind = contextlib.ExitStack(), {"repo_type": target.kind}
    try:
        if not remote.exists:
            sdk = "gradio" if target.kind == "space" else None
            api.create_repo(target.name, private=private, space_sdk=sdk, **kind)
            undo.callback(_delete_if_empty, api, target)
        base = remote.base or api.repo_info(target.name, **kind).sha
        if remote.head is None and target.revision != "main":
            api.create_branch(target.name, branch=target.revision, revision=base, **kind)
            undo.callback(api.delete_branch, target.name, branch=target.revision, **kind)
        done = api.create_commit(
            target.name,
            operations,
            commit_message="Published with nf_zoo",
            revision=target.revision,
            parent_commit=base,
            **kind,
        )
        return done.oid
    except BaseException as error:
        with contextlib.suppress(Exception):
            undo.close()
        if not isinstance(error, Exception):
            raise
        raise _explain_upload(error, target, _what_is_left(target, remote)) from error


def _delete_if_empty(api, target: HubRepository) -> None:
    """Remove a repository that was just created, if it is still empty."""
    if set(api.list_repo_files(target.name, repo_type=target.kind)) <= _EMPTY[target.kind]:
        api.delete_repo(target.name, repo_type=target.kind)


def _what_is_left(target: HubRepository, remote: Remote) -> str:
    """Say what a failed upload changed; a lost answer does not prove that nothing changed."""
    import huggingface_hub
    from huggingface_hub import errors as hub

    try:
        api, kind = huggingface_hub.HfApi(), {"repo_type": target.kind}
        now = api.repo_info(target.name, revision=target.revision, **kind).sha
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError):
        now = None
    except Exception:
        return "could not be read afterwards"
    return "is unchanged" if now == remote.head else "may have changed: look at its page"


def _explain_upload(error: Exception, target: HubRepository, rest: str) -> errors.WeightsError:
    import huggingface_hub

    said = str(error).strip()
    if token := huggingface_hub.get_token():
        said = said.replace(token, "(token)")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return errors.WeightsAccessDenied(
            f"The hub does not let this user write to {target.name}: the token must have the "
            f"permission to write there (`hf auth login`). {target.name} {rest}. The hub says: "
            f"{said}"
        )
    return errors.PublishingFailed(
        f"The upload to {target} failed; {target.name} {rest}. Fix the cause and publish again: "
        f"{said}"
    )
