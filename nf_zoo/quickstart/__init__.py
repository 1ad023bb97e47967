"""Everything once, on a CPU in about two minutes: fine-tune, compare, export, serve."""

from nf_zoo.quickstart.run import quickstart

__all__ = ["quickstart"]
