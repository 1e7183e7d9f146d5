"""Metadata entries from Python values: what each type takes, and that gguf-py reads it."""

import math
from fractions import Fraction

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.files.disk import OutputFile
from quantcore.gguf import GGUFReader, GGUFWriter, KeyValue, ValueType
from tests.support.gguf_bytes import EVERY_VALUE
from tests.support.model_files import fields

LIMITS = {
    "uint8": (0, 2**8 - 1), "int8": (-(2**7), 2**7 - 1), "uint16": (0, 2**16 - 1), "int16": (-(2**15), 2**15 - 1),
    "uint32": (0, 2**32 - 1), "int32": (-(2**31), 2**31 - 1), "uint64": (0, 2**64 - 1), "int64": (-(2**63), 2**63 - 1),
}  # fmt: skip


@pytest.mark.parametrize("key", EVERY_VALUE)
def test_every_type_is_made_from_its_value(key):
    type_id, raw, value = EVERY_VALUE[key]
    if type_id == ValueType.ARRAY:
        made = KeyValue.array(key, value, ValueType(raw[0]))
    else:
        made = KeyValue.of(key, value, ValueType(type_id))
    assert (made.key, made.type_id, made.raw, made.nbytes) == (key, type_id, raw, len(raw))
    assert KeyValue(key, type_id, raw) == made
    assert made.value == (pytest.approx(value) if type_id == ValueType.FLOAT32 else value)


def test_gguf_py_reads_what_is_made(tmp_path):
    kvs = [
        KeyValue.string("general.architecture", "llama"),
        KeyValue.uint32("u32", 7), KeyValue.int32("i32", -7), KeyValue.uint64("u64", 2**63), KeyValue.int64("i64", -1),
        KeyValue.float32("f32", 0.1), KeyValue.float64("f64", 0.1), KeyValue.bool("yes", True),
        KeyValue.bool("no", np.False_), KeyValue.string("text", "né"), KeyValue.string("bytes", b"\xc3\xa9"),
        KeyValue.array("tokens", ["a", b"\xff", "é"], "string"),
        KeyValue.array("scores", np.float32([0.5, -1]), "FLOAT32"),
        KeyValue.array("types", np.array([1, 2, 3], np.int64), "int32"), KeyValue.array("flags", [True, False], "bool"),
        KeyValue.array("none", [], "string"), KeyValue.array("items", (i for i in range(3)), ValueType.UINT8),
    ]  # fmt: skip
    with OutputFile(tmp_path / "out.gguf") as file:
        GGUFWriter(file, kvs, [])
    assert list(fields(tmp_path / "out.gguf").items()) == [(kv.key, (kv.type_id, kv.raw)) for kv in kvs]
    theirs = gguf.GGUFReader(tmp_path / "out.gguf").fields
    contents = {name: theirs[name].contents() for name in ("i32", "f32", "yes", "text", "bytes", "scores", "types")}
    assert contents == {
        "i32": -7, "f32": np.float32(0.1), "yes": True, "text": "né", "bytes": "é", "scores": [0.5, -1],
        "types": [1, 2, 3],
    }  # fmt: skip
    with GGUFReader(tmp_path / "out.gguf") as reader:
        assert reader.kvs == tuple(kvs)
        assert reader.value("tokens") == ["a", "\\xff", "é"]
        assert reader.value("items") == [0, 1, 2]


@pytest.mark.parametrize("kind", LIMITS)
def test_integers_stop_at_the_limits_of_their_type(kind):
    low, high = LIMITS[kind]
    for value in (low, high, np.array(high, np.uint64)[()] if low == 0 else np.int64(high)):
        assert KeyValue.of("k", value, kind).value == value
    for value in (low - 1, high + 1, 10**100):
        with pytest.raises(InvalidValueError, match="value of 'k': expected an integer from"):
            KeyValue.of("k", value, kind)
        with pytest.raises(InvalidValueError, match="value of 'k': item 1: expected an integer from"):
            KeyValue.array("k", [0, value], kind)


@given(value=st.floats(width=32), wide=st.floats())
def test_floats_come_back(value, wide):
    narrow = KeyValue.float32("k", value).value
    assert narrow == value or (math.isnan(narrow) and math.isnan(value))
    back = KeyValue.float64("k", wide).value
    assert back == wide or (math.isnan(back) and math.isnan(wide))


