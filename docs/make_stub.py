"""Write nf_zoo/__init__.pyi, with every public name, and every factory with its fields.

python docs/make_stub.py
"""

from __future__ import annotations

import inspect
import types
import typing
from pathlib import Path

import nf_zoo
from nf_zoo.hub.factories import FACTORIES, OPTIONS
from nf_zoo.models.configuration import field_types
from nf_zoo.models.registry import FAMILIES

STUB = Path(nf_zoo.__file__).with_name("__init__.pyi")

HEADER = '''\
"""The names and signatures of nf_zoo for editors and type checkers; they load on first use.

Written by `python docs/make_stub.py`, from the tables of names and the records of the families.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal, TypedDict, Unpack

'''


def written(kind) -> str:
    """Return a type as source text."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(written, arguments))
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments)).replace(chr(39), chr(34))}]"
    if origin is tuple:
        return f"Sequence[{written(arguments[0])}]"
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(written, arguments))}]"
    return "None" if kind is type(None) else getattr(kind, "__name__", str(kind))


def typed_dict(name: str, base: str, fields: dict) -> str:
    lines = [f"class {name}({base}, total=False):"]
    lines += [f"    {field}: {written(kind)}" for field, kind in fields.items()]
    return "\n".join(lines) + "\n\n"


def stub() -> str:
    """Return the text of the stub."""
    parts = [HEADER]
    homes = dict(nf_zoo._HOMES)
    for name in nf_zoo._MODULES:
        # A callable package is shown as its function of the same name.
        homes[name] = f"nf_zoo.{name}" if callable(getattr(nf_zoo, name)) else "nf_zoo"
    for name, home in sorted(homes.items(), key=lambda item: (item[1], item[0])):
        parts.append(f"from {home} import {name} as {name}\n")
    pretrained, *options = OPTIONS.parameters.values()
    parts.append("\n__version__: str\n\n")
    parts.append(typed_dict("_Options", "TypedDict", {p.name: p.annotation for p in options}))
    names = {family: f"_{record.config.__name__}" for family, record in FAMILIES.items()}
    for family, record in FAMILIES.items():
        parts.append(typed_dict(names[family], "_Options", field_types(record.config)))
    for name, row in FACTORIES.items():
        given = f"{pretrained.name}: {written(pretrained.annotation)} = False"
        text = inspect.getdoc(getattr(nf_zoo, name)).partition("\n")[0]
        parts.append(
            f"def {name}(\n    {given}, **options: Unpack[{names[row.family]}]\n"
            f') -> ImageClassifier:\n    """{text}"""\n\n'
        )
    return "".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
