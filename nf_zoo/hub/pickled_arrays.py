"""What stands in for numpy, JAX and Haiku while a pickle is read; see `restricted_pickle`.

A numpy array in a pickle is a shape, a type and bytes here, and becomes an array only after the
three have been held against each other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

MOST_AXES = 32
_CODE = re.compile(r"[<>=|]?(f2|f4|f8|i1|i2|i4|i8|u1|u2|u4|u8|b1)")


class Refused(Exception):
    """What the pickle wanted and does not get."""


class PickledArray:
    """An array of a pickle: bytes that have been held against type and shape, or one object.

    `pickle` makes an array empty first and fills it later, hence the second step.
    """

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: Any = None

    def array(self) -> np.ndarray | None:
        """The array, read-only and without a copy; None if it holds an object or nothing yet."""
        return self._value if isinstance(self._value, np.ndarray) else None

    def content(self) -> Any:
        """The one object of an array of type object; None for any other array."""
        return self._value[0] if isinstance(self._value, tuple) else None

    def set_state(self, state: Any) -> None:
        """What numpy's ``ndarray.__setstate__`` takes: (version,) shape, type, order, data."""
        shape, dtype, is_fortran, data = state[-4:]
        if len(state) not in (4, 5):
            raise ValueError("an array's state has four or five parts")
        self._fill(shape, dtype, "F" if is_fortran is True else "C", data)

    def _fill(self, shape: Any, dtype: Any, order: str, data: Any) -> None:
        if (
            type(shape) is not tuple
            or len(shape) > MOST_AXES
            or not isinstance(dtype, PickledDtype)
        ):
            raise ValueError("an array's shape and type are none")
        if not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError("an array's shape must be of non-negative integers")
        if dtype.is_object:
            if type(data) is not list or len(data) != 1 or math.prod(shape) != 1:
                raise Refused("an array of several Python objects")
            self._value = (data[0],)
            return
        if type(data) is not bytes or len(data) != math.prod(shape) * dtype.numpy().itemsize:
            raise ValueError("an array's bytes are not those of its type and shape")
        self._value = np.frombuffer(data, dtype.numpy()).reshape(shape, order=order)

    @classmethod
    def of(cls, shape: Any, dtype: Any, order: str, data: Any) -> PickledArray:
        made = cls()
        made._fill(shape, dtype, order, data)
        return made


class PickledDtype:
    """A plain numeric type, or object."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if type(code) is not str or not (code in ("O", "O8") or _CODE.fullmatch(code)):
            raise Refused(f"an array of type {shown(code)}")
        self._code, self._order = code.lstrip("<>=|"), code[0] if code[0] in "<>" else "="

    @property
    def is_object(self) -> bool:
        return self._code.startswith("O")

    def numpy(self) -> np.dtype:
        return np.dtype(self._order + self._code)

    def set_state(self, state: Any) -> None:
        """Version, byte order, and then what only types with parts or fields have."""
        _, order, subtype, names, fields, *_ = state
        if order not in ("<", ">", "=", "|") or (subtype, names, fields) != (None, None, None):
            raise Refused("an array of a structured type")
        self._order = order if order in ("<", ">") else "="


class StandIn:
    """What a pickle gets for a global that it may name; it can be called and no more."""

    __slots__ = ("call",)

    def __init__(self, call: Callable) -> None:
        self.call = call


def _marker(name: str) -> StandIn:
    def call(*_):
        raise Refused(f"to call {name}")

    return StandIn(call)


_NDARRAY = _marker("numpy.ndarray")


def _reconstruct(kind: Any, shape: Any, typecode: Any) -> PickledArray:
    if kind is not _NDARRAY or shape != (0,):
        raise Refused("an array that is none of numpy's own")
    return PickledArray()


_RECONSTRUCT = StandIn(_reconstruct)


def _scalar(dtype: Any, data: Any) -> PickledArray:
    return PickledArray.of((), dtype, "C", data)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> PickledArray:
    if order not in ("C", "F") or axes is not None:
        raise ValueError("an array's axes are in no known order")
    return PickledArray.of(shape, dtype, order, data)


def _jax_array(function: Any, arguments: Any, state: Any, _: Any) -> PickledArray:
    """A JAX array is pickled as the numpy array it holds."""
    if function is not _RECONSTRUCT:
        raise Refused("an array that is none of JAX's own")
    array = _reconstruct(*arguments)
    array.set_state(state)
    return array


def _encoded(text: Any, encoding: Any) -> bytes:
    """Bytes, as protocols before 3 write them."""
    if type(text) is not str or encoding != "latin1":
        raise Refused("to encode text")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _mapping(content: Any = None) -> dict:
    content = {} if content is None else content
    if type(content) is not dict:
        raise ValueError("a mapping is made from a dictionary")
    return content


GLOBALS: dict[tuple[str, str], StandIn] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): StandIn(PickledDtype),
    ("_codecs", "encode"): StandIn(_encoded),
    ("builtins", "bytes"): StandIn(_no_bytes),
    ("__builtin__", "bytes"): StandIn(_no_bytes),
    ("collections", "OrderedDict"): StandIn(_mapping),
    ("haiku._src.data_structures", "FlatMapping"): StandIn(_mapping),
    ("haiku._src.data_structures", "frozendict"): StandIn(_mapping),
    ("jax._src.array", "_reconstruct_array"): StandIn(_jax_array),
}
for _core in ("numpy.core", "numpy._core"):
    GLOBALS[f"{_core}.multiarray", "_reconstruct"] = _RECONSTRUCT
    GLOBALS[f"{_core}.multiarray", "scalar"] = StandIn(_scalar)
    GLOBALS[f"{_core}.numeric", "_frombuffer"] = StandIn(_from_buffer)


def shown(value: Any) -> str:
    """A short form for messages; only of text, since nothing else is safe to print at length."""
    return repr(value[:80]) if type(value) is str else f"'{type(value).__name__}'"
