"""A strict reader of GGUF files that may be hostile: every count, length and offset is checked before it is used.

Files are accepted that llama.cpp could load, and some others, so that they can be looked at: those with tensors of
types that are not known here, and with longer names. Metadata are checked but not decoded: the bytes of each value are
kept, or where they are.
"""

from typing import Any

from quantcore._base import arguments
from quantcore._base.text import quote
from quantcore.files.tensor_reader import TensorReader
from quantcore.ggml.types import GGML_TYPES
from quantcore.gguf.cursor import HeadCursor
from quantcore.gguf.layout import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    LEAST_ALIGNMENT,
    MAGIC,
    MAX_ALIGNMENT,
    MAX_ELEMENTS,
    MAX_KEY_BYTES,
    MAX_LONG_NAME_BYTES,
    MAX_READ_DIMENSIONS,
    MAX_TYPE_ID,
    MOST_ELEMENT_BYTES,
    VERSIONS,
    TensorInfo,
    ValueType,
    count_bytes,
    count_elements,
    is_alignment,
    is_plausible,
    key_value_memory,
    round_up,
    tensor_memory,
)
from quantcore.gguf.values import KeyValue, found_key_value

_SMALLEST_KEY_VALUE = 8 + 1 + 4 + 1
_SMALLEST_TENSOR_INFO = 8 + 1 + 4 + 8 + 4 + 8


class GGUFReader(TensorReader):
    """The metadata and the table of tensors of a GGUF file, and positioned access to the tensors' bytes.

    Parameters
    ----------
    path : path
        A regular file, GGUF version 2 or 3, little-endian.

    Attributes
    ----------
    version, alignment : int
    kvs : tuple of KeyValue
        In the file's order. Long values are read from the file when they are asked for.
    tensors : tuple of TensorInfo
        In the file's order.
    notices : tuple of str
        What the user should know of the file, such as bytes after the last tensor.

    Raises
    ------
    FileFormatError
        Anything malformed: the message names the file, the field, the offset and the limit.
    OSError
        The file cannot be opened or read.
    """

    version: int
    alignment: int
    kvs: tuple[KeyValue, ...]
    tensors: tuple[TensorInfo, ...]
    notices: tuple[str, ...]

    def value(self, key: str) -> Any:
        """The decoded value of a key (a list for an array), or None if there is no such key."""
        kv = self._kvs.get(arguments.text(key, "key"))
        return None if kv is None else kv.value

    def _parse(self) -> None:
        cursor = HeadCursor(self._file)
        magic = cursor.take(4, "magic")
        if magic != MAGIC:
            cursor.refuse("magic", f"expected {MAGIC!r}, got {magic!r}", at=0)
        self.version = cursor.number("I", "version")
        if self.version not in VERSIONS:
            hint = " (a big-endian file)" if self.version & 0xFFFF == 0 and self.version else ""
            cursor.refuse("version", f"expected 2 or 3, got {self.version}{hint}", at=4)
        n_tensors = cursor.count("tensor count", _SMALLEST_TENSOR_INFO)
        n_kvs = cursor.count("metadata count", _SMALLEST_KEY_VALUE)
        self._kvs = _key_values(cursor, n_kvs)
        self.kvs = tuple(self._kvs.values())
        self.alignment = _alignment(cursor, self._kvs)
        self.tensors, n_behind = _tensors(cursor, n_tensors, self.alignment)
        self.notices = (f"{n_behind} bytes after the last tensor are not read",) if n_behind else ()


def _key_values(cursor: HeadCursor, n_kvs: int) -> dict[str, KeyValue]:
    kvs: dict[str, KeyValue] = {}
    for i in range(n_kvs):
        start = cursor.offset
        key = cursor.name(f"key {i}", MAX_KEY_BYTES)
        if key in kvs:
            cursor.refuse(f"key {i}", f"duplicate {quote(key)}", at=start)
        n_key_bytes = cursor.offset - start - 8
        field = f"value of {quote(key)}"
        type_id = cursor.number("I", f"type of {field}")
        data = cursor.value(type_id, field)
        cursor.keep(key_value_memory(n_key_bytes, len(data) if isinstance(data, bytes) else 0), field)
        kvs[key] = found_key_value(key, type_id, data)
    return kvs


