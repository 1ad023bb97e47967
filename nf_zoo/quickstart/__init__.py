"""Everything once, on a CPU in about two minutes: fine-tune, compare, export, serve."""

from __future__ import annotations

import dataclasses
import importlib
import os
from typing import Any

from nf_zoo.options import Options, option, whole

__all__ = ["QuickstartSettings", "quickstart"]


@dataclasses.dataclass(frozen=True)
class QuickstartSettings(Options):
    """The options of ``quickstart``, from which its arguments and flags follow."""

    pretrained: bool | str | os.PathLike = option(
        "cifar10", "weights of wide_resnet16_2 to start from, as ``create_model`` takes them"
    )
    epochs: int = option(
        6,
        "passes over the training pictures, for either network. All other settings are the "
        "defaults of ``finetune``, which gives an untrained network a higher learning rate and no "
        "epochs of the classifier alone",
        whole(1),
    )
    training_pictures: int = option(
        30,
        "how many pictures of each digit to learn from. They are the first ones of the data set, "
        "written by other people than the last ones",
        whole(1),
        flag="pictures",
    )
    validation_pictures: int = option(
        10, "how many of each digit to watch the training with. The next ones are taken", whole(1)
    )
    test_pictures: int | None = option(
        None, "how many of each digit to compare the networks on; by default the rest", whole(1)
    )
    seed: int = option(
        0, "decides the order of the pictures, their variations and the initial weights", whole()
    )
    overwrite: bool = option(False, "replace an earlier quickstart in the output folder")


def __getattr__(name: str) -> Any:
    if name != "quickstart":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.run").quickstart
