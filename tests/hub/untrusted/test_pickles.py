"""Pickles that want more than arrays run nothing; honest ones load exactly."""

from __future__ import annotations

import io
import pickle
import struct
import time
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest

from nf_zoo.hub.errors import CorruptWeights, UnsafeWeights, WeightsError
from nf_zoo.hub.untrusted.pickles import load_tree

pytestmark = pytest.mark.fast


def load(content: bytes):
    return load_tree(io.BytesIO(content), len(content), "weights.npz")


def text(value: str) -> bytes:
    """The instruction that pushes a text."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def called(function: bytes, *arguments: bytes) -> bytes:
    """Instructions that push the result of a call."""
    return function + b"(" + b"".join(arguments) + b"tR"


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def stacked(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


EXEC = named("builtins", "exec")
RECONSTRUCT = named("numpy._core.multiarray", "_reconstruct")
NDARRAY = named("numpy", "ndarray")
EMPTY_ARRAY = called(RECONSTRUCT, NDARRAY, b"K\x00\x85", b"C\x01b")
DTYPE = called(named("numpy", "dtype"), text("f4"), b"\x89", b"\x88")
OBJECT = called(named("numpy", "dtype"), text("O8"), b"\x89", b"\x88")
FROM_BUFFER = named("numpy._core.numeric", "_frombuffer")


def state(dtype: bytes, shape: bytes, data: bytes) -> bytes:
    return b"(K\x01" + shape + dtype + b"\x89" + data + b"t"


class Reduced:
    """Pickled as a call."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts

    def __reduce_ex__(self, protocol):
        return self.parts


def running(code: str, protocol: int) -> bytes:
    return pickle.dumps(Reduced(exec, (code,)), protocol)


def in_an_array(code: str) -> bytes:
    return pickle.dumps(np.array([Reduced(exec, (code,))], dtype=object), 4)


def hostile(code: str) -> dict[str, tuple[bytes, str]]:
    """Pickles that would run `code` -> (the pickle, the name in the refusal)."""
    run, system = text(code), text(f"python3 -c {code!r}")
    return {
        **{f"exec, protocol {p}": (running(code, p), "exec") for p in range(6)},
        "os.system": (called(named("os", "system"), system) + b".", "os.system"),
        "eval": (called(named("builtins", "eval"), text(f"exec({code!r})")) + b".", "eval"),
        "python 2's name": (b"\x80\x02" + called(named("__builtin__", "eval"), run) + b".", "eval"),
        "STACK_GLOBAL": (b"\x80\x04" + called(stacked("builtins", "exec"), run) + b".", "exec"),
        "a dotted name": (
            b"\x80\x04" + called(stacked("os", "path.os.system"), system) + b".",
            "os.path.os.system",
        ),
        "a dotted name in numpy": (
            b"\x80\x04" + called(stacked("numpy", "f2py.os.system"), system) + b".",
            "numpy.f2py.os.system",
        ),
        "getattr": (
            called(
                called(
                    named("builtins", "getattr"),
                    called(named("builtins", "__import__"), text("os")),
                    text("system"),
                ),
                system,
            )
            + b".",
            "getattr",
        ),
        "INST": (b"(" + run + b"ibuiltins\nexec\n.", "INST"),
        "OBJ": (b"(" + EXEC + run + b"o.", "exec"),
        "through a memo": (EXEC + b"q\x000" + called(b"h\x00", run) + b".", "exec"),
        "numpy's own exec": (
            called(named("numpy.testing._private.utils", "runstring"), run, b"}") + b".",
            "numpy.testing._private.utils.runstring",
        ),
        "pickle in pickle": (
            called(named("pickle", "loads"), b"C" + bytes([len(p := running("1", 2))]) + p) + b".",
            "pickle.loads",
        ),
        "functools.partial": (
            called(called(named("functools", "partial"), EXEC, run)) + b".",
            "functools.partial",
        ),
        "an object array": (in_an_array(code), "exec"),
        "beside honest arrays": (
            pickle.dumps({"net": {"w": np.ones(3)}, "z": Reduced(exec, (code,))}),
            "exec",
        ),
        "subprocess": (
            pickle.dumps(Reduced(__import__("subprocess").call, (["python3", "-c", code],))),
            "subprocess.call",
        ),
        "state of a class": (
            named("builtins", "exec") + b"}b0" + called(EXEC, run) + b".",
            "exec",
        ),
    }


