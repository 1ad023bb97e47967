"""The hub client's errors in our words: the cause and the remedy."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from nf_zoo.hub.catalog import read_catalog
from nf_zoo.hub.diagnosis import pickle_remedy
from nf_zoo.hub.errors import (
    CacheNotWritable,
    UnsafeWeights,
    WeightsAccessDenied,
    WeightsError,
    WeightsNotFound,
    WeightsOffline,
    first_few,
    printable,
)

if TYPE_CHECKING:
    from nf_zoo.hub.repository import HubRepository

CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""Numbers of the errors of a disk that is full, or closed to this user."""


def explain(error: Exception, repository: HubRepository, filename: str) -> WeightsError | None:
    """A hub client's error in our words.

    Args:
        error: What the client raised.
        repository: What was asked for.
        filename: The file that was asked for, or what else it was.

    Returns:
        One of our exceptions, to be raised from `error`; None if it is none of the client's.
    """
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
    if isinstance(error, OSError) and error.errno in CLOSED:
        return not_writable(error, filename, constants.HF_HUB_CACHE)
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


def not_writable(error: OSError, filename: str, cache: str) -> CacheNotWritable:
    """The error for a file that the disk does not take; `error.errno` is one of CLOSED."""
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
