"""Signatures and docstrings of nf_zoo as they are when it runs, for mkdocstrings.

mkdocstrings reads the source. But many signatures of nf_zoo are made from records of fields, and
some names load on first use: both exist only at run time.
"""

from __future__ import annotations

import inspect
import re

import griffe
import reference
from make_stub import written

_SHARED = re.compile(r"^    (\w+(?:,\s+\w+)+):(.*\n(?:     .*\n)*)", re.MULTILINE)
"""Arguments that share a description, in a docstring."""


class RuntimeSignatures(griffe.Extension):
    """Give the public objects the signatures and docstrings that they have when nf_zoo runs."""

    def on_package(self, *, pkg: griffe.Module, **_) -> None:
        if pkg.path != "nf_zoo":
            return
        first_of_family = {names[0] for names in reference.rooms().values()}
        for full_name in (name for names in reference.rooms().values() for name in names):
            value = reference.value_of(full_name)
            shown = _source(pkg, full_name, value)
            if shown.is_function:
                _take_signature(shown, value)
                text = inspect.getdoc(value)
                if value.__module__ == "nf_zoo" and full_name not in first_of_family:
                    text = text.partition("\n")[0]  # a factory like the one above it
                shown.docstring = griffe.Docstring(text, parent=shown)

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            # griffe knows the section of several examples, and arguments one by one.
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            text = _SHARED.sub(_one_by_one, text)
            obj.docstring.value = reference.linked(text)


def _one_by_one(match: re.Match) -> str:
    return "".join(f"    {name}:{match[2]}" for name in re.split(r",\s+", match[1]))


def _source(pkg: griffe.Module, full_name: str, value) -> griffe.Object:
    """Return an object as it is in its source; names that load on first use get an alias to it."""
    shown = full_name.removeprefix("nf_zoo.")
    home = f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else ""
    if not home or home == full_name:
        return pkg[shown]
    source = pkg[home.removeprefix("nf_zoo.")]
    pkg.set_member(shown, griffe.Alias(shown.rpartition(".")[2], target=source))
    return source


def _take_signature(shown: griffe.Function, value) -> None:
    parameters = inspect.signature(value).parameters
    if list(parameters) == [parameter.name for parameter in shown.parameters]:
        return
    kinds = {kind.name: getattr(griffe.ParameterKind, kind.name.lower()) for kind in _KINDS}
    shown.parameters = griffe.Parameters(
        *(
            griffe.Parameter(
                one.name,
                annotation=None if one.annotation is one.empty else _text(one.annotation),
                default=None if one.default is one.empty else repr(one.default),
                kind=kinds[one.kind.name],
            )
            for one in parameters.values()
        )
    )


_KINDS = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.KEYWORD_ONLY,
    inspect.Parameter.VAR_KEYWORD,
)


def _text(annotation) -> str:
    return annotation if isinstance(annotation, str) else written(annotation)
