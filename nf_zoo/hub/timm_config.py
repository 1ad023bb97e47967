"""Translation of timm's config.json into ours.

timm's ``save_for_hf`` writes the arguments of its factory as ``"model_args"``, and the
preprocessing as ``"pretrained_cfg"``. These functions only translate; ``description`` checks sizes
and types afterwards, as in our own files.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from nf_zoo.hub.errors import first_few, printable
from nf_zoo.models.configuration import PUBLISHED_ACTIVATIONS
from nf_zoo.models.registry import architectures

logger = logging.getLogger("nf_zoo")

_ALIKE = ("relu", "silu", "gelu", "gelu_tanh", "elu", "celu", "selu", "relu6", "mish", "tanh")
_ALIKE += ("sigmoid", "hard_sigmoid", "hard_swish")
_ACTIVATIONS = {name: name for name in _ALIKE}
_ACTIVATIONS |= {"swish": "silu", "hardsigmoid": "hard_sigmoid", "hardswish": "hard_swish"}
"""timm's names of functions that Keras has too. Its leaky ReLU has another slope."""

_COUNTERPARTS: dict[str, tuple[str, Mapping[str, str | None] | None]] = {
    "num_classes": ("num_classes", None),
    "in_chans": ("input_shape", None),
    "global_pool": ("pooling", {"avg": "avg", "max": "max", "": None}),
    "drop_rate": ("drop_rate", None),
    "drop_path_rate": ("stochastic_depth_rate", None),
    "output_stride": ("output_stride", None),
    "act_layer": ("activation", _ACTIVATIONS),
    "attn_layer": ("attention", {"se": "se", "eca": "eca", "": None}),
}
"""Argument of timm's -> our option, and our words for its values where they are names."""


def options(document: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the arguments of timm's factory into options of ``build_model``, or refuse them."""
    weights, arguments = document["pretrained_cfg"], document.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise TypeError(f"'model_args' must be an object. Received: {printable(repr(arguments))}")
    fields = weights, document
    told = (
        {"num_classes": 1000, "in_chans": _input_size(weights)[0], "global_pool": "avg"},
        *({name: part.get(name) for name in ("num_classes", "global_pool")} for part in fields),
        arguments,
    )
    # In timm, None means not given.
    said = {name: value for part in told for name, value in part.items() if value is not None}
    if said.get("attn_layer") == "eca" and said.get("attn_kwargs") == {}:
        del said["attn_kwargs"]
    options, refused = {}, []
    for name, value in said.items():
        option, words = _COUNTERPARTS.get(name, (None, None))
        word = value.lower() if isinstance(value, str) else None
        if option is None or (words is not None and word not in words):
            refused.append(f"{name}={value!r}")
        else:
            options[option] = value if words is None else words[word]
    if refused:
        raise ValueError(
            "timm builds this network with arguments that have no counterpart here. These have "
            f"one: {', '.join(_COUNTERPARTS)}. Received: {first_few(refused)}"
        )
    options["input_shape"] = [None, None, options["input_shape"]]
    for departure in _departures(document["architecture"], options):
        logger.warning(
            "%s with these arguments gives other outputs here than in timm: %s. Measure its "
            "accuracy before you rely on it.",
            *(printable(document["architecture"]), departure),
        )
    return options


def preprocessing(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a ``Preprocessing`` that timm sets, with its settings for evaluation."""
    weights = document["pretrained_cfg"]
    settings = {
        "input_size": (weights.get("test_input_size") or _input_size(weights))[1:],
        "crop_fraction": weights.get("test_crop_pct") or weights.get("crop_pct"),
        **{name: weights.get(name) for name in ("crop_mode", "interpolation")},
        **{name: _of_three_channels(name, weights.get(name)) for name in ("mean", "std")},
    }
    return {name: value for name, value in settings.items() if value is not None}


def labels(document: Mapping[str, Any], num_classes: int) -> Any:
    """Return timm's description of each class, or else its name; None if there are neither.

    The names in timm's file are a list, or an object by index.
    """
    weights = document["pretrained_cfg"]
    if weights.get("num_classes", num_classes) != num_classes:
        weights = {}  # they describe the network that this one started from
    names = document.get("label_names") or weights.get("label_names")
    descriptions = document.get("label_descriptions") or weights.get("label_descriptions")
    if isinstance(names, dict):
        indices = [str(index) for index in range(num_classes)]
        if strangers := sorted(set(names) - set(indices)):
            raise ValueError(
                f"'label_names' must be of classes 0 to {num_classes - 1}. "
                f"Received: {first_few(strangers)}"
            )
        names = [names.get(index, index) for index in indices]
    if isinstance(names, list) and isinstance(descriptions, dict):
        names = [descriptions.get(name, name) if isinstance(name, str) else name for name in names]
    return names or None


def _departures(name: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield the ways in which our network with these options differs from timm's."""
    row = architectures().get(name)
    stride, activation = options.get("output_stride", 32), options.get("activation", "relu")
    if stride != 32 and getattr(row and row.config, "shortcut", None) == "average_pool":
        yield f"with output_stride={printable(stride)} its shortcuts pool differently"
    if hasattr(row and row.config, "gamma_in") and activation not in PUBLISHED_ACTIVATIONS:
        yield f"the gamma of {activation} is integrated, timm's is sampled, up to 0.1 % apart"


def _input_size(weights: Mapping[str, Any]) -> list[int]:
    """Return channels, height and width."""
    return weights.get("input_size") or [3, 224, 224]


def _of_three_channels(name: str, values: Any) -> Any:
    """Turn a mean or std of any number of channels into the three of a Preprocessing.

    Networks with another number of channels use their average, which is what timm writes for them.
    """
    if not isinstance(values, list) or len(values) in (0, 3):
        return values
    if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in values):
        return values
    average = values[0]
    if max(values) > min(values):
        average = sum(values) / len(values)
        logger.warning(
            "%s differs among the %d channels of this network. nf_zoo uses one for all, %g: to "
            "match timm, normalize the input yourself, with %s",
            *(name, len(values), average, printable(values)),
        )
    return [average] * 3
