"""``demo``: the page, served on this machine.

Gradio and Keras are imported late: the command line reads :class:`DemoSettings` to print its help.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import math
import os
import shutil
import socket
import tempfile
from typing import Any

from nf_zoo.extras import require
from nf_zoo.options import Options, number, option, takes, text, whole


@dataclasses.dataclass(frozen=True)
class DemoSettings(Options):
    """The options of :func:`demo`."""

    host: str = option(
        "127.0.0.1", "address to listen on; ``0.0.0.0`` lets other machines in", text("ADDRESS")
    )
    port: int | None = option(
        None,
        "port; the first free one from 7860 by default",
        dataclasses.replace(whole(1, "an integer in [1, 65535]"), accepts=lambda x: 0 < x < 2**16),
    )
    max_size: float = option(
        20.0,
        "largest accepted file, in megabytes",
        number("above 0 and finite", lambda x: 0 < x < math.inf),
    )


@takes(DemoSettings)
def demo(models, *, block: bool = True, settings: DemoSettings) -> Any:
    """Serve a page on which to try models in a browser.

    Pictures are dropped on the page. It shows the five likeliest classes, evidence for the first
    of them (Grad-CAM), and what the network is given after preprocessing, for all models side by
    side. A second tab draws the signal propagation of networks at initialization. The page works
    without a network, sends nothing elsewhere, and runs nothing that is uploaded.

    Args:
        models: a model or several: ImageClassifiers, or what names one for
            :func:`nf_zoo.load_pretrained`, or files and SavedModels that nf_zoo exported, which
            show no heat map.
        block: serve until Ctrl+C; otherwise return at once, as in a notebook.
        {settings}

    Returns:
        The ``gradio.Blocks`` that are served; its ``close()`` stops the page.

    Raises:
        ImportError: without the extra ``demo``.
        ValueError: if there is no model, or one has no classifier; or as ``load_pretrained``.
        OSError: if the port is taken, or the address is not one of this machine.

    Example:
        >>> import nf_zoo
        >>> page = nf_zoo.demo("wide_resnet16_1.cifar10", block=False)  # doctest: +SKIP
        >>> page.local_url  # doctest: +SKIP
        'http://127.0.0.1:7860/'
    """
    host = settings.host.strip("[]")
    _set_up_gradio(host)
    require("gradio", "Demos")
    from nf_zoo.demonstration.page import build_page
    from nf_zoo.demonstration.subjects import Subject

    models = list(models) if isinstance(models, list | tuple) else [models]
    if not models:
        raise ValueError("There must be a model to show. Received: none")
    _check_address(host, settings.port)
    page = build_page([Subject(model) for model in models], settings.max_size)
    page.launch(
        server_name=f"[{host}]" if ":" in host else host,  # an IPv6 address
        server_port=settings.port,
        max_file_size=round(settings.max_size * 2**20),
        **dict.fromkeys(("share", "ssr_mode", "pwa", "mcp_server", "enable_monitoring"), False),
        footer_links=[],
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,
    )
    end = "Ctrl+C" if block else "close()"
    print(f"Open {page.local_url} in a browser; {end} ends it.", flush=True)
    if block:
        page.block_thread()
    return page


def _set_up_gradio(host: str) -> None:
    """Set the environment variables that Gradio reads, some of them when it is imported."""
    # It reports home otherwise, keeps all answers in the browser, never removes what was uploaded,
    # and asks itself, even through a proxy, whether it runs.
    direct = filter(None, os.environ.get("no_proxy", os.environ.get("NO_PROXY", "")).split(","))
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",
        "GRADIO_TEMP_DIR": _scratch(),
        "no_proxy": ",".join(dict.fromkeys([*direct, "localhost", host])),
    }


def _check_address(host: str, port: int | None) -> None:
    """Refuse an address on which nothing can listen; the server would try for minutes."""
    try:
        family, *_, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        raise OSError(
            "The host must be an address of this machine, and the port free. Received: host "
            f"{host}, port {port or 'any'} ({error.strerror})"
        ) from error


@functools.cache
def _scratch() -> str:
    """Return a folder for uploads, which is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="nf_zoo-demo-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
