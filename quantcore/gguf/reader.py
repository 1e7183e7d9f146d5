"""A strict reader of GGUF files that may be hostile: every count, length and offset is checked before it is used.

Only what llama.cpp itself could load is accepted: whole tensors, one after the other, and nothing behind them.
Metadata are walked, not decoded: `KeyValue.raw` keeps each value as it stands in the file.
"""

import os
import struct
from typing import Any, NoReturn, Self

from quantcore._files import InputFile
from quantcore._kernels import walk_strings
from quantcore.errors import FileFormatError
from quantcore.ggml_types import GGML_TYPES
from quantcore.gguf.layout import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_DIMENSIONS,
    MAX_NAME_BYTES,
    SCALAR_CODES,
    VERSIONS,
    KeyValue,
    TensorInfo,
    ValueType,
    padded,
)

MAX_METADATA_BYTES = 30_000_000
_READ_STEP = 1 << 20
MAX_KEY_BYTES = 65535
MAX_ALIGNMENT = 1 << 16
MAX_ELEMENTS = (1 << 63) - 1
_SCALAR_SIZES = {int(t): struct.calcsize("<" + code) for t, code in SCALAR_CODES.items()}
_SMALLEST_KEY_VALUE = 8 + 1 + 4 + 1
_SMALLEST_TENSOR_INFO = 8 + 1 + 4 + 8 + 4 + 8


