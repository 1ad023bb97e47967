"""Record of a family of networks: everything the rest of the zoo knows about it.

A new family is one file beside this one, which ends with its :class:`Family`, and one line in
:mod:`nf_zoo.models.registry`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nf_zoo.models.configuration import Config

BLOCK = "stage{stage}/block{block}/"
"""Prefix of the parts of a residual block, in our names."""

CONVOLUTION = ("kernel",)
LINEAR = ("kernel", "bias")
STANDARDIZED = ("kernel", "bias", "gain")
BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")

WORDS: dict[str, dict[str, str]] = {
    "nf_zoo": {},
    "timm": {
        "kernel": "weight",
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    },
    "haiku": {
        "kernel": "w",
        "gamma": "scale",
        "beta": "offset",
        "moving_mean": "~/mean_ema/average",
        "moving_variance": "~/var_ema/average",
    },
}
"""Source of a file -> our name of a weight -> theirs, where they differ."""

SEPARATORS = {"nf_zoo": "/", "timm": ".", "haiku": "/"}


@dataclasses.dataclass(frozen=True)
class Part:
    """A layer with weights, and the names of these weights elsewhere.

    The names are templates. ``{stage}`` and ``{block}`` count from 1, ``{s}`` and ``{b}`` from 0.
    ``{n}`` counts the blocks of all stages as Haiku does: ``""``, ``"_1"``, ``"_2"``, ...
    ``{leaf}`` is the source's word for the weight; ``{own}`` is the word of Haiku's own layers,
    whose bias is b. Without either, the word is appended.
    """

    name: str  # our name, without that of the weight: ``"stem/conv"``
    weights: tuple[str, ...]  # the layer's weights: ``"kernel"``, ...
    timm: str | None = None  # key in timm's state dictionaries; None if timm has no such part
    haiku: str | None = None  # ``module_path/parameter`` in DeepMind's trees; None likewise
    optional: bool = False  # only some of the blocks have this part


@dataclasses.dataclass(frozen=True)
class Ledger:
    """Blocks whose input is scaled by its expected variance, taken from a ledger."""

    alpha: float  # weight of every branch
    strength: float  # factor on the branches at initialization, from gains that do not start at 1
    stem_gamma: bool  # the stem carries a gamma, although no activation precedes it
    stem_activations: int  # scaled activations in the stem


@dataclasses.dataclass(frozen=True)
class LinearGrowth:
    """Blocks that each add the variance of a normalized branch; a projection resets the sum."""


@dataclasses.dataclass(frozen=True)
class Family:
    """Everything a family's own file declares about it."""

    name: str  # "nf_resnet"
    config: type[Config]  # the class of its architecture records
    # Architecture name -> (factory name, fields that differ from the defaults).
    architectures: Mapping[str, tuple[str, dict[str, Any]]]
    # (record, images (N, H, W, C)) -> a :class:`~nf_zoo.models.residual_block.Level` for the stem
    # and for every stage. The classifier pools the last one.
    build_trunk: Callable[[Any, Any], list] | None = None
    # record -> every layer with weights, and its names in other projects' files.
    parts: Callable[[Any], Iterable[Part]] | None = None
    # Published variants by name, and the fields they set.
    variants: Mapping[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    # Those fields of a variant that no weights make up for: with other values its weights still
    # fit, but compute something else.
    form: tuple[str, ...] = ()
    activates_features: bool = False  # feature maps that leave the network are activated first
    # Layer for the pooled features after dropout.
    before_classifier: Callable[[Any], Any] | None = None
    classifier_stddev: float = 0.01  # of the fresh classifier; 0 for zeros
    # record -> the variance that theory expects at initialization; None if there is no theory.
    variance: Callable[[Any], Ledger | LinearGrowth | None] = lambda config: None
    # record -> the family that builds the network, and its record; None for a family with a network
    # of its own.
    delegate: Callable[[Any], tuple[Family, Config]] | None = None
    # Name outside the table -> its row, or None.
    row_of: Callable[[str], tuple[str, dict[str, Any]] | None] = lambda name: None

    def resolve(self, config: Config) -> tuple[Family, Config]:
        """Return the family whose network a record describes, and the record in its fields."""
        return self.delegate(config) if self.delegate else (self, config)

    def names(self, config: Config, source: str) -> Iterator[tuple[str, str | None, bool]]:
        """Yield every weight that a network of this record may have.

        It is our name, the name in ``source`` (a key of :data:`WORDS`; None if it has no such
        part), and whether the weight is optional.
        """
        family, config = self.resolve(config)
        for part in family.parts(config):
            template = part.name if source == "nf_zoo" else getattr(part, source)
            if template and "{leaf}" not in template and "{own}" not in template:
                template += SEPARATORS[source] + "{leaf}"
            for place in _places(config.depths) if "{block}" in part.name else ({},):
                for weight in part.weights:
                    leaf = WORDS[source].get(weight, weight)
                    own = "b" if leaf == "bias" else leaf
                    name = f"{part.name.format(**place)}/{weight}"
                    theirs = template and template.format(leaf=leaf, own=own, **place)
                    yield name, theirs, part.optional


def _places(depths: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    count = 0
    for s, depth in enumerate(depths):
        for b in range(depth):
            n = f"_{count}" if count else ""
            yield {"stage": s + 1, "block": b + 1, "s": s, "b": b, "n": n}
            count += 1
