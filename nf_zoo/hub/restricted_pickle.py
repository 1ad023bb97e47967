"""Unpickling trees of arrays, and nothing else.

DeepMind published its networks as pickles. A pickle is a program; this interpreter runs the few
instructions that dictionaries, lists, numbers, text and arrays take, and refuses the others. The
globals a pickle may name are answered with the stand-ins of `pickled_arrays`, never with the real
functions. Nothing is imported, no object of the process can be reached, and memory stays in
proportion to the file.
"""

from __future__ import annotations

import pickle
import pickletools
from typing import Any, BinaryIO

from nf_zoo.hub.errors import CorruptWeights, UnsafeWeights
from nf_zoo.hub.pickled_arrays import GLOBALS, PickledArray, PickledDtype, Refused, StandIn, shown

MOST_INSTRUCTIONS = 2_000_000

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
"""Instructions that do here what they do in `pickle`; the others below, or not at all."""


def load_tree(file: BinaryIO, size: int, name: str) -> Any:
    """The nested dictionaries, lists and tuples of arrays that a pickle holds.

    Args:
        file: Open at the start of the pickle.
        size: Bytes from there to the end of the file.
        name: What to call the file in errors.

    Returns:
        The root: dictionaries with keys of type str, lists, tuples, None, bool, int, float, str,
        bytes and `PickledArray`.

    Raises:
        UnsafeWeights: if the pickle wants anything but that; names the function or instruction.
        CorruptWeights: if it is truncated, damaged or no pickle.

    Example:
        >>> import io
        >>> import numpy as np
        >>> stream = io.BytesIO(pickle.dumps({"net": {"w": np.ones(3)}}))
        >>> load_tree(stream, len(stream.getvalue()), "weights")["net"]["w"].array()
        array([1., 1., 1.])
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
            f"{name} is truncated or damaged, or no pickle ({reason}). Fetch it again."
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
            raise ValueError(f"{code} is no instruction")
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
            raise Refused("to call what is no function")
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
            raise Refused("to set the state of what is no array")
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
        raise Refused("a dictionary whose keys are no text")
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
