"""Metadata of a GGUF file: a key with its value, made from Python values or found in a file.

A value is kept as the bytes that it has in the file, so that a copy has the same ones. Long values of a file stay there
(`FileBytes`) until somebody asks for them: a file may hold half a gigabyte of metadata.
"""

import builtins
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments
from quantcore._base.text import brief, literal, quote
from quantcore._kernels import walk_strings
from quantcore.errors import FileFormatError, InvalidTypeError, InvalidValueError
from quantcore.gguf.layout import (
    MAX_KEY_BYTES,
    MAX_METADATA_BYTES,
    SCALAR_CODES,
    SCALAR_SIZES,
    ValueType,
    encode_string,
)

_COPY_BYTES = 1 << 20
_ITEMS_START = 12
_LONGEST_SHOWN = 80  # bytes of a value, in a repr
_INTEGERS = {
    t: (-(1 << 8 * SCALAR_SIZES[t] - 1), (1 << 8 * SCALAR_SIZES[t] - 1) - 1)
    if t.name.startswith("INT")
    else (0, (1 << 8 * SCALAR_SIZES[t]) - 1)
    for t in SCALAR_CODES
    if "INT" in t.name
}
"""The least and the greatest number of each integer type."""


class FileBytes(Protocol):
    """Bytes that are still in a file."""

    @property
    def nbytes(self) -> int:
        """How many there are."""
        ...

    def read(self, start: int, count: int) -> bytes:
        """So many of them, from byte `start` on."""
        ...


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One metadata entry. `of`, `array` and the functions named like a type make one from a Python value.

    Attributes
    ----------
    key : str
    type_id : int
        A `ValueType`.
    data : bytes, or what is still in a file
        The value's bytes in a file, without its type; `raw` reads them.

    Raises
    ------
    TypeError, ValueError
        The key is not text, is empty, has a NUL character or more than 65535 bytes; the bytes are not those of a value
        of the type.

    Examples
    --------
    >>> KeyValue.of("general.name", "tiny", "string").value
    'tiny'
    >>> KeyValue.array("tokenizer.ggml.token_type", [1, 3, 1], "int32").value
    [1, 3, 1]
    """

    key: str
    type_id: int
    data: bytes | FileBytes

    def __post_init__(self) -> None:
        _check_key(self.key)
        if not isinstance(self.data, bytes):
            raise InvalidTypeError(f"value of {quote(self.key)}: expected bytes, got {brief(self.data)}")
        arguments.integer(self.type_id, f"type of {quote(self.key)}", 0, max(ValueType))
        if not is_value(self.type_id, self.data):
            name = ValueType(self.type_id).name
            raise InvalidValueError(f"value of {quote(self.key)}: {brief(self.data)} is not the bytes of one {name}")

    def __repr__(self) -> str:
        is_short = isinstance(self.data, bytes) and self.nbytes <= _LONGEST_SHOWN
        value = literal(self.value) if is_short else f"{self.nbytes} bytes"
        return f"KeyValue({literal(self.key)}, {ValueType(self.type_id).name}, {value})"

    @property
    def nbytes(self) -> int:
        """Bytes of the value."""
        return len(self.data) if isinstance(self.data, bytes) else self.data.nbytes

    @property
    def raw(self) -> bytes:
        """The value's bytes, read from the file if they are still there."""
        return self.read(0, self.nbytes)

    @property
    def value(self) -> Any:
        """The decoded value: a list for an array. What is not UTF-8 in a string is escaped, such as `\\xff`."""
        raw = self.raw
        if not isinstance(self.data, bytes) and not is_value(self.type_id, raw):
            raise _changed(self)
        return decode_value(self.type_id, raw)

    def read(self, start: int, count: int) -> bytes:
        """The `count` bytes of the value from byte `start`, or as many as there are."""
        start, count = arguments.integer(start, "start", 0), arguments.integer(count, "count", 0)
        return self.data[start : start + count] if isinstance(self.data, bytes) else self.data.read(start, count)

    def encode(self) -> Iterator[bytes]:
        """Key, type and value as bytes of the file, a megabyte at a time."""
        yield encode_string(self.key) + struct.pack("<I", self.type_id)
        for start in range(0, self.nbytes, _COPY_BYTES):
            yield self.read(start, min(_COPY_BYTES, self.nbytes - start))

    @classmethod
    def of(cls, key: str, value: Any, value_type: ValueType | str) -> "KeyValue":
        """An entry with one value.

        Parameters
        ----------
        key : str
        value : int, float, bool, str or bytes
            As the type wants it: no bool is taken for a number, no float for an integer. Bytes are a string that need
            not be UTF-8.
        value_type : ValueType or str
            Any type but ARRAY, or its name in any case.
        """
        kind = _value_type(value_type)
        if kind == ValueType.ARRAY:
            raise InvalidValueError("value_type: an array also needs the type of its items; use KeyValue.array")
        _check_key(key)
        return cls(key, int(kind), _encode(value, kind, f"value of {quote(key)}"))

    @classmethod
    def array(cls, key: str, values: Iterable[Any] | NDArray[Any], item_type: ValueType | str) -> "KeyValue":
        """An entry with an array.

        Parameters
        ----------
        key : str
        values : iterable or ndarray, shape (n,)
            The items, each as `of` takes it; it may be empty.
        item_type : ValueType or str
            Any type but ARRAY, or its name in any case.
        """
        kind = _value_type(item_type, "item_type")
        if kind == ValueType.ARRAY:
            raise InvalidValueError("item_type: GGUF files with arrays in arrays are not read by llama.cpp")
        _check_key(key)
        name = f"value of {quote(key)}"
        if isinstance(values, np.ndarray) and values.ndim != 1:
            raise InvalidValueError(f"{name}: expected one dimension, got shape {values.shape}")
        if isinstance(values, (bytearray, memoryview)):
            raise InvalidTypeError(f"{name}: expected an iterable of items, got {brief(values)}")
        items = values.tolist() if isinstance(values, np.ndarray) else arguments.entries(values, name, "items")
        parts = [_encode(item, kind, f"{name}: item {i}") for i, item in enumerate(items)]
        return cls(key, int(ValueType.ARRAY), struct.pack("<IQ", kind, len(parts)) + b"".join(parts))

    @classmethod
    def uint32(cls, key: str, value: int) -> "KeyValue":
        """An entry with an unsigned integer of 32 bits, as most counts are."""
        return cls.of(key, value, ValueType.UINT32)

    @classmethod
    def int32(cls, key: str, value: int) -> "KeyValue":
        """An entry with an integer of 32 bits."""
        return cls.of(key, value, ValueType.INT32)

    @classmethod
    def uint64(cls, key: str, value: int) -> "KeyValue":
        """An entry with an unsigned integer of 64 bits."""
        return cls.of(key, value, ValueType.UINT64)

    @classmethod
    def int64(cls, key: str, value: int) -> "KeyValue":
        """An entry with an integer of 64 bits."""
        return cls.of(key, value, ValueType.INT64)

    @classmethod
    def float32(cls, key: str, value: float) -> "KeyValue":
        """An entry with a float of 32 bits, the nearest to `value`."""
        return cls.of(key, value, ValueType.FLOAT32)

    @classmethod
    def float64(cls, key: str, value: float) -> "KeyValue":
        """An entry with a float of 64 bits."""
        return cls.of(key, value, ValueType.FLOAT64)

    @classmethod
    def string(cls, key: str, value: str | bytes) -> "KeyValue":
        """An entry with a string."""
        return cls.of(key, value, ValueType.STRING)

    @classmethod
    def bool(cls, key: str, value: builtins.bool) -> "KeyValue":
        """An entry with True or False."""
        return cls.of(key, value, ValueType.BOOL)