class GGUFReader:
    """The metadata and the table of tensors of a GGUF file, and positioned access to the tensors' bytes.

    Parameters
    ----------
    path : path
        A regular file, GGUF version 2 or 3, little-endian.

    Attributes
    ----------
    version, alignment : int
    kvs : tuple of KeyValue
        In the file's order.
    tensors : tuple of TensorInfo
        In the file's order.

    Raises
    ------
    FileFormatError
        Anything malformed: the message names the file, the field, the offset and the limit.
    OSError
        The file cannot be opened or read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = InputFile(path)
        try:
            self._parse()
        except BaseException:
            self._file.close()
            raise

    @property
    def path(self) -> str:
        """The path, for messages."""
        return self._file.label

    def value(self, key: str) -> Any:
        """The decoded value of a key (a list for an array), or None if there is no such key."""
        for kv in self.kvs:
            if kv.key == key:
                return _decoded(kv.type_id, kv.raw)
        return None

    def read_into(self, tensor: TensorInfo, start: int, buffer: Any) -> None:
        """Fill `buffer` with the tensor's bytes from byte `start` on; ValueError if they are not all the tensor's."""
        self._file.read_part(tensor.offset, tensor.nbytes, start, buffer)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _parse(self) -> None:
        cursor = _Cursor(self._file)
        magic = cursor.take(4, "magic")
        if magic != MAGIC:
            cursor.refuse("magic", f"expected {MAGIC!r}, got {magic!r}", at=0)
        self.version = cursor.number("I", "version")
        if self.version not in VERSIONS:
            hint = " (a big-endian file)" if self.version & 0xFFFF == 0 and self.version else ""
            cursor.refuse("version", f"expected 2 or 3, got {self.version}{hint}", at=4)
        n_tensors = cursor.count("tensor count", _SMALLEST_TENSOR_INFO)
        n_kvs = cursor.count("metadata count", _SMALLEST_KEY_VALUE)
        self.kvs = _key_values(cursor, n_kvs)
        self.alignment = _alignment(cursor, self.kvs)
        self.tensors = _tensor_infos(cursor, n_tensors, self.alignment)


class _Cursor:
    """Takes fields off the head of the file, each checked against the end of the file and of what metadata may be."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._buffer = bytearray()
        self.offset = 0

    def refuse(self, field: str, problem: str, *, at: int | None = None) -> NoReturn:
        offset = self.offset if at is None else at
        raise FileFormatError(f"{self._file.label}: {field}: {problem}; offset {offset}, file size {self._file.size}")

    @property
    def remaining(self) -> int:
        return self._file.size - self.offset

    @property
    def file_size(self) -> int:
        return self._file.size

    def need(self, count: int, field: str) -> None:
        """Make sure that `count` more bytes are there, and read them in."""
        end = self.offset + count
        if count > self.remaining:
            self.refuse(field, f"takes {count} bytes, {self.remaining} are left")
        if end > MAX_METADATA_BYTES:
            self.refuse(field, f"ends at {end}; the limit for metadata is {MAX_METADATA_BYTES} bytes")
        loaded = len(self._buffer)
        if end > loaded:
            self._buffer += self._file.read(loaded, min(max(end - loaded, _READ_STEP), self._file.size - loaded))

    def take(self, count: int, field: str) -> bytes:
        self.need(count, field)
        self.offset += count
        return bytes(self._buffer[self.offset - count : self.offset])

    def number(self, code: str, field: str) -> int:
        size = struct.calcsize("<" + code)
        self.need(size, field)
        (value,) = struct.unpack_from("<" + code, self._buffer, self.offset)
        self.offset += size
        return int(value)

    def count(self, field: str, smallest: int) -> int:
        """A number of items that take at least `smallest` bytes each."""
        value = self.number("Q", field)
        if value > self.remaining // smallest:
            self.refuse(field, f"{value} items of at least {smallest} bytes, {self.remaining} bytes are left")
        return value

    def text(self, field: str, longest: int) -> str:
        """A length and that many bytes of UTF-8 without NUL."""
        start = self.offset
        length = self.number("Q", f"{field} length")
        if length > longest:
            self.refuse(field, f"{length} bytes, the limit is {longest}", at=start)
        data = self.take(length, field)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            self.refuse(field, f"not UTF-8: {data[:40]!r}", at=start)
        return text

    def name(self, field: str, longest: int) -> str:
        start = self.offset
        text = self.text(field, longest)
        if not text or "\0" in text:
            self.refuse(field, "empty or with a NUL character", at=start)
        return text

    def skip_value(self, type_id: int, field: str) -> None:
        """Walk over one metadata value."""
        start = self.offset
        if type_id == ValueType.STRING:
            self.text(field, self.remaining)
        elif type_id == ValueType.ARRAY:
            element_type = self.number("I", f"{field} element type")
            n_items = self.number("Q", f"{field} length")
            self._skip_items(element_type, n_items, field)
        elif type_id in _SCALAR_SIZES:
            data = self.take(_SCALAR_SIZES[type_id], field)
            if type_id == ValueType.BOOL and data[0] > 1:
                self.refuse(field, f"a bool must be 0 or 1, got {data[0]}", at=start)
        else:
            self.refuse(field, f"unknown value type {type_id}", at=start)

    def _skip_items(self, element_type: int, n_items: int, field: str) -> None:
        if element_type == ValueType.STRING:
            self.need(8 * n_items, f"{field} array")
            while n_items:
                n_walked, self.offset = walk_strings(self._buffer, self.offset, n_items)
                n_items -= n_walked
                if n_items:
                    self.need(8, field)
                    (length,) = struct.unpack_from("<Q", self._buffer, self.offset)
                    self.need(8 + length, field)
        elif element_type in _SCALAR_SIZES:
            size = _SCALAR_SIZES[element_type] * n_items
            self.need(size, f"{field} array")
            if element_type == ValueType.BOOL and n_items and max(self._buffer[self.offset : self.offset + size]) > 1:
                self.refuse(field, "a bool must be 0 or 1")
            self.offset += size
        else:
            self.refuse(field, f"unknown or nested array element type {element_type}")

    def between(self, start: int) -> bytes:
        return bytes(memoryview(self._buffer)[start : self.offset])


def _key_values(cursor: _Cursor, n_kvs: int) -> tuple[KeyValue, ...]:
    kvs: list[KeyValue] = []
    seen: set[str] = set()
    for i in range(n_kvs):
        start = cursor.offset
        key = cursor.name(f"key {i}", MAX_KEY_BYTES)
        if key in seen:
            cursor.refuse(f"key {i}", f"duplicate {key[:80]!r}", at=start)
        seen.add(key)
        field = f"value of {key[:80]!r}"
        type_id = cursor.number("I", f"type of {field}")
        start = cursor.offset
        cursor.skip_value(type_id, field)
        kvs.append(KeyValue(key, type_id, cursor.between(start)))
    return tuple(kvs)


