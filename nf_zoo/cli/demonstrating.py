"""``nf-zoo demo``: a page in the browser to try models on pictures."""

from __future__ import annotations

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
    demo(args.models, **options)
    return 0
