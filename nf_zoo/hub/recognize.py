"""Which architecture a weights file belongs to, told by its keys: for better error messages."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping

from nf_zoo.hub.checkpoint import WeightsFile
from nf_zoo.models.registry import Architecture, architectures, is_architecture

_BLOCK = re.compile(
    r"(?:layer|stages\.|stage)(?P<stage>\d+)[./](?:blocks\.|block)?(?P<block>\d+)[./](?P<part>.+)"
)
_HAIKU_BLOCK = re.compile(r"\w+/~/\w+_block(_v2)?(_\d+)?/")


def recognize(file: WeightsFile) -> str | None:
    """The name of the architecture whose tensors these are, or None if that cannot be told."""
    name, attention = recognize_but_for_attention(file)
    return None if attention else name


def recognize_but_for_attention(file: WeightsFile) -> tuple[str | None, dict[str, str | None]]:
    """The architecture, and {"attention": ...} if the file's differs from the architecture's."""
    named = file.metadata.get("architecture", "")
    with contextlib.suppress(ValueError):  # what a file says may be of no network
        if is_architecture(named):
            return named, {}
    if any("/~/" in key for key in file.shapes):
        return _recognize_haiku(file.shapes), {}
    found = _traits(file.shapes)
    attention = {"attention": found.pop("attention")}
    near = {
        name: getattr(row.config, "attention", None)
        for name, row in architectures().items()
        if found == _traits_of(row)
    }
    for name, own in near.items():
        if own == attention["attention"]:
            return name, {}
    for name in near:
        if hasattr(architectures()[name].config, "attention"):
            return name, attention
    return None, {}


def _traits_of(architecture: Architecture) -> dict:
    """What `_traits` finds in a file of that architecture, but for the attention."""
    config = architecture.config
    return {
        "family": architecture.family,
        "preactivation": getattr(config, "preactivation", True),
        "depths": config.depths,
        "bottleneck": getattr(config, "block", "bottleneck") == "bottleneck",
        "skip_gain": getattr(config, "skip_gain", None) is not None,
        "deep_stem": getattr(config, "stem", None) == "deep_pool" or architecture.family == "nfnet",
        "features": config.features,
    }


def _traits(shapes: Mapping[str, tuple[int, ...]]) -> dict:
    """What the keys of a checkpoint say of its network, in the words of our configurations."""
    parts: dict[str, set[tuple[int, int]]] = {}
    for key in shapes:
        if match := _BLOCK.match(key):
            place = int(match["stage"]), int(match["block"])
            parts.setdefault(match["part"].replace("/", "."), set()).add(place)
    blocks = parts.get("conv1.weight", set()) | parts.get("conv1.kernel", set())
    stages = sorted({stage for stage, _ in blocks})
    eca = {"attn.conv.weight", "attn_last.conv.weight", "attention.kernel"}
    attention = "eca" if eca & set(parts) else None
    if any(re.match(r"attn(_last)?\.fc1\.|attention\.reduce\.", part) for part in parts):
        attention = "se"
    head = [s for key, s in shapes.items() if re.fullmatch(r"(head\.)?fc\.weight|head/kernel", key)]
    native = "head/kernel" in shapes
    return {
        "family": _family(set(shapes), set(parts)),
        "preactivation": not {"bn1.weight", "stem/norm/gamma"} & set(shapes),
        "depths": tuple(sum(stage == s for s, _ in blocks) for stage in stages),
        "bottleneck": bool({"conv3.weight", "conv3.kernel"} & set(parts)),
        "attention": attention,
        "skip_gain": bool({"skipinit_gain", "skip_gain.gain"} & set(parts)),
        "deep_stem": bool({"stem.conv1.weight", "stem/conv1/kernel"} & set(shapes)),
        "features": head[0][0 if native else 1] if head else None,
    }


def _recognize_haiku(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """DeepMind's names hold the family; blocks and features tell its members apart."""
    from nf_zoo.hub.from_haiku import FAMILIES

    roots = {key.partition("/")[0] for key in shapes}
    root = roots.pop() if len(roots) == 1 else ""
    family = FAMILIES.get(root)
    blocks = {match[0] for key in shapes if (match := _HAIKU_BLOCK.match(key))}
    features = shapes.get(f"{root}/~/linear/w", (None,))[0]
    has_attention = any("/squeeze_excite/" in key for key in shapes)
    for name, architecture in architectures().items():
        if architecture.family != family:
            continue
        config = architecture.configure("paper")
        if (
            getattr(architecture.config, "preactivation", True)
            and sum(config.depths) == len(blocks)
            and config.features == features
            and (getattr(config, "attention", None) == "se") == has_attention
        ):
            return name
    return None


def _family(keys: set[str], parts: set[str]) -> str:
    if "conv1.gain" not in parts:
        return "resnet"
    if {"conv2b.gain", "conv4.gain"} & parts:
        return "nfnet"
    return "nf_regnet" if {"final_conv.gain", "final_conv/gain"} & keys else "nf_resnet"