def _alignment(cursor: _Cursor, kvs: tuple[KeyValue, ...]) -> int:
    for kv in kvs:
        if kv.key == ALIGNMENT_KEY:
            if kv.type_id != ValueType.UINT32:
                cursor.refuse(ALIGNMENT_KEY, f"expected type UINT32, got {ValueType(kv.type_id).name}")
            (alignment,) = struct.unpack("<I", kv.raw)
            if alignment < 8 or alignment > MAX_ALIGNMENT or alignment & (alignment - 1):
                cursor.refuse(ALIGNMENT_KEY, f"expected a power of two from 8 to {MAX_ALIGNMENT}, got {alignment}")
            return int(alignment)
    return DEFAULT_ALIGNMENT


def _tensor_infos(cursor: _Cursor, n_tensors: int, alignment: int) -> tuple[TensorInfo, ...]:
    """The table, with offsets still relative to the data, then checked to be one tensor after the other."""
    found: list[tuple[TensorInfo, int]] = []
    seen: set[str] = set()
    for i in range(n_tensors):
        start = cursor.offset
        name = cursor.name(f"name of tensor {i}", MAX_NAME_BYTES)
        if name in seen:
            cursor.refuse(f"name of tensor {i}", f"duplicate {name!r}", at=start)
        seen.add(name)
        found.append((_tensor_info(cursor, name), start))
    data_start = padded(cursor.offset, alignment)
    position = data_start
    end = cursor.offset
    tensors = []
    for info, start in found:
        offset = data_start + info.offset
        if info.offset % alignment or offset != position:
            cursor.refuse(
                f"offset of tensor {info.name!r}", f"expected {position - data_start}, got {info.offset}", at=start
            )
        end = offset + info.nbytes
        if end > cursor.file_size:
            cursor.refuse(f"data of tensor {info.name!r}", f"end at {end}, beyond the file", at=start)
        position = padded(end, alignment)
        tensors.append(TensorInfo(info.name, info.shape, info.type_id, offset))
    if cursor.file_size not in (end, padded(end, alignment)):
        cursor.refuse("end of file", f"{cursor.file_size - end} bytes after the last tensor", at=end)
    return tuple(tensors)


def _tensor_info(cursor: _Cursor, name: str) -> TensorInfo:
    field = f"of tensor {name!r}"
    start = cursor.offset
    n_dimensions = cursor.number("I", f"number of dimensions {field}")
    if not 1 <= n_dimensions <= MAX_DIMENSIONS:
        cursor.refuse(f"number of dimensions {field}", f"expected 1 to {MAX_DIMENSIONS}, got {n_dimensions}", at=start)
    extents = [cursor.number("q", f"dimension {i} {field}") for i in range(n_dimensions)]
    type_id = cursor.number("I", f"type {field}")
    offset = cursor.number("Q", f"offset {field}")
    if min(extents) < 1:
        cursor.refuse(f"dimensions {field}", f"expected at least 1, got {extents}", at=start)
    if type_id not in GGML_TYPES:
        cursor.refuse(f"type {field}", f"unknown or removed type id {type_id}", at=start)
    info = TensorInfo(name, tuple(reversed(extents)), type_id, offset)
    if info.size > MAX_ELEMENTS or info.nbytes > MAX_ELEMENTS:
        cursor.refuse(f"dimensions {field}", f"{extents} are more than 2**63 elements or bytes", at=start)
    if extents[0] % info.type.block_size:
        cursor.refuse(
            f"dimensions {field}", f"{extents[0]} is no multiple of {info.type.name}'s {info.type.block_size}", at=start
        )
    return info


def _decoded(type_id: int, raw: bytes) -> Any:
    if type_id == ValueType.STRING:
        return raw[8:].decode("utf-8")
    if type_id != ValueType.ARRAY:
        return struct.unpack("<" + SCALAR_CODES[ValueType(type_id)], raw)[0]
    element_type, n_items = struct.unpack_from("<IQ", raw)
    if element_type != ValueType.STRING:
        return list(struct.unpack_from(f"<{n_items}{SCALAR_CODES[ValueType(element_type)]}", raw, 12))
    items, position = [], 12
    for _ in range(n_items):
        (length,) = struct.unpack_from("<Q", raw, position)
        # Vocabularies hold raw bytes as tokens; they are shown, not refused, since the file is copied as it is.
        items.append(raw[position + 8 : position + 8 + length].decode("utf-8", "backslashreplace"))
        position += 8 + length
    return items
