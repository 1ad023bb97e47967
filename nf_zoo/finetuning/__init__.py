"""Fine-tuning: a folder of pictures, or a data set, and a pretrained network in; a fitted one out.

TensorFlow is imported on first use, and needed for ``finetune`` alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nf_zoo.finetuning.evaluation import evaluate
    from nf_zoo.finetuning.run import FineTuneResult, finetune

__all__ = ["FineTuneResult", "evaluate", "finetune"]

_HOMES = {"FineTuneResult": "run", "evaluate": "evaluation", "finetune": "run"}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
