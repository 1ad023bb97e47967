"""Unpickling trees of arrays, and nothing else.

DeepMind published its networks as pickles. A pickle is a program; this interpreter runs the few
instructions that dictionaries, lists, numbers, text and arrays take, and refuses the others. The
globals a pickle may name are answered with stand-ins, never with the real functions. Nothing is
imported, no object of the process can be reached, and memory stays in proportion to the file: an
array is a shape, a type and bytes here, and becomes one only after the three have been held against
each other.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
from collections.abc import Callable
from typing import Any, BinaryIO, Self

import numpy as np

from nf_zoo.hub.errors import CorruptWeights, UnsafeWeights

MOST_INSTRUCTIONS = 2_000_000
MOST_AXES = 32

# fmt: off
_OPCODES = (
    pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.DUP,
    pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT, pickle.BININT1,
    pickle.BININT2, pickle.LONG, pickle.LONG1, pickle.LONG4, pickle.FLOAT, pickle.BINFLOAT,
    pickle.UNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE, pickle.BINUNICODE8,
    pickle.SHORT_BINBYTES, pickle.BINBYTES, pickle.BINBYTES8, pickle.EMPTY_TUPLE, pickle.TUPLE,
    pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND,
    pickle.APPENDS, pickle.EMPTY_DICT, pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.PUT,
    pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.GLOBAL, pickle.STACK_GLOBAL,
)
# fmt: on
"""Instructions that do here what they do in ``pickle``; the others below, or not at all."""
_CODE = re.compile(r"[<>=|]?(f2|f4|f8|i1|i2|i4|i8|u1|u2|u4|u8|b1)")


def load_tree(file: BinaryIO, size: int, name: str) -> Any:
    """Return the nested dictionaries, lists and tuples of arrays that a pickle holds.

    ``file`` is open at the start of the pickle, ``size`` bytes before its end; ``name`` is for
    errors. Keys are text; leaves are None, bool, int, float, str, bytes and ``PickledArray``.
    """
    try:
        return _Interpreter(_BoundedReader(file, size)).load()
    except Refused as refusal:
        raise UnsafeWeights(
            f"{name} is a pickle that holds more than arrays: it wants {refusal}, which nf_zoo "
            "does not let a file do. Do not load it with other tools either, unless its origin is "
            "trusted; if it is, save its arrays with numpy.savez and load that."
        ) from None
    # Whatever a damaged pickle makes the interpreter stumble over: short reads, an empty stack.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise CorruptWeights(
            f"{name} is truncated or damaged, or not a pickle ({reason}). Fetch it again."
        ) from None


class _Dispatch(dict):
    """Opcode -> method; an opcode that is not admitted is refused by its name.

    Every look-up counts: a million empty lists are a small file, but no small memory.
    """

    def __init__(self, methods: dict) -> None:
        super().__init__(methods)
        self._left = MOST_INSTRUCTIONS

    def __getitem__(self, code: int):
        self._left -= 1
        if self._left < 0:
            raise Refused(f"more than {MOST_INSTRUCTIONS:,} instructions")
        return super().__getitem__(code)

    def __missing__(self, code: int):
        known = pickletools.code2op.get(chr(code))
        if known is None:
            raise ValueError(f"{code} is not an instruction")
        raise Refused(f"the instruction {known.name}")


class _Interpreter(pickle._Unpickler):
    """The standard library's unpickler in Python, its instructions cut down to the harmless."""

    dispatch = {opcode[0]: pickle._Unpickler.dispatch[opcode[0]] for opcode in _OPCODES}

    def __init__(self, file: _BoundedReader) -> None:
        super().__init__(file)
        self.dispatch = _Dispatch(self.dispatch)
        self._copies_left = file.left

    def find_class(self, module: str, name: str) -> StandIn:
        try:
            return GLOBALS[module, name]
        except KeyError:
            raise Refused(f"{shown(module)[1:-1]}.{shown(name)[1:-1]}") from None

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if type(function) is not StandIn or type(arguments) is not tuple:
            raise Refused("to call something that is not a function")
        made = self.stack[-1] = function.call(*arguments)
        if type(made) is bytes:
            # The same text encoded again and again would be small in the file only.
            self._copies_left -= len(made)
            if self._copies_left < 0:
                raise Refused("more bytes than the file has")

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) not in (PickledArray, PickledDtype) or type(state) is not tuple:
            raise Refused("to set the state of something that is not an array")
        target.set_state(state)

    dispatch[pickle.BUILD[0]] = load_build

    def load_bytearray8(self) -> None:
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def load_dict(self) -> None:
        items, made = self.pop_mark(), {}
        _set_items(made, items)
        self.append(made)

    dispatch[pickle.DICT[0]] = load_dict

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _set_items(self.stack[-1], [key, value])

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        items = self.pop_mark()
        _set_items(self.stack[-1], items)

    dispatch[pickle.SETITEMS[0]] = load_setitems


def _set_items(target: Any, items: list) -> None:
    keys, values = items[::2], items[1::2]
    # Only text: the hash of tuples in tuples in tuples would exhaust the stack of C.
    if type(target) is not dict or not all(type(key) is str for key in keys):
        raise Refused("a dictionary with keys that are not text")
    target.update(zip(keys, values, strict=True))