def found_key_value(key: str, type_id: int, data: bytes | FileBytes) -> KeyValue:
    """An entry that the reader has checked where it lies in the file; nothing is checked again."""
    kv = object.__new__(KeyValue)
    for name, value in (("key", key), ("type_id", type_id), ("data", data)):
        object.__setattr__(kv, name, value)
    return kv


def is_value(type_id: int, raw: bytes) -> bool:
    """Whether bytes are exactly one value of a type."""
    if type_id == ValueType.STRING:
        return len(raw) >= 8 and struct.unpack_from("<Q", raw)[0] == len(raw) - 8
    if type_id != ValueType.ARRAY:
        return len(raw) == SCALAR_SIZES[type_id] and (type_id != ValueType.BOOL or raw[0] <= 1)
    if len(raw) < _ITEMS_START:
        return False
    item_type, n_items = struct.unpack_from("<IQ", raw)
    if item_type == ValueType.STRING:
        return n_items <= len(raw) // 8 and walk_strings(raw, _ITEMS_START, n_items) == (n_items, len(raw))
    if item_type not in SCALAR_SIZES or len(raw) != _ITEMS_START + n_items * SCALAR_SIZES[item_type]:
        return False
    return item_type != ValueType.BOOL or are_bools(raw[_ITEMS_START:])


