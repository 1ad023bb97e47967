"""Weights from elsewhere on the web than the Hugging Face Hub, downloaded once."""

from __future__ import annotations

import os
from pathlib import Path

from nf_zoo.hub import errors
from nf_zoo.hub.client_errors import CLOSED, is_unconnected, not_writable, shipped_names
from nf_zoo.hub.repository import note_download


def fetch_url(url: str, filename: str) -> Path:
    """Return the local path of a file on the web, downloaded once.

    It is kept among the hub client's assets (HF_HOME, HF_ASSETS_CACHE) and appears there whole; the
    next call resumes an interrupted download. HF_HUB_OFFLINE is respected.
    """
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.utils import WeakFileLock

    try:
        folder = huggingface_hub.cached_assets_path(
            "nf_zoo", subfolder="weights", assets_dir=constants.HF_ASSETS_CACHE
        )
        path = folder / filename
        if path.is_file():
            return path
        if constants.HF_HUB_OFFLINE:
            raise errors.WeightsOffline(*_advice(url, path, "HF_HUB_OFFLINE is set"))
        with WeakFileLock(path.with_name(f".{filename}.lock")):
            # Another process may have fetched it while this one waited.
            if not path.is_file():
                _download(url, path)
                note_download(path)
        return path
    except OSError as error:
        if error.errno not in CLOSED:
            raise
        raise not_writable(error, filename, constants.HF_ASSETS_CACHE) from error


def _download(url: str, path: Path) -> None:
    from huggingface_hub import constants, get_session
    from huggingface_hub.file_download import http_get

    partial = path.with_name(f".{path.name}.partial")
    try:
        # The client retries a GET without a connection for long, and a HEAD not at all.
        get_session().head(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:
        if is_unconnected(error):
            cause = f"its server cannot be reached ({error})"
            raise errors.WeightsOffline(*_advice(url, path, cause)) from error
    try:
        with open(partial, "ab") as file:
            http_get(url, file, resume_size=file.tell())
    except Exception as error:
        # The client raises OSErrors or errors of its HTTP library.
        if not isinstance(error, OSError) and not type(error).__module__.startswith("httpx"):
            raise
        if isinstance(error, OSError) and error.errno in CLOSED:
            partial.unlink(missing_ok=True)
            raise not_writable(error, path.name, str(path.parent)) from error
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 416:
            # The partial file is not a prefix of the server's file: start over next time.
            partial.unlink(missing_ok=True)
        if status in (403, 404, 410):
            raise errors.WeightsNotFound(
                *_advice(url, path, f"the server does not have it (any longer): {error}")
            ) from error
        cause = f"the download failed ({error}); load again to resume it"
        raise errors.WeightsOffline(*_advice(url, path, cause)) from error
    os.replace(partial, path)


def _advice(url: str, path: Path, cause: str) -> tuple[str, str]:
    """Return the message of an error, and its remedy in Python."""
    return (
        f"{path.name} is not in the cache ({path.parent}), and {cause}. You can also fetch {url} "
        "by other means.",
        f"Then pass the file, pretrained='path/to/{path.name}'. Weights that come with nf_zoo need "
        f"no network: {shipped_names()}.",
    )