WRONG = {
    "uint32 of True": (lambda: KeyValue.uint32("k", True), InvalidTypeError, "value of 'k': expected an integer"),
    "uint32 of np.True_": (lambda: KeyValue.uint32("k", np.True_), InvalidTypeError, "expected an integer"),
    "uint32 of 7.5": (lambda: KeyValue.uint32("k", 7.5), InvalidTypeError, "got 7.5"),
    "uint32 of 7.0": (lambda: KeyValue.uint32("k", 7.0), InvalidTypeError, "got 7.0"),
    "uint32 of None": (lambda: KeyValue.uint32("k", None), InvalidTypeError, "got None"),
    "uint32 of text": (lambda: KeyValue.uint32("k", "7"), InvalidTypeError, "got '7'"),
    "uint32 of -1": (lambda: KeyValue.uint32("k", -1), InvalidValueError, "from 0 to 4294967295, got -1"),
    "uint64 of -1": (lambda: KeyValue.uint64("k", -1), InvalidValueError, "got -1"),
    "int32 of 2^31": (lambda: KeyValue.int32("k", 2**31), InvalidValueError, "got 2147483648"),
    "int64 of a list": (lambda: KeyValue.int64("k", [1]), InvalidTypeError, r"got \[1\]"),
    "float32 of True": (lambda: KeyValue.float32("k", True), InvalidTypeError, "expected a number, got True"),
    "float32 of text": (lambda: KeyValue.float32("k", "1"), InvalidTypeError, "expected a number, got '1'"),
    "float32 of None": (lambda: KeyValue.float32("k", None), InvalidTypeError, "expected a number, got None"),
    "float32 of 1j": (lambda: KeyValue.float32("k", 1j), InvalidTypeError, "expected a number, got 1j"),
    "float32 of 1e39": (lambda: KeyValue.float32("k", 1e39), InvalidValueError, "beyond the range of FLOAT32"),
    "float64 of 10^400": (lambda: KeyValue.float64("k", 10**400), InvalidValueError, "beyond the range of FLOAT64"),
    "bool of 1": (lambda: KeyValue.bool("k", 1), InvalidTypeError, "expected a bool, got 1"),
    "bool of None": (lambda: KeyValue.bool("k", None), InvalidTypeError, "expected a bool, got None"),
    "string of 42": (lambda: KeyValue.string("k", 42), InvalidTypeError, "expected a string, got 42"),
    "string of None": (lambda: KeyValue.string("k", None), InvalidTypeError, "expected a string, got None"),
    "string of half a surrogate": (lambda: KeyValue.string("k", "a\ud800"), InvalidValueError, "surrogate"),
    "key of bytes": (lambda: KeyValue.uint32(b"k", 1), InvalidTypeError, "key: expected a string, got b'k'"),
    "key of None": (lambda: KeyValue.uint32(None, 1), InvalidTypeError, "key: expected a string, got None"),
    "empty key": (lambda: KeyValue.uint32("", 1), InvalidValueError, "key: expected 1 to 65535 bytes"),
    "empty key, direct": (lambda: KeyValue("", ValueType.UINT8, b"\0"), InvalidValueError, "key: expected 1 to"),
    "NUL in a key": (lambda: KeyValue.string("a\0b", "x"), InvalidValueError, "without NUL"),
    "key of 65536 bytes": (lambda: KeyValue.uint32("é" * 32768, 1), InvalidValueError, "got 65536 bytes: 'éé"),
    "key of half a surrogate": (lambda: KeyValue.uint32("\udfff", 1), InvalidValueError, "key: .*surrogate"),
    "unknown type": (lambda: KeyValue.of("k", 1, "uint128"), InvalidValueError, "value_type: expected one of uint8"),
    "type of a number": (lambda: KeyValue.of("k", 1, 4), InvalidTypeError, "value_type: expected a ValueType"),
    "array by of": (lambda: KeyValue.of("k", [1], "array"), InvalidValueError, "use KeyValue.array"),
    "array of arrays": (lambda: KeyValue.array("k", [], "array"), InvalidValueError, "arrays in arrays"),
    "array of text": (lambda: KeyValue.array("k", "text", "string"), InvalidTypeError, "expected an iterable"),
    "array of a number": (lambda: KeyValue.array("k", 7, "uint8"), InvalidTypeError, "expected an iterable"),
    "array of mixed items": (lambda: KeyValue.array("k", [1, "x"], "uint8"), InvalidTypeError, "item 1: expected"),
    "array of floats": (lambda: KeyValue.array("k", np.ones(2), "uint8"), InvalidTypeError, "item 0: expected an"),
    "matrix": (lambda: KeyValue.array("k", np.ones((2, 2)), "float32"), InvalidValueError, r"got shape \(2, 2\)"),
    "unknown type, direct": (lambda: KeyValue("k", 13, b""), InvalidValueError, "type of 'k': expected"),
    "no bytes, direct": (lambda: KeyValue("k", 4, 1), InvalidTypeError, "value of 'k': expected bytes, got 1"),
    "too few bytes": (lambda: KeyValue("k", 4, b"\0"), InvalidValueError, "is not the bytes of one UINT32"),
    "too many bytes": (lambda: KeyValue("k", 4, bytes(5)), InvalidValueError, "is not the bytes of one UINT32"),
    "a bool of 2": (lambda: KeyValue("k", 7, b"\2"), InvalidValueError, "is not the bytes of one BOOL"),
    "a string that is longer": (lambda: KeyValue("k", 8, b"\2" + bytes(7)), InvalidValueError, "bytes of one STRING"),
    "an array of 2^64-1": (lambda: KeyValue("k", 9, b"\0" * 4 + b"\xff" * 8), InvalidValueError, "bytes of one ARRAY"),
    "2^64-1 strings": (lambda: KeyValue("k", 9, b"\x08\0\0\0" + b"\xff" * 8), InvalidValueError, "bytes of one ARRAY"),
    "a nested array": (lambda: KeyValue("k", 9, b"\x09\0\0\0" + bytes(8)), InvalidValueError, "bytes of one ARRAY"),
    "bools of 2": (lambda: KeyValue("k", 9, b"\7\0\0\0\1" + bytes(7) + b"\2"), InvalidValueError, "bytes of one ARRAY"),
    "array without a length": (lambda: KeyValue("k", 9, bytes(11)), InvalidValueError, "bytes of one ARRAY"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "error", "problem"), WRONG.values(), ids=WRONG)
def test_wrong_values_are_refused(make, error, problem):
    with pytest.raises(error, match=problem) as caught:
        make()
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_any_real_number_is_a_float():
    for value in (1, Fraction(1, 2), np.float16(0.5), np.int8(3), 0.25):
        assert KeyValue.float32("k", value).value == float(value)