def are_bools(raw: bytes | bytearray | memoryview) -> bool:
    """Whether all bytes are 0 or 1."""
    return len(raw) == 0 or int(np.frombuffer(raw, np.uint8).max()) <= 1


def decode_value(type_id: int, raw: bytes) -> Any:
    """The value that `is_value` has found good."""
    if type_id == ValueType.STRING:
        return _text(raw[8:])
    if type_id != ValueType.ARRAY:
        return struct.unpack("<" + SCALAR_CODES[ValueType(type_id)], raw)[0]
    item_type, n_items = struct.unpack_from("<IQ", raw)
    if item_type != ValueType.STRING:
        return list(struct.unpack_from(f"<{n_items}{SCALAR_CODES[ValueType(item_type)]}", raw, _ITEMS_START))
    items, position = [], _ITEMS_START
    for _ in range(n_items):
        (length,) = struct.unpack_from("<Q", raw, position)
        items.append(_text(raw[position + 8 : position + 8 + length]))
        position += 8 + length
    return items


def shorten_value(kv: KeyValue, most_items: int, longest_text: int) -> Any:
    """The value as it is shown, of which no more is read: of a long array the length and the first items, as a dict.

    Long strings are cut, with their length at the end.
    """
    if kv.type_id == ValueType.STRING:
        return _shown_text(kv, 0, longest_text)
    if kv.type_id != ValueType.ARRAY:
        return kv.value
    item_type, n_items = struct.unpack("<IQ", kv.read(0, _ITEMS_START))
    n_shown = min(n_items, most_items)
    if item_type == ValueType.STRING:
        items, position = [], _ITEMS_START
        for _ in range(n_shown):
            items.append(_shown_text(kv, position, longest_text))
            position += 8 + struct.unpack("<Q", kv.read(position, 8))[0]
    elif item_type not in SCALAR_SIZES:
        raise _changed(kv)
    else:
        part = struct.pack("<IQ", item_type, n_shown) + kv.read(_ITEMS_START, n_shown * SCALAR_SIZES[item_type])
        items = decode_value(ValueType.ARRAY, part)
    return items if n_shown == n_items else {"length": n_items, "first": items}


def _changed(kv: KeyValue) -> FileFormatError:
    return FileFormatError(f"value of {quote(kv.key)}: the file was changed while it was open")


def _shown_text(kv: KeyValue, position: int, longest: int) -> str:
    (length,) = struct.unpack("<Q", kv.read(position, 8))
    text = _text(kv.read(position + 8, min(length, longest)))
    return text if length <= longest else f"{text}... ({length} bytes)"


def _text(data: bytes) -> str:
    # Vocabularies hold raw bytes as tokens, and other strings what some editor wrote: they are shown escaped, and
    # copied unchanged.
    return data.decode("utf-8", "backslashreplace")


def _check_key(key: Any) -> None:
    data = arguments.utf_8(key, "key")
    if not key or "\0" in key or len(data) > MAX_KEY_BYTES:
        raise InvalidValueError(
            f"key: expected 1 to {MAX_KEY_BYTES} bytes without NUL, got {len(data)} bytes: {quote(key)}"
        )


def _value_type(value_type: Any, name: str = "value_type") -> ValueType:
    if isinstance(value_type, str):
        return ValueType[arguments.choice(value_type, name, [t.name.lower() for t in ValueType]).upper()]
    if isinstance(value_type, ValueType):
        return value_type
    raise InvalidTypeError(f"{name}: expected a ValueType or its name, got {brief(value_type)}")


def _encode(value: Any, kind: ValueType, name: str) -> bytes:
    if kind == ValueType.STRING:
        data = value if isinstance(value, bytes) else arguments.utf_8(value, name)
        if len(data) > MAX_METADATA_BYTES:
            raise InvalidValueError(f"{name}: {len(data)} bytes; the limit for metadata is {MAX_METADATA_BYTES}")
        return encode_string(data)
    if kind == ValueType.BOOL:
        return struct.pack("<?", arguments.flag(value, name))
    if kind in _INTEGERS:
        return struct.pack("<" + SCALAR_CODES[kind], arguments.integer(value, name, *_INTEGERS[kind]))
    if isinstance(value, (builtins.bool, np.bool_)) or not isinstance(value, Real):
        raise InvalidTypeError(f"{name}: expected a number, got {brief(value)}")
    try:
        return struct.pack("<" + SCALAR_CODES[kind], float(value))
    except OverflowError:
        raise InvalidValueError(f"{name}: {brief(value)} is beyond the range of {kind.name}") from None
