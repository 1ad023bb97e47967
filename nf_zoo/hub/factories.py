"""The model factories: one per row of the families' tables, with its fields as arguments."""

import functools
import inspect
import os
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from nf_zoo.hub.models import create_model
from nf_zoo.models.configuration import Config, field_types
from nf_zoo.models.registry import Architecture, architectures


def _options(
    pretrained: bool | str | os.PathLike[str] = False,
    *,
    variant: str | None = None,
    num_classes: int | None = None,
    input_shape: Sequence[int | None] | None = None,
    classifier_activation: str | None = None,
    include_preprocessing: bool | None = None,
    pooling: str | None = "avg",
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    preprocessing: Any = None,
    labels: Sequence[str] | None = None,
    dtype: str | None = None,
    name: str | None = None,
):
    """Take the arguments that every factory has besides the fields of its record.

    pretrained: False, True (the default tag), a tag, ``"hf://owner/name"``, or a path.
    variant: a published variant of the network, ``"paper"`` for DeepMind's; None for timm's.
    num_classes: width of the classifier; 0 for pooled features; None for the checkpoint's, or 1000.
    input_shape: (height, width, channels); None for (None, None, 3).
    classifier_activation: None or ``"linear"`` for logits; ``"softmax"``, ``"sigmoid"``.
    include_preprocessing: the graph takes raw 0..255 pixels.
    pooling: ``"avg"``, ``"max"``, or None with ``num_classes=0`` for the last map.
    features_only: the outputs are maps of several strides.
    out_indices: indices of these maps in ``model.trunk_stages``; None for all.
    preprocessing: a Preprocessing record or its dict; None for the checkpoint's.
    labels: class names; None for the checkpoint's.
    dtype: Keras dtype policy, such as ``"mixed_bfloat16"``; None for the global one.
    name: name of the Keras model; None for the architecture's.
    """


OPTIONS = inspect.signature(_options, eval_str=True)
"""Arguments that every factory has besides the fields of its record."""

_FIELD = re.compile(r"^    ([a-z]\w*(?:, \w+)*): (.*(?:\n     .*)*)", re.MULTILINE)


@functools.cache
def field_descriptions(config_class: type[Config]) -> dict[str, str]:
    """Return the description of every field of a record, from the docstrings of its classes."""
    found = {}
    for kind in reversed(config_class.__mro__):
        section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
        for names, text in _FIELD.findall(section.partition("\n\n")[0]):
            found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return {name: found[name] for name in field_types(config_class)}


def signature(row: Architecture) -> inspect.Signature:
    """Return a factory's signature: the options, then the record's fields with its values."""
    fields = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=getattr(row.config, name), annotation=kind
        )
        for name, kind in field_types(type(row.config)).items()
    ]
    return OPTIONS.replace(parameters=[*OPTIONS.parameters.values(), *fields])


def _docstring(row: Architecture) -> str:
    described = [*inspect.getdoc(_options).splitlines()[2:]]
    described += [f"{n}: {text}" for n, text in field_descriptions(type(row.config)).items()]
    arguments = "\n".join(
        textwrap.fill(line, 96, initial_indent="    ", subsequent_indent="        ")
        for line in described
    )
    return (
        f"Build ``{row.name}``: {sum(row.config.depths)} blocks in stages of {row.config.depths}."
        "\n\nThe defaults are those of the plain network with fresh weights; a variant or a "
        f"checkpoint\nmay set others.\n\nArgs:\n{arguments}\n\n"
        "Returns:\n    An :class:`~nf_zoo.models.classifier.ImageClassifier`.\n\n"
        "Raises:\n    ValueError, TypeError, WeightsError: as :func:`nf_zoo.create_model`.\n\n"
        f"Example:\n    >>> import nf_zoo\n    >>> model = nf_zoo.{row.factory}(num_classes=10)\n"
    )


FACTORIES: dict[str, Architecture] = {row.factory: row for row in architectures().values()}
"""Factory name -> its row of the families' tables."""


@functools.cache
def factory(name: str) -> Callable:
    """Return the factory of that name."""
    row = FACTORIES[name]

    def build(pretrained=False, **options):
        if "name" in options:
            options["model_name"] = options.pop("name")
        return create_model(row.name, pretrained, **options)

    build.__name__ = build.__qualname__ = name
    build.__module__ = "nf_zoo"
    build.__signature__ = signature(row)
    build.__doc__ = _docstring(row)
    return build
