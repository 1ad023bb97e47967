"""Fine-tuning of a pretrained network on a folder of pictures or a data set.

Keras and its backend are imported on first use.
"""

import importlib

_HOMES = {"FineTuneResult": "fine_tune", "evaluate": "evaluation", "finetune": "fine_tune"}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
