"""Reference pages of the site: which public name is documented where.

They come from nf_zoo's own tables, so that a new name has its place by itself. mkdocstrings fills
them with signatures and docstrings, and runtime_signatures.py helps it.
"""

from __future__ import annotations

import importlib
import inspect
import re

import nf_zoo
from nf_zoo.hub.factories import FACTORIES
from nf_zoo.models.registry import FAMILIES

FIRST = ("models", "hub", "finetuning")
"""Pages that a newcomer wants first; the others follow by name."""
_ROLE = re.compile(r":\w+:`~?([\w.]+)`")


def rooms() -> dict[str, list[str]]:
    """Return the pages by name, each with the full names that it documents."""
    found: dict[str, list[str]] = {}
    for name, home in nf_zoo._HOMES.items():
        value = getattr(nf_zoo, name)
        error = inspect.isclass(value) and issubclass(value, Exception)
        found.setdefault("errors" if error else home.split(".")[1], []).append(f"nf_zoo.{name}")
    for room in nf_zoo._MODULES:
        module = getattr(nf_zoo, room)
        for name in getattr(module, "__all__", ()):
            # A callable package is documented as its function.
            if name == room or name not in nf_zoo._HOMES:
                found.setdefault(room, []).append(f"nf_zoo.{room}.{name}")
    for name, row in FACTORIES.items():
        found.setdefault(f"factories/{row.family}", []).append(f"nf_zoo.{name}")
    others = sorted(set(found) - set(FIRST), key=lambda room: ("/" in room, room))
    return {room: found[room] for room in (*FIRST, *others)}


def pages() -> dict[str, str]:
    """Return the Markdown of every page by its path."""
    texts = {f"docs/reference/{room}.md": _page(room, names) for room, names in rooms().items()}
    return {"docs/reference/index.md": _index(), **texts}


def navigation() -> list:
    """Return the entries of the site's navigation."""
    entries = [{_title(room): f"docs/reference/{room}.md"} for room in rooms()]
    count = sum("/" not in room for room in rooms())
    return ["docs/reference/index.md", *entries[:count], {"Factories": entries[count:]}]


def value_of(full_name: str):
    """Return the object of a full name such as ``nf_zoo.layers.SkipInit``."""
    module, _, name = full_name.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _title(room: str) -> str:
    if "/" in room:
        return FAMILIES[room.rpartition("/")[2]].config.__name__.removesuffix("Config")
    return room.replace("_", " ").capitalize()


def _summary(value) -> str:
    # Keras's constants and plain tables have no docstring of their own.
    documented = inspect.isclass(value) or callable(value)
    return (inspect.getdoc(value) or "").partition("\n")[0] if documented else ""


def _index() -> str:
    lines = [
        "# Reference\n\nEvery public name of nf_zoo. All are imported on first use, from `nf_zoo` "
        "unless another place is shown.\n"
    ]
    for room, names in rooms().items():
        lines.append(f"\n## {_title(room)}\n\n| name | |\n|---|---|\n")
        lines += [
            f"| [`{name.removeprefix('nf_zoo.')}`][{name}] | {linked(_summary(value_of(name)))} |\n"
            for name in names
        ]
    return "".join(lines)


def _page(room: str, names: list[str]) -> str:
    if "/" in room:
        intro = (
            "All of these factories take the same arguments, which the first one describes. They "
            "differ in the defaults, which each signature shows."
        )
    elif room == "errors":
        intro = "What nf_zoo raises, each with its remedy in the message."
    else:
        intro = inspect.getdoc(importlib.import_module(f"nf_zoo.{room}")).partition("\n")[0]
    body = "".join(f"\n::: {name}\n" for name in names)
    return f"# {_title(room)}\n\n{intro}\n{body}"


def linked(text: str) -> str:
    """Return a docstring with its roles, such as :func:`nf_zoo.fold`, as links to the reference."""
    known = {name.rpartition(".")[2]: name for names in rooms().values() for name in names}

    def link(match: re.Match) -> str:
        name = match[1].rpartition(".")[2]
        return f"[`{name}`][{known[name]}]" if name in known else f"`{match[1]}`"

    return _ROLE.sub(link, text)