@pytest.mark.parametrize("name", list(hostile("")))
def test_code_in_a_pickle_is_not_run(name, tmp_path):
    sentinel = tmp_path / "sentinel"
    content, culprit = hostile(f"open('{sentinel}', 'w').close()")[name]
    with pytest.raises(UnsafeWeights) as raised:
        load(content)
    assert not sentinel.exists()
    assert culprit in str(raised.value) and "weights.npz" in str(raised.value)


@pytest.mark.parametrize(
    "name", ["exec, protocol 0", "exec, protocol 4", "INST", "an object array"]
)
def test_the_same_pickles_do_run_in_pickle(name, tmp_path):
    sentinel = tmp_path / "sentinel"
    content, _ = hostile(f"open('{sentinel}', 'w').close()")[name]
    pickle.loads(content)
    assert sentinel.exists()


MISUSED = {
    "NEWOBJ": (NDARRAY + b")\x81.", "NEWOBJ"),
    "NEWOBJ_EX": (NDARRAY + b")}\x92.", "NEWOBJ_EX"),
    "OBJ of an admitted name": (b"(" + NDARRAY + b"o.", "OBJ"),
    "INST of an admitted name": (b"(inumpy\nndarray\n.", "INST"),
    "EXT1": (b"\x82\x01.", "EXT1"),
    "EXT2": (b"\x83\x01\x00.", "EXT2"),
    "EXT4": (b"\x84\x01\x00\x00\x00.", "EXT4"),
    "PERSID": (b"Pid\n.", "PERSID"),
    "BINPERSID": (text("id") + b"Q.", "BINPERSID"),
    "out of band": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "read-only buffer": (b"\x80\x05" + text("x") + b"\x98.", "READONLY_BUFFER"),
    "a set": (pickle.dumps({1, 2}), "EMPTY_SET"),
    "a frozen set": (pickle.dumps(frozenset((1,))), "FROZENSET"),
    "copyreg": (
        called(named("copyreg", "_reconstructor"), NDARRAY, NDARRAY, b"N") + b".",
        "copyreg._reconstructor",
    ),
    "add_extension": (named("copyreg", "add_extension") + b".", "copyreg.add_extension"),
    "type": (pickle.dumps(type), "builtins.type"),
    "a class of ours": (
        pickle.dumps(UnsafeWeights),
        "nf_zoo.hub.errors.UnsafeWeights",
    ),
    "an array made directly": (
        called(NDARRAY, b"\x8a\x08" + struct.pack("<q", 2**60) + b"\x85") + b".",
        "numpy.ndarray",
    ),
    "an array of another class": (
        called(RECONSTRUCT, named("numpy", "dtype"), b"K\x00\x85", b"C\x01b") + b".",
        "not numpy's own",
    ),
    "an array with a size already": (
        called(RECONSTRUCT, NDARRAY, b"J\xff\xff\xff\x7f\x85", b"C\x01b") + b".",
        "not numpy's own",
    ),
    "jax's function with another": (
        called(named("jax._src.array", "_reconstruct_array"), DTYPE, b")", b")", b"}") + b".",
        "none of JAX's own",
    ),
    "state of a function": (RECONSTRUCT + b"}" + text("call") + DTYPE + b"sb.", "set the state"),
    "state of a function's slots": (
        RECONSTRUCT + b"N}" + text("call") + DTYPE + b"s\x86b.",
        "set the state",
    ),
    "state of a dictionary": (b"}}" + text("__class__") + NDARRAY + b"sb.", "set the state"),
    "state of an array as a dictionary": (EMPTY_ARRAY + b"}b.", "set the state"),
    "several objects in an array": (
        EMPTY_ARRAY + state(OBJECT, b"K\x02\x85", b"](NNe") + b"b.",
        "several Python objects",
    ),
    "calling a text": (called(text("exec"), text("1")) + b".", "something that is not a function"),
    "calling with a list": (RECONSTRUCT + b"]R.", "something that is not a function"),
    "a structured type": (
        DTYPE + b"(K\x03" + text("|") + b"N" + text("f") + b"\x85}J\xff\xff\xff\xff" * 1 + b"tb.",
        "structured type",
    ),
    "a type of void": (called(named("numpy", "dtype"), text("V8")) + b".", "an array of type 'V8'"),
    "a type with a shape": (
        called(named("numpy", "dtype"), text("(9999999,)f8")) + b".",
        "an array of type",
    ),
    "encoding by another codec": (
        called(named("_codecs", "encode"), text("x"), text("zlib")) + b".",
        "to encode text",
    ),
    "tuples for keys": (b"}" + b")\x85" * 100 + b"Ns.", "keys that are not text"),
    "numbers for keys": (pickle.dumps({1: 2}), "keys that are not text"),
    "text copied again and again": (
        text("x" * 10_000)
        + b"q\x00"
        + text("latin1")
        + b"q\x01"
        + called(named("_codecs", "encode"), b"h\x00", b"h\x01") * 50
        + b".",
        "more bytes than the file has",
    ),
    "an unending program": (b"]0" * 1_000_001 + b".", "2,000,000 instructions"),
    "a very long name": (named("m" * 10_000, "n") + b".", "mmm"),
}


