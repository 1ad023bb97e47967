"""Options described once: a record's field gives the argument, its check, its flag and its help.

>>> @dataclasses.dataclass(frozen=True)
... class Settings(Options):
...     epochs: int = option(3, "passes over the pictures", whole(1))
>>> @takes(Settings)
... def fit(data, *, settings):
...     return settings.epochs
>>> fit([], epochs=5), str(inspect.signature(fit))
(5, '(data, *, epochs: int = 3)')

Nothing heavy is imported here: the command line reads the records to print its help.
"""

import argparse
import contextlib
import dataclasses
import functools
import inspect
import math
import numbers
import operator
import re
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Kind:
    """Values that an option accepts; its functions may raise TypeError or ValueError for others."""

    words: str = ""  # the end of "must be ..."
    # keywords of argparse's ``add_argument``, or None for an option without a flag
    flag: Mapping[str, Any] | None = None
    accepts: Callable[[Any], bool] = lambda value: True  # True for an allowed value
    convert: Callable[[Any], Any] = lambda value: value  # the value to store


def whole(low: float = -math.inf, words: str = "", metavar: str = "N") -> Kind:
    """Accept integers no smaller than ``low``."""
    words = words or ("a positive integer" if low == 1 else "an integer")
    flag = {"type": int, "metavar": metavar}
    return Kind(words, flag, lambda value: value >= low, operator.index)


def number(words: str, accepts: Callable[[float], bool], metavar: str = "X") -> Kind:
    """Accept real numbers for which ``accepts`` returns true."""
    flag = {"type": float, "metavar": metavar}
    return Kind(words, flag, lambda value: accepts(value + 0.0), float)


def switch() -> Kind:
    """Accept True or False: ``--name``, and ``--no-name`` where the default is not False."""
    flag = {"action": argparse.BooleanOptionalAction}
    return Kind("True or False", flag, lambda value: value in (True, False), bool)


def choice(*values: Any) -> Kind:
    """Accept one of the values."""
    words = ", ".join(map(repr, values)).replace("None, ", "None or ", 1)
    flag = {"choices": [value for value in values if value is not None]}
    return Kind(words, flag, lambda value: value in values)


def picture_size(low: int) -> Kind:
    """Accept (height, width), or one integer for both, each at least ``low`` pixels."""

    def convert(value):
        height, width = (value, value) if isinstance(value, numbers.Integral) else value
        return operator.index(height), operator.index(width)

    words = f"an integer or (height, width) of {low} or more"
    flag = {"type": image_size, "metavar": "N|HxW"}
    return Kind(words, flag, lambda value: min(convert(value)) >= low, convert)


def text(metavar: str) -> Kind:
    """Accept any value in Python, text on the command line."""
    return Kind(flag={"metavar": metavar})


def image_size(text: str) -> tuple[int, int]:
    """Parse ``"224"`` as (224, 224) and ``"192x256"`` as (192, 256): height, width."""
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected N or HEIGHTxWIDTH in pixels, not {text!r}")
    return int(match[1]), int(match[2] or match[1])


def option(default: Any, help: str, kind: Kind | None = None, **more: Any) -> Any:
    """Define a field of an options record, which allows None only if that is the default.

    ``help`` is for the docstring, without the final full stop; the command line shows its first
    sentence. Without ``kind`` a bool takes True and False, another field anything. ``more`` is for
    the owner of the record.
    """
    kind = kind or (switch() if isinstance(default, bool) else Kind())
    return dataclasses.field(default=default, metadata={"kind": kind, "help": help, **more})


class Options:
    """Base class of option records: frozen dataclasses whose fields come from :func:`option`.

    Raises:
        ValueError: for a value that its kind rejects: "NAME must be ... Received: ...".
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, _checked(field, value))


def _checked(field: dataclasses.Field, value: Any) -> Any:
    kind = field.metadata["kind"]
    if isinstance(value, Iterator):  # which can be read only once
        value = tuple(value)
    if value is None and field.default is None:
        return None
    with contextlib.suppress(TypeError, ValueError):
        if kind.accepts(value):
            return kind.convert(value)
    none = " or None" if field.default is None and "None" not in kind.words else ""
    raise ValueError(f"{field.name} must be {kind.words}{none}. Received: {value!r}")


def takes(record: type[Options]) -> Callable[[Callable], Callable]:
    """Give a function the fields of ``record`` as keyword arguments.

    The function has one keyword argument ``settings``, an instance of the record. Its callers see
    the fields and their defaults instead. In its docstring the fields' help replaces
    ``{settings}``.
    """
    fields = dataclasses.fields(record)
    own = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type
        )
        for field in fields
    ]

    def decorate(function: Callable) -> Callable:
        signature = inspect.signature(function)
        others = dict(signature.parameters)
        others.pop("settings")
        # Keyword arguments come before a final ``**fields``.
        last = [others.pop(n) for n, p in list(others.items()) if p.kind is p.VAR_KEYWORD]
        signature = signature.replace(parameters=[*others.values(), *own, *last])

        @functools.wraps(function)
        def call(*args, **kwargs):
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{function.__name__}() {error}") from None
            given = {p.name: bound.arguments.pop(p.name) for p in own if p.name in bound.arguments}
            return function(*bound.args, **bound.kwargs, settings=record(**given))

        call.__signature__ = signature
        if function.__doc__ is not None:
            call.__doc__ = function.__doc__.replace("        {settings}\n", _described(fields))
        return call

    return decorate


def _described(fields: tuple[dataclasses.Field, ...]) -> str:
    lines = []
    for field in fields:
        told = f"{field.name}: {field.metadata['help']}."
        lines += textwrap.wrap(
            told, 100, initial_indent=8 * " ", subsequent_indent=12 * " ", break_on_hyphens=False
        )
    return "".join(f"{line}\n" for line in lines)


def add_flags(
    parser,
    record: type[Options],
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    **changes: Any,
) -> None:
    """Add a flag for each field of a record to an argparse parser; an absent flag gives None.

    ``only`` and ``without`` choose fields; ``changes`` are other keywords of ``add_argument``.
    """
    for field in dataclasses.fields(record):
        keywords = field.metadata["kind"].flag
        taken = field.name not in without if only is None else field.name in only
        if keywords is None or not taken:
            continue
        keywords = {**keywords, "default": None, "dest": field.name, **changes}
        if field.default is False:
            keywords["action"] = "store_true"
        help = field.metadata["help"].partition(". ")[0].replace("``", "").replace("%", "%%")
        if not isinstance(field.default, bool | None) and field.default != ():
            several = isinstance(field.default, tuple)
            help = f"{help} ({' '.join(map(str, field.default)) if several else field.default})"
        name = field.metadata.get("flag", field.name)
        parser.add_argument(flag_of(name), help=help, **keywords)


def flag_of(name: str) -> str:
    """Return the flag of an option."""
    return f"--{name.replace('_', '-')}"


def flags_of(record: type[Options]) -> tuple[str, ...]:
    """Return the names of the fields that :func:`add_flags` makes flags of."""
    fields = dataclasses.fields(record)
    return tuple(field.name for field in fields if field.metadata["kind"].flag is not None)


def given(args: argparse.Namespace, record: type[Options]) -> dict[str, Any]:
    """Return the fields of a record that the command line sets."""
    values = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(record)}
    return {name: value for name, value in values.items() if value is not None}
