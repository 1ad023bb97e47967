"""Errors of the hub's client in our words: the cause, and the remedy."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from nf_zoo.hub import errors
from nf_zoo.hub.catalog import read_catalog
from nf_zoo.hub.errors import first_few, printable
from nf_zoo.hub.untrusted.headers import pickle_remedy

CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""Error numbers of a disk that is full, or that this user may not write to."""


@contextlib.contextmanager
def in_words(repository, filename: str) -> Iterator[None]:
    """Turn the hub client's errors in the block into ours; let others pass unchanged."""
    try:
        yield
    except Exception as error:
        explained = _explain(error, repository, filename)
        if explained is None or explained is error:
            raise
        raise explained from error


def _explain(error: Exception, repository, filename: str) -> errors.WeightsError | None:
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    if isinstance(error, errors.WeightsError):
        return error
    where = f"{repository.name} (revision {repository.revision})"
    refused = _is_refusal(error) or _is_refusal(error.__cause__)
    if isinstance(error, hub.GatedRepoError) or refused:
        return errors.WeightsAccessDenied(
            f"The hub refuses access to {repository.name}: it does not exist, is private, or its "
            f"conditions must be accepted first. Check the name, log in with `hf auth login`, and "
            f"visit the repository's page. The hub says: {error.__cause__ or error}"
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return errors.WeightsNotFound(
            f"{repository.name} has no revision {repository.revision!r}: leave '@revision' out for "
            "'main', or name an existing branch, tag or commit."
        )
    if isinstance(error, hub.RepositoryNotFoundError | hub.HFValidationError):
        return errors.WeightsNotFound(
            f"There is no repository {repository.name} on the hub: check its name."
        )
    if isinstance(error, hub.OfflineModeIsEnabled):
        return errors.WeightsOffline(
            f"{repository.name} cannot be asked for on the hub, since HF_HUB_OFFLINE is set. Unset "
            "it, and connect to the network."
        )
    if isinstance(error, hub.LocalEntryNotFoundError) or is_unconnected(error):
        return _offline(error, where, filename)
    if isinstance(error, hub.EntryNotFoundError):
        remedy = ""
        if filename.endswith(".safetensors"):
            remedy = (
                " nf_zoo reads safetensors only; older repositories may hold just a pickle, which "
                f"must be converted first. {pickle_remedy('pytorch_model.bin')}"
            )
        return errors.WeightsNotFound(f"{where} holds no {filename}.{remedy}")
    if isinstance(error, OSError) and error.errno in CLOSED:
        return not_writable(error, filename, constants.HF_HUB_CACHE)
    if isinstance(error, ValueError):
        return errors.UnsafeWeights(
            f"The hub client refuses the hub's answer for {filename} of {where}: "
            f"{printable(error)}. Check HF_ENDPOINT and the network's proxy."
        )
    if isinstance(error, OSError) or type(error).__module__.startswith("httpx"):
        return errors.WeightsOffline(
            f"The download of {filename} from {where} was interrupted: {error}. Load again to "
            "resume it."
        )
    return None


def not_writable(error: OSError, filename: str, cache: str) -> errors.CacheNotWritable:
    return errors.CacheNotWritable(
        f"{filename} cannot be written to the cache ({cache}): {error.strerror}. No part of it was "
        "kept. Free some space, or set HF_HOME to a folder with room that you may write to."
    )


def _offline(error: Exception, where: str, filename: str) -> errors.WeightsOffline:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        cause = "HF_HUB_OFFLINE is set"
    else:
        cause = f"the hub at {constants.ENDPOINT} cannot be reached ({error.__cause__ or error})"
    return errors.WeightsOffline(
        f"{filename} of {where} is not in the cache ({constants.HF_HUB_CACHE}), and {cause}. "
        "Connect to the network (unset HF_HUB_OFFLINE, or point HF_ENDPOINT at a mirror), or set "
        "HF_HOME to a cache that holds the file.",
        "Or use weights that come with nf_zoo, as in nf_zoo.create_model('NAME'): "
        f"{shipped_names()}. Or pass a file you have, pretrained='path/to/model.safetensors'.",
    )


def is_unconnected(error: BaseException) -> bool:
    """Return True if no connection was made: another attempt, which takes long, would fail too."""
    return type(error).__name__ in ("ConnectError", "ConnectTimeout")


def shipped_names() -> str:
    """Return the names of weights that need no network, those that know most classes first."""
    shipped = [record for record in read_catalog() if record.source == "shipped"]
    shipped.sort(key=lambda record: (-record.num_classes, not record.default, -(record.top1 or 0)))
    return first_few([record.name for record in shipped]) or "none in this version"


def _is_refusal(error: BaseException | None) -> bool:
    """Check that the hub refuses the user; it reports a private repository as nonexistent."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return status == 401 or (status == 403 and not response.headers.get("X-Error-Code"))