@pytest.mark.parametrize("name", list(MISUSED))
def test_what_is_not_admitted_is_named(name):
    content, culprit = MISUSED[name]
    with pytest.raises(UnsafeWeights) as raised:
        load(content)
    assert culprit in str(raised.value)
    assert len(str(raised.value)) < 1000


BYTES = b"C\x08" + bytes(8)
DAMAGED = {
    "nothing": b"",
    "no pickle": b"\x00\x01\x02 not a pickle",
    "text": b"<html>Please log in</html>",
    "no end": pickle.dumps({"a": 1})[:-1],
    "an unknown protocol": b"\x80\x7fN.",
    "an empty stack": b".",
    "an unknown memo": b"h\x07.",
    "no mark": b"t.",
    "a size of 2**60": FROM_BUFFER
    + b"("
    + BYTES
    + DTYPE
    + b"\x8a\x08"
    + struct.pack("<q", 2**60)
    + b"\x85"
    + text("C")
    + b"tR.",
    "a filled size of 2**60": EMPTY_ARRAY
    + state(DTYPE, b"\x8a\x08" + struct.pack("<q", 2**60) + b"\x85", BYTES)
    + b"b.",
    "a negative size": EMPTY_ARRAY + state(DTYPE, b"J\xff\xff\xff\xff\x85", BYTES) + b"b.",
    "a text for a size": EMPTY_ARRAY + state(DTYPE, text("2"), BYTES) + b"b.",
    "too many axes": EMPTY_ARRAY + state(DTYPE, b"(" + b"K\x01" * 99 + b"t", BYTES) + b"b.",
    "a list for bytes": EMPTY_ARRAY + state(DTYPE, b"K\x02\x85", b"]") + b"b.",
    "half a state": EMPTY_ARRAY + b"K\x01K\x01\x86b.",
    "bytes of 2**60": b"\x8e" + struct.pack("<Q", 2**60) + b"xx.",
    "bytes of 2**31": b"B" + struct.pack("<I", 2**31) + b"xx.",
    "a byte array of 2**62": b"\x96" + struct.pack("<Q", 2**62) + b"xx.",
    "text of 2**60": b"\x8d" + struct.pack("<Q", 2**60) + b"xx.",
    "a frame of 2**60": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.",
    "a number of 2**31 bytes": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"xx.",
    "wrong arguments": called(RECONSTRUCT) + b".",
    "appending to an array": EMPTY_ARRAY + b"Na.",
    "an odd dictionary": b"(" + text("a") + b"d.",
}


