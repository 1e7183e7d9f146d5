"""A writer of GGUF files: first the whole head, since all sizes are known in advance, then the tensors in order.

What it writes, the reader accepts: both have their limits from `layout`.
"""

import struct
from collections.abc import Iterable
from math import prod
from typing import Any

from quantcore._base import arguments
from quantcore._base.text import brief, quote
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.files.disk import OutputFile
from quantcore.ggml.types import GGML_TYPES, GGMLType, as_ggml_type
from quantcore.gguf.cursor import SHORT_VALUE_BYTES
from quantcore.gguf.layout import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    LEAST_ALIGNMENT,
    MAGIC,
    MAX_ALIGNMENT,
    MAX_DIMENSIONS,
    MAX_ELEMENTS,
    MAX_LONG_NAME_BYTES,
    MAX_METADATA_BYTES,
    MAX_NAME_BYTES,
    MAX_RESIDENT_BYTES,
    MAX_TYPE_ID,
    WRITTEN_VERSION,
    ValueType,
    count_bytes,
    count_elements,
    encode_tensor_info,
    is_alignment,
    is_plausible,
    key_value_memory,
    round_up,
    tensor_memory,
)
from quantcore.gguf.values import KeyValue


class GGUFWriter:
    """Writes the head of a GGUF file, then the tensors in the order in which they were declared.

    Parameters
    ----------
    file : OutputFile
        The open output. It gets its name only if all bytes of all tensors were written.
    kvs : iterable of KeyValue
        Metadata, in order; `general.alignment` is obeyed.
    tensors : iterable of (name, shape, type)
        Shapes in NumPy's order. The type is a GGMLType, or what stands for a type that quantcore quantizes to.
    long_names : bool, default False
        Allow names of up to 127 bytes, as ComfyUI's files have them; llama.cpp does not read more than 63.
    keeps_ones : bool, default False
        Write outermost extents of 1, which ggml leaves out.

    Raises
    ------
    TypeError, ValueError
        The reader would refuse the file: a key is there twice, the alignment is not a power of two from 8 to 65536, a
        tensor is impossible in a GGUF file (`check_tensor`) or is there twice, the metadata are too large.

    Examples
    --------
    >>> import numpy as np
    >>> from quantcore.files.disk import OutputFile
    >>> folder = getfixture("tmp_path")
    >>> with OutputFile(folder / "tiny.gguf") as file:
    ...     kvs = [KeyValue.string("general.architecture", "tiny"), KeyValue.uint32("tiny.block_count", 1)]
    ...     writer = GGUFWriter(file, kvs, [("blk.0.weight", (2, 32), "F32")])
    ...     writer.write(np.ones((2, 32), np.float32))
    ...     writer.end_tensor()
    """

    def __init__(
        self,
        file: OutputFile,
        kvs: Iterable[KeyValue],
        tensors: Iterable[tuple[str, tuple[int, ...], GGMLType | int | str]],
        *,
        long_names: bool = False,
        keeps_ones: bool = False,
    ) -> None:
        if not isinstance(file, OutputFile):
            raise InvalidTypeError(f"file: expected an OutputFile, got {brief(file)}")
        kvs = _check_kvs(kvs)
        keeps_ones = arguments.flag(keeps_ones, "keeps_ones")
        self._alignment = _alignment(kvs)
        self._tensors = _check_tensors(tensors, arguments.flag(long_names, "long_names"), self._alignment)
        table, data_offset = [], 0
        for name, shape, type_ in self._tensors:
            table.append(encode_tensor_info(name, shape, type_.id, data_offset, keeps_ones=keeps_ones))
            data_offset += round_up(count_bytes(prod(shape), type_), self._alignment)
        if data_offset > MAX_ELEMENTS:
            raise InvalidValueError("tensors: they take more than 2**63 bytes together")
        _check_head(kvs, self._tensors, table)
        self._file = file
        self._position = 0
        self._index, self._written = 0, 0
        self._put(MAGIC + struct.pack("<IQQ", WRITTEN_VERSION, len(self._tensors), len(kvs)))
        for kv in kvs:
            for part in kv.encode():
                self._put(part)
        self._put(b"".join(table))
        self._pad()
        file.require(self.close)

    def write(self, data: Any) -> None:
        """Write the next bytes of the current tensor; ValueError if it does not have so many."""
        data = arguments.buffer(data, "data")
        count = data.nbytes
        while count and self._index < len(self._tensors) and not self._size(self._index):
            self.end_tensor()
        room = self._size(self._index) - self._written if self._index < len(self._tensors) else 0
        if count > room:
            raise InvalidValueError(f"data: {count} bytes; {self._current()} takes {room} more")
        self._put(data)
        self._written += count

    def end_tensor(self) -> None:
        """End the current tensor, padded to the alignment; ValueError if bytes of it are missing."""
        if self._index == len(self._tensors):
            raise InvalidValueError(f"{self._current()} was ended already")
        if missing := self._size(self._index) - self._written:
            raise InvalidValueError(f"{self._current()} lacks {missing} of its {self._size(self._index)} bytes")
        self._pad()
        self._index, self._written = self._index + 1, 0

    def close(self) -> None:
        """Make sure that all tensors are complete; the output calls it before it gets its name."""
        while self._index < len(self._tensors):
            self.end_tensor()

    def _current(self) -> str:
        index = min(self._index, len(self._tensors) - 1)
        return f"tensor {quote(self._tensors[index][0])}" if self._tensors else "a file without tensors"

    def _size(self, index: int) -> int:
        _, shape, type_ = self._tensors[index]
        return count_bytes(prod(shape), type_)

    def _put(self, data: Any) -> None:
        self._file.write(data)
        self._position += memoryview(data).nbytes

    def _pad(self) -> None:
        self._put(bytes(round_up(self._position, self._alignment) - self._position))


