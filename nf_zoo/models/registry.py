"""Table of architecture names, families and records. Reading it imports no Keras."""

import dataclasses
import difflib
import functools
import importlib

from nf_zoo.models.configuration import Config, make_config
from nf_zoo.models.family import Family

MODULES = (
    "nf_resnet",
    "nf_regnet",
    "nfnet",
    "skipinit_resnet",
    "fixup_resnet",
    "resnet",
    "regnety",
    "wide_resnet",
)
"""Files beside this one that define a family, in the order of the tables."""

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (importlib.import_module(f"nf_zoo.models.{name}").FAMILY for name in MODULES)
}
"""Families by name."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One row of a family's table."""

    name: str  # ``"nf_resnet50"``
    family: str  # ``"nf_resnet"``
    factory: str  # ``"NFResNet50"``
    config: Config

    @property
    def record(self) -> Family:
        """Record of the family."""
        return FAMILIES[self.family]

    def configure(self, variant: str | None = None, **fields) -> Config:
        """Return the record with a published variant and then single fields applied to it."""
        changes = {}
        if variant is not None:
            if variant not in self.record.variants:
                known = " or ".join(["None", *map(repr, self.record.variants)])
                raise ValueError(f"{self.name}: variant must be {known}. Received: {variant!r}")
            changes = self.record.variants[variant]
        own = self.config.changes_from(type(self.config)())
        return make_config(type(self.config), {**own, **changes, **fields})


def _row(name: str, family: Family, factory: str, fields: dict) -> Architecture:
    return Architecture(name, family.name, factory, make_config(family.config, fields))


@functools.cache
def architectures() -> dict[str, Architecture]:
    """Return every architecture by name, in table order."""
    return {
        name: _row(name, family, *row)
        for family in FAMILIES.values()
        for name, row in family.architectures.items()
    }


def is_architecture(name: str) -> bool:
    """Check that :func:`architecture` knows a name, from the tables or of a Wide ResNet."""
    return name in architectures() or _beyond_the_tables(name) is not None


def _beyond_the_tables(name: str) -> Architecture | None:
    for family in FAMILIES.values():
        if row := family.row_of(name):
            return _row(name, family, *row)
    return None


def architecture(name: str) -> Architecture:
    """Return the architecture of that name."""
    known = architectures()
    row = known.get(name) or _beyond_the_tables(str(name))
    if row is None:
        near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(
            f"Unknown architecture. {hint}nf_zoo.list_models() lists them. Received: {name!r}"
        )
    return row