class _BoundedReader:
    """A file that hands out no more than it has, whatever length the pickle claims."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.left = file, size

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self.left:
            raise EOFError(f"{count} bytes wanted, {self.left} left")
        return self._count(self._file.read(count))

    def readline(self) -> bytes:
        return self._count(self._file.readline())

    def _count(self, data: bytes) -> bytes:
        self.left -= len(data)
        return data


class Refused(Exception):
    """A request of the pickle that is refused."""


class PickledArray:
    """An array of a pickle: bytes that have been held against type and shape, or one object.

    ``pickle`` makes an array empty first and fills it later, hence the second step.
    """

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: Any = None

    def array(self) -> np.ndarray | None:
        """Return the array, read-only, not copied; None if it holds an object or nothing yet."""
        return self._value if isinstance(self._value, np.ndarray) else None

    def content(self) -> Any:
        """Return the one object of an array of type object; None for any other array."""
        return self._value[0] if isinstance(self._value, tuple) else None

    def set_state(self, state: Any) -> None:
        """Take what numpy's ``__setstate__`` does: (version,) shape, type, order, data."""
        shape, dtype, is_fortran, data = state[-4:]
        if len(state) not in (4, 5):
            raise ValueError("an array's state has four or five parts")
        self.fill(shape, dtype, "F" if is_fortran is True else "C", data)

    def fill(self, shape: Any, dtype: Any, order: str, data: Any) -> Self:
        """Take the parts of an array, and return it."""
        if (
            type(shape) is not tuple
            or len(shape) > MOST_AXES
            or not isinstance(dtype, PickledDtype)
        ):
            raise ValueError("an array's shape or type is not valid")
        if not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError("an array's shape must be of non-negative integers")
        if dtype.numpy is None:
            if type(data) is not list or len(data) != 1 or math.prod(shape) != 1:
                raise Refused("an array of several Python objects")
            self._value = (data[0],)
            return self
        if type(data) is not bytes or len(data) != math.prod(shape) * dtype.numpy.itemsize:
            raise ValueError("an array's bytes are not those of its type and shape")
        self._value = np.frombuffer(data, dtype.numpy).reshape(shape, order=order)
        return self


class PickledDtype:
    """A plain numeric type, or object, for which ``numpy`` is None."""

    __slots__ = ("numpy",)

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if type(code) is not str or not (code in ("O", "O8") or _CODE.fullmatch(code)):
            raise Refused(f"an array of type {shown(code)}")
        self.numpy = None if code.startswith("O") else np.dtype(code)

    def set_state(self, state: Any) -> None:
        """Take version and byte order, and what only types with parts or fields have."""
        _, order, subtype, names, fields, *_ = state
        if order not in ("<", ">", "=", "|") or (subtype, names, fields) != (None, None, None):
            raise Refused("an array of a structured type")
        if self.numpy is not None:
            self.numpy = self.numpy.newbyteorder(order)


class StandIn:
    """A stand-in for a global that a pickle may name: it can be called and no more."""

    __slots__ = ("call",)

    def __init__(self, call: Callable) -> None:
        self.call = call


def _ndarray(*_):
    raise Refused("to call numpy.ndarray")


_NDARRAY = StandIn(_ndarray)


def _reconstruct(kind: Any, shape: Any, typecode: Any) -> PickledArray:
    if kind is not _NDARRAY or shape != (0,):
        raise Refused("an array that is not numpy's own")
    return PickledArray()


_RECONSTRUCT = StandIn(_reconstruct)


def _scalar(dtype: Any, data: Any) -> PickledArray:
    return PickledArray().fill((), dtype, "C", data)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> PickledArray:
    if order not in ("C", "F") or axes is not None:
        raise ValueError("the order of an array's axes is unknown")
    return PickledArray().fill(shape, dtype, order, data)


def _jax_array(function: Any, arguments: Any, state: Any, _: Any) -> PickledArray:
    """Return the numpy array as which a JAX array is pickled."""
    if function is not _RECONSTRUCT:
        raise Refused("an array that is none of JAX's own")
    array = _reconstruct(*arguments)
    array.set_state(state)
    return array


def _encoded(text: Any, encoding: Any) -> bytes:
    """Return bytes, as protocols before 3 write them."""
    if type(text) is not str or encoding != "latin1":
        raise Refused("to encode text")
    return text.encode("latin1")


def _mapping(content: Any = None) -> dict:
    content = {} if content is None else content
    if type(content) is not dict:
        raise ValueError("a mapping is made from a dictionary")
    return content


GLOBALS: dict[tuple[str, str], StandIn] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): StandIn(PickledDtype),
    ("_codecs", "encode"): StandIn(_encoded),
    ("builtins", "bytes"): StandIn(lambda: b""),
    ("__builtin__", "bytes"): StandIn(lambda: b""),
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
    """Return a short form for messages; of text alone, as nothing else is safe to print."""
    return repr(value[:80]) if type(value) is str else f"'{type(value).__name__}'"
