"""Groups of parameters that share a learning rate and a weight decay.

The published names are the same in all families, so one table of patterns serves them.
"""

from __future__ import annotations

import dataclasses
import itertools
import re

import keras

from nf_zoo.models.classifier import variable_names

PLACES = (
    (re.compile(r"stem/"), "stem"),
    (re.compile(r"(stage\d+)/block\d+/"), "block"),
    (re.compile(r"final_|features_"), "final"),
)
"""Pattern of a published name -> which part of the network the variable is in."""

DECAYED = re.compile(r"/kernel$")
"""Weight decay acts on these alone: not on gains, biases, skip gains and BatchNorm's scales."""


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
    """Variables that are trained alike.

    Attributes:
        name: ``"stage3/block2"``, with ``", not decayed"`` where no weight decay acts.
        depth: 0 for the stem; the head has the largest.
        variables: the trainable variables.
        learning_rate_scale: factor on the learning rate, in (0, 1].
        weight_decay: of these variables.
    """

    name: str
    depth: int
    variables: tuple[keras.Variable, ...]
    learning_rate_scale: float
    weight_decay: float


def parameter_groups(
    model,
    *,
    layer_decay: float = 1.0,
    weight_decay: float = 0.0,
    by_stage: bool = False,
) -> list[ParameterGroup]:
    """The trainable variables of a model, by depth and by whether weight decay acts on them.

    Stem, residual blocks and the final convolution lie at increasing depth, the classifier at the
    largest. The classifier is known by identity (``model.head``), whatever it is called.

    Args:
        model: an :class:`~nf_zoo.models.classifier.ImageClassifier`.
        layer_decay: the learning rate is scaled by ``layer_decay ** (largest depth - depth)``; in
            (0, 1], where 1 trains all layers alike.
        weight_decay: of the kernels; at least 0.
        by_stage: all blocks of a stage lie at one depth.

    Returns:
        Groups in order of depth. Every trainable variable is in exactly one.

    Raises:
        ValueError: on a layer_decay or weight_decay out of range.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.NFResNet26(num_classes=10)
        >>> groups = nf_zoo.parameter_groups(model, layer_decay=0.75, weight_decay=0.05)
        >>> groups[-1].name, groups[-1].learning_rate_scale
        ('head, not decayed', 1.0)
        >>> optimizer = nf_zoo.GroupedOptimizer(keras.optimizers.Adam(1e-3), groups)
    """
    if not 0.0 < layer_decay <= 1.0:
        raise ValueError(f"layer_decay must be in (0, 1]. Received: {layer_decay!r}")
    if not weight_decay >= 0.0:
        raise ValueError(f"weight_decay must be at least 0. Received: {weight_decay!r}")
    head = {id(variable) for variable in (model.head.variables if model.head else ())}
    rows = []
    for name, variable in variable_names(model).items():
        if variable.trainable:
            place = "head" if id(variable) in head else _place(name, by_stage)
            rows.append((place, bool(DECAYED.search(name)), variable))
    # Model order is depth order, and the head comes last.
    places = list(dict.fromkeys(place for place, _, _ in rows))
    deepest = len(places) - 1
    rows.sort(key=lambda row: (places.index(row[0]), not row[1]))
    return [
        ParameterGroup(
            name=place if decayed else f"{place}, not decayed",
            depth=places.index(place),
            variables=tuple(variable for _, _, variable in members),
            learning_rate_scale=layer_decay ** (deepest - places.index(place)),
            weight_decay=weight_decay if decayed else 0.0,
        )
        for (place, decayed), members in itertools.groupby(rows, key=lambda row: row[:2])
    ]


def _place(name: str, by_stage: bool) -> str:
    """``"stem"``, ``"stage1/block2"``, ..., ``"final"``."""
    for pattern, place in PLACES:
        match = pattern.match(name)
        if match and place == "block":
            return match[1] if by_stage else match[0].rstrip("/")
        if match:
            return place
    raise ValueError(f"No part of a network of the zoo has a variable of that name: {name!r}")
