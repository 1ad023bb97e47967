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

import os
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
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


def takes_options(value) -> bool:
    """Check for a function that :func:`nf_zoo.options.takes` gave the fields of a record."""
    return {"__signature__", "__wrapped__"} <= set(getattr(value, "__dict__", ()))


def with_options(name: str, function, imports: set[str]) -> str:
    """Return a function that takes the fields of a record, with all of them."""
    lines, before = [], None
    for one in inspect.signature(function).parameters.values():
        if one.kind is one.KEYWORD_ONLY and before is not one.KEYWORD_ONLY:
            lines.append("*")
        before, kind = one.kind, one.annotation
        # The fields of records have their types as text.
        known = isinstance(kind, str)
        lines.append(str(one).replace(repr(kind), kind).replace("'", '"') if known else one.name)
    result = typing.get_type_hints(function.__wrapped__).get("return", type(None))
    if result.__module__.startswith("nf_zoo"):
        imports.add(f"from {result.__module__} import {result.__name__}\n")
    arguments = "".join(f"    {line},\n" for line in lines)
    text = inspect.getdoc(function).partition("\n")[0]
    return f'def {name}(\n{arguments}) -> {written(result)}:\n    """{text}"""\n\n'


def stub() -> str:
    """Return the text of the stub."""
    parts = [HEADER]
    homes = dict(nf_zoo._HOMES)
    for name in nf_zoo._MODULES:
        # A callable package is shown as its function of the same name.
        homes[name] = f"nf_zoo.{name}" if callable(getattr(nf_zoo, name)) else "nf_zoo"
    imports, functions = set(), []
    for name, home in homes.items():
        if takes_options(function := getattr(nf_zoo, name)):
            functions.append(with_options(name, function, imports))
        else:
            imports.add(f"from {home} import {name} as {name}\n")
    parts += sorted(imports)
    pretrained, *options = OPTIONS.parameters.values()
    parts.append("\n__version__: str\n\n")
    parts += functions
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