def check_tensor(name: str, shape: tuple[int, ...], type_: GGMLType, *, long_names: bool = False) -> None:
    """Refuse a tensor that a GGUF file cannot hold: its name, its number of dimensions, its size, or part blocks."""
    n_bytes = len(arguments.utf_8(name, "name of a tensor"))
    limit = MAX_LONG_NAME_BYTES if long_names else MAX_NAME_BYTES
    field = f"tensor {quote(name)}"
    if not name or "\0" in name or n_bytes > limit:
        is_long = limit < n_bytes <= MAX_LONG_NAME_BYTES
        hint = " (--long-names, long_names=True, allows 127, which llama.cpp does not read)" if is_long else ""
        raise InvalidValueError(f"{field}: GGUF names have 1 to {limit} bytes without NUL, this has {n_bytes}{hint}")
    if not isinstance(shape, (tuple, list)):
        raise InvalidTypeError(f"{field}: expected a tuple of integers as its shape, got {brief(shape)}")
    extents = tuple(arguments.integer(extent, f"shape of {field}", 0, MAX_ELEMENTS) for extent in shape[:64])
    if not 1 <= len(shape) <= MAX_DIMENSIONS:
        raise InvalidValueError(f"{field}: GGUF takes 1 to {MAX_DIMENSIONS} dimensions, not {brief(tuple(shape))}")
    known = GGML_TYPES.get(type_.id, type_)
    if known != type_ or not 0 <= type_.id <= MAX_TYPE_ID:
        raise InvalidValueError(f"{field}: {type_.name} with id {type_.id} is not a type of ggml")
    # A tensor of a type that is not known here is whole blocks, but its rows need not be.
    row = extents[-1] if type_.id in GGML_TYPES else prod(extents)
    if row % type_.block_size:
        raise InvalidValueError(f"{field}: rows of {row} are not whole blocks of {type_.name}, {type_.block_size}")
    if max(count_elements(extents), count_bytes(count_elements(extents), type_)) > MAX_ELEMENTS:
        raise InvalidValueError(f"{field}: {extents} are more than 2**63 elements or bytes")


def _check_kvs(kvs: Iterable[KeyValue]) -> tuple[KeyValue, ...]:
    kvs = tuple(arguments.entries(kvs, "kvs", "KeyValue"))
    seen: set[str] = set()
    for kv in kvs:
        if not isinstance(kv, KeyValue):
            raise InvalidTypeError(f"kvs: expected KeyValue, got {brief(kv)}")
        if kv.key in seen:
            raise InvalidValueError(f"kvs: {quote(kv.key)} is there twice")
        seen.add(kv.key)
    return kvs


def _alignment(kvs: tuple[KeyValue, ...]) -> int:
    kv = next((kv for kv in kvs if kv.key == ALIGNMENT_KEY), None)
    if kv is None:
        return DEFAULT_ALIGNMENT
    if kv.type_id != ValueType.UINT32 or not is_alignment(kv.value):
        raise InvalidValueError(
            f"{ALIGNMENT_KEY}: expected a power of two from {LEAST_ALIGNMENT} to {MAX_ALIGNMENT} as a UINT32, got "
            f"{brief(kv.value)} as {ValueType(kv.type_id).name}"
        )
    return int(kv.value)


def _check_tensors(
    tensors: Iterable[Any], long_names: bool, alignment: int
) -> tuple[tuple[str, tuple[int, ...], GGMLType], ...]:
    checked, seen = [], set()
    for entry in arguments.entries(tensors, "tensors", "(name, shape, type)"):
        if not isinstance(entry, (tuple, list)) or len(entry) != 3:
            raise InvalidTypeError(f"tensors: expected (name, shape, type), got {brief(entry)}")
        name, shape, type_ = entry
        if not isinstance(type_, GGMLType):
            type_ = as_ggml_type(type_, f"type of tensor {brief(name)}")
        check_tensor(name, shape, type_, long_names=long_names)
        nbytes = count_bytes(prod(shape), type_)
        if type_.id not in GGML_TYPES and not is_plausible(prod(shape), nbytes, alignment):
            raise InvalidValueError(f"tensor {quote(name)}: {prod(shape)} elements of {type_.name} in {nbytes} bytes")
        if name in seen:
            raise InvalidValueError(f"tensor {quote(name)}: there are two of this name")
        seen.add(name)
        checked.append((name, tuple(map(int, shape)), type_))
    return tuple(checked)


def _check_head(kvs: tuple[KeyValue, ...], tensors: tuple[tuple[str, Any, Any], ...], table: list[bytes]) -> None:
    keys = [len(kv.key.encode("utf-8")) for kv in kvs]
    size = sum(16 + n + kv.nbytes for n, kv in zip(keys, kvs, strict=True)) + sum(map(len, table))
    if size > MAX_METADATA_BYTES - 64:
        raise InvalidValueError(f"kvs, tensors: take {size} bytes; the limit for metadata is {MAX_METADATA_BYTES}")
    memory = sum(key_value_memory(n, min(kv.nbytes, SHORT_VALUE_BYTES)) for n, kv in zip(keys, kvs, strict=True))
    memory += sum(tensor_memory(8 + len(name.encode("utf-8"))) for name, _, _ in tensors)
    if memory > MAX_RESIDENT_BYTES:
        raise InvalidValueError(
            f"kvs, tensors: {len(kvs)} keys and {len(tensors)} tensors are more than a reader keeps in "
            f"{MAX_RESIDENT_BYTES} bytes of memory"
        )