@pytest.mark.parametrize("name", list(DAMAGED))
def test_damaged_and_boastful_pickles_cost_nothing(name):
    tracemalloc.start()
    start = time.monotonic()
    try:
        with pytest.raises(CorruptWeights, match="truncated or damaged"):
            load(DAMAGED[name])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < 2


def test_a_memo_of_two_billion_places_costs_nothing():
    tracemalloc.start()
    try:
        assert load(b"Nr" + struct.pack("<I", 2**32 - 1) + b".") is None
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("nest", [b")" + b"\x85" * 500_000, b"]" * 300_000 + b"a" * 299_999])
def test_deep_nesting_does_not_exhaust_the_stack(nest):
    load(nest + b".")
    with pytest.raises(WeightsError):
        load(b"}" + nest + b"Ns.")


@pytest.mark.parametrize("content", [running("1", 0), pickle.dumps({"a": np.ones((3, 4))}, 5)])
def test_every_truncation_is_an_error_of_ours(content):
    for length in range(len(content)):
        with pytest.raises(WeightsError):
            load(content[:length])


def test_flipped_bytes_run_nothing_and_raise_nothing_else():
    content = pickle.dumps({"net": {"w": np.ones((2, 3), "float32"), "b": np.float32(1)}}, 4)
    generator = np.random.default_rng(0)
    for _ in range(3000):
        damaged = bytearray(content)
        for place in generator.integers(0, len(content), 3):
            damaged[place] = generator.integers(256)
        try:
            load(bytes(damaged))
        except WeightsError:
            continue


def honest() -> dict:
    generator = np.random.default_rng(1)
    return {
        "net/~/conv": OrderedDict(
            w=generator.standard_normal((3, 3, 2, 4)).astype("float32"),
            gain=np.asfortranarray(generator.standard_normal((2, 3))),
            big_endian=np.arange(6, dtype=">f4").reshape(2, 3),
            half=np.arange(3, dtype="float16"),
            scalar=np.array(0.5, "float32"),
            number=np.float32(0.25),
            count=np.int32(7),
            flag=np.array([True, False]),
            empty=np.zeros((0, 3), "float32"),
            strided=np.arange(10, dtype="float32")[::3],
        ),
        "net/~/linear": {"b": np.arange(3, dtype="uint8")},
    }


@pytest.mark.parametrize("protocol", range(6))
def test_honest_trees_load_exactly(protocol):
    tree = honest()
    loaded = load(pickle.dumps((tree, {"note": ["ü", 1, 2.5, None, True, b"b", 2**70]}), protocol))
    assert loaded[1] == {"note": ["ü", 1, 2.5, None, True, b"b", 2**70]}
    assert loaded[0].keys() == tree.keys()
    for module, parameters in tree.items():
        assert list(loaded[0][module]) == list(parameters)
        for name, expected in parameters.items():
            array = loaded[0][module][name].array()
            assert array.dtype == expected.dtype and array.shape == expected.shape
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_names_of_both_numpys(core):
    content = pickle.dumps(np.arange(3.0), 2)
    other = content.replace(b"numpy._core", core.encode()).replace(b"numpy.core", core.encode())
    np.testing.assert_array_equal(load(other).array(), np.arange(3.0))


@pytest.mark.parametrize("name", ["FlatMapping", "frozendict"])
def test_haikus_mappings_become_dictionaries(name):
    tree = pickle.dumps({"net": {"w": np.ones(2)}}, 2)[2:-1]
    content = b"\x80\x02" + called(named("haiku._src.data_structures", name), tree) + b"."
    np.testing.assert_array_equal(load(content)["net"]["w"].array(), np.ones(2))


@pytest.mark.slow
def test_jax_arrays_become_arrays():
    import jax

    content = pickle.dumps({"net": {"w": jax.numpy.arange(3.0)}})
    np.testing.assert_array_equal(load(content)["net"]["w"].array(), np.arange(3.0))


def test_an_array_of_one_object_shows_it():
    assert load(pickle.dumps(np.array({"a": 1}, dtype=object))).content() == {"a": 1}
    assert load(pickle.dumps(np.ones(2))).content() is None
