"""Architecture names -> (family, record). Reading the tables imports no Keras."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types

from nf_zoo.models import (
    fixup_resnet,
    nf_regnet,
    nf_resnet,
    nfnet,
    resnet,
    skipinit_resnet,
    wide_resnet,
)
from nf_zoo.models.configuration import Config, make_config

FAMILIES: dict[str, tuple[types.ModuleType, type[Config]]] = {
    "nf_resnet": (nf_resnet, nf_resnet.NFResNetConfig),
    "nf_regnet": (nf_regnet, nf_regnet.NFRegNetConfig),
    "nfnet": (nfnet, nfnet.NFNetConfig),
    "skipinit_resnet": (skipinit_resnet, skipinit_resnet.SkipInitResNetConfig),
    "fixup_resnet": (fixup_resnet, fixup_resnet.FixupResNetConfig),
    "resnet": (resnet, resnet.ResNetConfig),
    "wide_resnet": (wide_resnet, wide_resnet.WideResNetConfig),
}
"""Family name -> (its module, its record). A new family is one line here."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One row of a family's table.

    Attributes:
        name: ``"nf_resnet50"``.
        family: ``"nf_resnet"``.
        factory: ``"NFResNet50"``.
        config: the architecture record.
    """

    name: str
    family: str
    factory: str
    config: Config

    @property
    def module(self) -> types.ModuleType:
        """The family's module: its ``ARCHITECTURES`` and ``VARIANTS``."""
        return FAMILIES[self.family][0]

    def builder(self, config: Config) -> tuple[types.ModuleType, Config]:
        """The module whose ``build_trunk`` makes the network, and the record to give it.

        A family without blocks of its own says by ``delegate`` whose it has.
        """
        if hasattr(self.module, "delegate"):
            return self.module.delegate(config)
        return self.module, config

    def configure(self, variant: str | None = None, **fields) -> Config:
        """The record with a published variant and single fields laid over it.

        Raises:
            ValueError: on an unknown variant or a value that is not allowed.
            TypeError: on an unknown field.
        """
        changes = {}
        if variant is not None:
            if variant not in self.module.VARIANTS:
                known = " or ".join(["None", *map(repr, self.module.VARIANTS)])
                raise ValueError(f"{self.name}: variant must be {known}. Received: {variant!r}")
            changes = self.module.VARIANTS[variant]
        own = self.config.changes_from(type(self.config)())
        return make_config(type(self.config), {**own, **changes, **fields})


@functools.cache
def architectures() -> dict[str, Architecture]:
    """Every architecture by name, in table order."""
    return {
        name: Architecture(name, family, factory, make_config(config_class, fields))
        for family, (module, config_class) in FAMILIES.items()
        for name, (factory, fields) in module.ARCHITECTURES.items()
    }


def is_architecture(name: str) -> bool:
    """Whether :func:`architecture` knows the name, of the tables or of a Wide ResNet.

    Raises:
        ValueError: if it is a Wide ResNet of so many layers as there is none.

    Example:
        >>> is_architecture("wide_resnet22_8"), is_architecture("resnet51")
        (True, False)
    """
    return name in architectures() or wide_resnet.row_of(name) is not None


def architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        ValueError: if there is none; names near ones.

    Example:
        >>> architecture("nf_resnet50").factory
        'NFResNet50'
    """
    known = architectures()
    if name not in known:
        row = wide_resnet.row_of(str(name))
        if row is not None:
            factory, fields = row
            config = make_config(wide_resnet.WideResNetConfig, fields)
            return Architecture(name, "wide_resnet", factory, config)
        near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(
            f"Unknown architecture. {hint}nf_zoo.list_models() lists them. Received: {name!r}"
        )
    return known[name]