def _alignment(cursor: HeadCursor, kvs: dict[str, KeyValue]) -> int:
    kv = kvs.get(ALIGNMENT_KEY)
    if kv is None:
        return DEFAULT_ALIGNMENT
    if kv.type_id != ValueType.UINT32:
        cursor.refuse(ALIGNMENT_KEY, f"expected type UINT32, got {ValueType(kv.type_id).name}")
    if not is_alignment(kv.value):
        cursor.refuse(
            ALIGNMENT_KEY, f"expected a power of two from {LEAST_ALIGNMENT} to {MAX_ALIGNMENT}, got {kv.value}"
        )
    return int(kv.value)


def _tensors(cursor: HeadCursor, n_tensors: int, alignment: int) -> tuple[tuple[TensorInfo, ...], int]:
    """Read the tensor table and check that the tensors lie one after the other.

    Returns them, and the number of bytes behind the last one and its padding.
    """
    found: list[tuple[TensorInfo, int]] = []
    seen: set[str] = set()
    for i in range(n_tensors):
        start = cursor.offset
        name = cursor.name(f"name of tensor {i}", MAX_LONG_NAME_BYTES)
        if name in seen:
            cursor.refuse(f"name of tensor {i}", f"duplicate {quote(name)}", at=start)
        cursor.keep(tensor_memory(cursor.offset - start), f"name of tensor {i}")
        seen.add(name)
        found.append((_tensor_info(cursor, name), start))
    data_start = round_up(cursor.offset, alignment)
    # Where the data of each tensor's successor begin; those of an unknown type reach up to there.
    starts = [data_start + info.offset for info, _ in found]
    following = [*starts[1:], cursor.file_size][: len(found)]
    position, end = data_start, cursor.offset
    tensors = []
    for (info, start), limit in zip(found, following, strict=True):
        offset = data_start + info.offset
        if info.offset % alignment or offset != position:
            cursor.refuse(
                f"offset of tensor {quote(info.name)}", f"expected {position - data_start}, got {info.offset}", at=start
            )
        nbytes = _room(info, limit - offset, alignment) if info.type_id not in GGML_TYPES else 0
        tensor = TensorInfo(info.name, info.shape, info.type_id, offset, nbytes)
        end = offset + tensor.nbytes
        if end > cursor.file_size:
            cursor.refuse(f"data of tensor {quote(info.name)}", f"end at {end}, beyond the file", at=start)
        if info.type_id not in GGML_TYPES and not is_plausible(info.size, nbytes, alignment):
            cursor.refuse(f"data of tensor {quote(info.name)}", f"{info.size} elements in {nbytes} bytes", at=start)
        position = round_up(end, alignment)
        tensors.append(tensor)
    return tuple(tensors), max(0, cursor.file_size - position)


def _room(info: TensorInfo, available: int, alignment: int) -> int:
    """Bytes of a tensor of an unknown type: those up to the next tensor, but no more than any type takes.

    The padding counts too, since nothing tells how long it is.
    """
    return max(0, min(available, round_up(MOST_ELEMENT_BYTES * info.size, alignment)))


def _tensor_info(cursor: HeadCursor, name: str) -> TensorInfo:
    """Read what follows a tensor's name; the offset is still the one from the start of the data."""
    field = f"of tensor {quote(name)}"
    start = cursor.offset
    n_dimensions = cursor.number("I", f"number of dimensions {field}")
    if not 1 <= n_dimensions <= MAX_READ_DIMENSIONS:
        cursor.refuse(
            f"number of dimensions {field}", f"expected 1 to {MAX_READ_DIMENSIONS}, got {n_dimensions}", at=start
        )
    extents = [cursor.number("q", f"dimension {i} {field}") for i in range(n_dimensions)]
    type_id = cursor.number("I", f"type {field}")
    offset = cursor.number("Q", f"offset {field}")
    if min(extents) < 0:
        cursor.refuse(f"dimensions {field}", f"expected at least 0, got {extents}", at=start)
    if type_id > MAX_TYPE_ID:
        cursor.refuse(f"type {field}", f"no type id: {type_id}, the limit is {MAX_TYPE_ID}", at=start)
    info = TensorInfo(name, tuple(reversed(extents)), type_id, offset)
    type_ = GGML_TYPES.get(type_id)
    most = count_elements(info.shape)
    if most > MAX_ELEMENTS or (type_ is not None and count_bytes(most, type_) > MAX_ELEMENTS):
        cursor.refuse(f"dimensions {field}", f"{extents} are more than 2**63 elements or bytes", at=start)
    if type_ is not None and extents[0] % type_.block_size:
        cursor.refuse(
            f"dimensions {field}", f"{extents[0]} is no multiple of {type_.name}'s {type_.block_size}", at=start
        )
    return info
