"""Parameter trees of DeepMind's nfnets code -> our names. Layouts agree: HWIO and (in, out)."""

from __future__ import annotations

import functools
import re

import numpy as np

from nf_zoo.hub.conversion import Assignment, Rule, source_key
from nf_zoo.models.classifier import ImageClassifier, variable_names
from nf_zoo.models.registry import architecture

_BLOCK = r"stage(?P<stage>\d+)/block(?P<block>\d+)/"

_NORM_FREE: list[Rule] = [
    (r"stem/conv", "{root}/~/initial_conv/{leaf}"),
    (r"stem/conv(?P<index>\d)", "{root}/~/stem_conv{index}/{leaf}"),
    (_BLOCK + r"conv(?P<index>\d)", "{root}/~/{module}{count}/~/conv{index}/{leaf}"),
    (_BLOCK + r"shortcut_conv", "{root}/~/{module}{count}/~/conv_shortcut/{leaf}"),
    (_BLOCK + r"skip_gain", "{root}/~/{module}{count}/skip_{leaf}"),
    (_BLOCK + r"attention/reduce", "{root}/~/{module}{count}/~/squeeze_excite/~/linear/{leaf}"),
    (_BLOCK + r"attention/expand", "{root}/~/{module}{count}/~/squeeze_excite/~/linear_1/{leaf}"),
    (r"stem/bias", "{root}/bias1"),
    (r"features_bias", "{root}/bias2"),
    (_BLOCK.removesuffix("/"), "{root}/~/{module}{count}/{leaf}"),
    (r"final_conv", "{root}/~/final_conv/{leaf}"),
    (r"head", "{root}/~/linear/{leaf}"),
]

_RESNET_V2: list[Rule] = [
    (r"stem/conv", "{root}/~/initial_conv/{leaf}"),
    (_BLOCK + r"conv(?P<index>\d)", "{root}/~/{module}{count}/~/conv{index}/{leaf}"),
    (_BLOCK + r"norm(?P<index>\d)", "{root}/~/{module}{count}/~/bn{index}/{leaf}"),
    (_BLOCK + r"shortcut_conv", "{root}/~/{module}{count}/~/conv_shortcut/{leaf}"),
    (r"final_norm", "{root}/~/final_bn/{leaf}"),
    (r"head", "{root}/~/linear/{leaf}"),
]

_MODULES = {
    "nf_resnet": ("NF_ResNet", "nf_res_block"),
    "nf_regnet": ("NF_RegNet", "nf_block"),
    "nfnet": ("NFNet", "nf_block"),
    "skipinit_resnet": ("SkipInit_ResNet", "nf_res_block"),
    "fixup_resnet": ("FixUp_ResNet", "res_block"),
    "resnet": ("ResNet", "res_block_v2"),
}
"""Family -> what the reference calls the network and its blocks."""

FAMILIES = {network: family for family, (network, _) in _MODULES.items()}
"""What the reference calls the network -> family."""

IGNORED_SUFFIXES = ("_ema/hidden", "_ema/counter")
"""Entries of a state tree that evaluation does not read: what the averages are made from."""

_LEAVES = {
    "kernel": "w",
    "bias": "bias",
    "gain": "gain",
    "gamma": "scale",
    "beta": "offset",
    **{f"bias{n}{side}": f"bias{n}{side}" for n in "123" for side in "ab"},
    "scale": "scale",
    "moving_mean": "~/mean_ema/average",
    "moving_variance": "~/var_ema/average",
}


def plan(model: ImageClassifier) -> list[Assignment]:
    """How a tree of DeepMind's code fills ``model``.

    Keys are ``module_path/parameter``; moving averages are the ``average`` of the state.

    Args:
        model: a model built with ``variant="paper"``.

    Returns:
        One :class:`~nf_zoo.hub.conversion.Assignment` per variable, in model order.
    """
    family = architecture(model.architecture).family
    rules = _RESNET_V2 if family == "resnet" else _NORM_FREE
    renumber = functools.partial(_renumbered, family, model.config.depths)
    return [
        Assignment(
            name,
            variable,
            _spelt(family, source_key(name, rules, _LEAVES, renumber)),
            functools.partial(_reshaped, tuple(variable.shape)),
        )
        for name, variable in variable_names(model).items()
    ]


def _renumbered(family: str, depths: tuple[int, ...], parts: dict[str, str]) -> dict:
    """Haiku numbers blocks through all stages (none, _1, _2, ...) and convolutions from 0.

    The second 3x3 convolution of an NFNet block is conv1b there.
    """
    root, module = _MODULES[family]
    names = {"root": root, "module": module}
    if "index" in parts:
        names["index"] = str(int(parts["index"]) - 1)
    if "block" in parts:
        count = sum(depths[: int(parts["stage"]) - 1]) + int(parts["block"]) - 1
        names["count"] = f"_{count}" if count else ""
        if family == "nfnet" and "index" in names:
            names["index"] = {"2": "1b", "3": "2"}.get(names["index"], names["index"])
    return names


def _spelt(family: str, key: str) -> str:
    """Haiku's own layers call their bias b; the standardized convolutions spell it out."""
    own = r"(/linear(_1)?|/conv\w+)" if family == "skipinit_resnet" else r"(/linear(_1)?)"
    return re.sub(own + r"/bias$", r"\1/b", key)


def _reshaped(shape: tuple[int, ...], array: np.ndarray) -> np.ndarray:
    """BN parameters are (1, 1, 1, C) in Haiku; everything else has our shape already."""
    return array.reshape(-1) if len(shape) == 1 and array.ndim == 4 else array
