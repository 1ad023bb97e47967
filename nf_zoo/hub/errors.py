"""Errors of weights. Each message names the cause and the remedy.

Every error here is a ``WeightsError``. A load that raises one leaves the model exactly as it was
before the call.
"""

from collections.abc import Sequence

SHOWN = 5
LONGEST = 200


class WeightsError(RuntimeError):
    """Weights could not be found, read, written or fitted to a model.

    Args:
        message: the cause, and the remedy in words that hold everywhere.
        in_python: a remedy in Python, which the command line replaces by one of its own.
    """

    def __init__(self, message: str = "", in_python: str = ""):
        super().__init__(f"{message} {in_python}" if in_python else message)
        self.message = message


class CatalogError(WeightsError):
    """weights/catalog.toml is malformed: the mistake is in the catalog, not in the call."""


class UnknownWeights(WeightsError, ValueError):
    """No weights of that name are published, or none at all for the architecture."""


class WeightsNotFound(WeightsError):
    """The repository, revision, file or folder does not exist."""


class WeightsAccessDenied(WeightsNotFound):
    """The repository is private or gated and the hub refused this user."""


class WeightsOffline(WeightsError):
    """The hub cannot be reached and the file is not in the local cache."""


class CacheNotWritable(WeightsError):
    """The local cache cannot be written: the disk is full, or this user may not write there."""


class CorruptWeights(WeightsError):
    """The file is truncated or damaged, or is not a file of its format at all."""


class ChecksumMismatch(CorruptWeights):
    """The file's SHA-256 differs from the published one."""


class UnsafeWeights(WeightsError):
    """Loading would run code (a pickle) or reach files outside the folder."""


class WeightsMismatch(WeightsError):
    """The file is sound, but its tensors are not those of the model."""


class InvalidConfig(WeightsError, ValueError):
    """config.json does not describe a model that can be built."""


class RepositoryTaken(WeightsError):
    """The repository holds something else, or is public where a private one is asked for."""


class PublishingFailed(WeightsError):
    """The upload failed; the message says what is in the repository now."""


def first_few(items: Sequence[str]) -> str:
    """Shorten a long list to 'a, b, c and 4 more', for messages."""
    text = ", ".join(map(printable, items[:SHOWN]))
    more = len(items) - SHOWN
    return f"{text} and {more} more" if more > 0 else text


def printable(value: object, longest: int = LONGEST) -> str:
    """Return a file's text in a form that neither fills a terminal nor controls it."""
    text = str(value)
    text = text if len(text) <= longest else f"{text[:longest]}..."
    return text if text.isprintable() else ascii(text)
