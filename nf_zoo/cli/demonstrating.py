"""``nf-zoo demo``: a page in the browser to try models on pictures."""

from __future__ import annotations

import signal
from argparse import Namespace

from nf_zoo.cli.output import import_backend
from nf_zoo.demonstration.serving import DemoSettings, demo
from nf_zoo.options import given


def demo_command(args: Namespace) -> int:
    """Serve the page until Ctrl+C."""
    options = given(args, DemoSettings)
    # The checks come before TensorFlow is imported and a network fetched.
    DemoSettings(**options)
    import_backend(args.debug)
    # A page that is told to stop removes what was uploaded, as it does after Ctrl+C.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        demo(args.models, **options)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0
