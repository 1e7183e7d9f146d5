"""Files of importance matrices: the GGUF layout of llama-imatrix, and the binary layout that it had before (`.dat`).

Source: `common/imatrix-loader.cpp` and `tools/imatrix/imatrix.cpp` of llama.cpp, build b11739. Sums and counts are
float32 in the GGUF layout. The older one has a count and the sums of each tensor, and at its end the number of chunks
and the name of the data.
"""

import os
import struct
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments
from quantcore._base.records import shown
from quantcore._base.text import quote
from quantcore.errors import FileFormatError, InvalidTypeError, InvalidValueError
from quantcore.files.disk import InputFile, OutputFile, label
from quantcore.files.kinds import HEAD_BYTES, kind_of, say_wrong
from quantcore.ggml.types import GGUFQuantType
from quantcore.gguf.layout import MAGIC, MAX_KEY_BYTES
from quantcore.gguf.reader import GGUFReader
from quantcore.gguf.values import KeyValue
from quantcore.gguf.writer import GGUFWriter

_TYPE_KEY = "general.type"
_DATASETS_KEY = "imatrix.datasets"
_CHUNK_COUNT_KEY = "imatrix.chunk_count"
_CHUNK_SIZE_KEY = "imatrix.chunk_size"
_SUMS, _COUNTS, _FIRST_SUMS = ".in_sum2", ".counts", ".in_sum"
_SMALLEST_LEGACY_ENTRY = 4 + 1 + 4 + 4 + 4
_MOST_COUNT = 2.0**53
_MOST_INT32 = 2**31 - 1


@shown()
@dataclass(frozen=True, eq=False, repr=False)
class ImatrixEntry:
    """What was summed up for one tensor.

    Attributes
    ----------
    sums : ndarray of float32 or float64, shape (experts, cols)
        Sums of the squares of each input channel; float32 if they come from a file.
    counts : ndarray of int64, shape (experts,)
        How many rows they are the sums of.
    first_sums : ndarray of float32 or float64, shape (experts, cols), optional
        Sums of the channels themselves, which some files have and quantization does not use.
    is_legacy : bool
        From the older layout, where sums without a count are weights by themselves.
    """

    sums: NDArray[np.floating]
    counts: NDArray[np.int64]
    first_sums: NDArray[np.floating] | None = None
    is_legacy: bool = False

    def __post_init__(self) -> None:
        sums, counts = self.sums, self.counts
        if not _is_matrix(sums) or not (self.first_sums is None or _is_matrix(self.first_sums)):
            raise InvalidTypeError("sums, first_sums: expected arrays of floats of shape (experts, cols)")
        if not isinstance(counts, np.ndarray) or counts.dtype.kind not in "iu" or counts.shape != sums.shape[:1]:
            raise InvalidTypeError(f"counts: expected an array of integers of shape {sums.shape[:1]}")
        if self.first_sums is not None and self.first_sums.shape != sums.shape:
            raise InvalidValueError(f"first_sums: expected shape {sums.shape}, got {self.first_sums.shape}")

    def weights(self) -> NDArray[np.float32]:
        """Mean squares in float32, of shape (experts, cols): 1 where nothing was counted."""
        counts = self.counts.astype(np.float32)[:, None]
        unused = self.sums.astype(np.float32) if self.is_legacy else np.float32(1)
        return np.where(counts > 0, self.sums.astype(np.float32) / np.where(counts > 0, counts, 1), unused)


def _is_matrix(values: object) -> bool:
    return isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.ndim == 2 and values.size > 0


@dataclass(frozen=True, eq=False)
class ImatrixFile:
    """The contents of a file."""

    entries: dict[str, ImatrixEntry]
    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int


def read_imatrix(path: str | os.PathLike[str]) -> ImatrixFile:
    """Read a file of either layout, told apart by their first bytes."""
    with InputFile(path) as file:
        head = bytes(file.read(0, min(HEAD_BYTES, file.size)))
        if not head.startswith(MAGIC):
            if (kind := kind_of(head)) is not None:
                raise FileFormatError(say_wrong(label(path), kind, "an importance matrix"))
            return _read_legacy(file)
    with GGUFReader(path) as reader:
        return _read_gguf(reader)


def write_gguf(matrix: ImatrixFile, path: str | os.PathLike[str], *, force: bool) -> None:
    """Write the GGUF layout."""
    arrays: dict[str, NDArray[np.float32]] = {}
    for name, entry in sorted(matrix.entries.items(), key=lambda item: item[0].encode()):
        if entry.first_sums is not None:
            arrays[name + _FIRST_SUMS] = _narrow(entry.first_sums, name)
        arrays[name + _SUMS] = _narrow(entry.sums, name)
        arrays[name + _COUNTS] = entry.counts.astype(np.float32)[:, None]
    kvs = (
        KeyValue.string(_TYPE_KEY, "imatrix"),
        KeyValue.array(_DATASETS_KEY, matrix.datasets, "string"),
        KeyValue.uint32(_CHUNK_COUNT_KEY, matrix.chunk_count),
        KeyValue.uint32(_CHUNK_SIZE_KEY, matrix.chunk_size),
    )
    with OutputFile(path, force=force) as file:
        tensors = [(name, array.shape, GGUFQuantType.F32) for name, array in arrays.items()]
        writer = GGUFWriter(file, kvs, tensors, long_names=True)
        for array in arrays.values():
            writer.write(np.ascontiguousarray(array))
            writer.end_tensor()


def write_legacy(matrix: ImatrixFile, path: str | os.PathLike[str], *, force: bool) -> None:
    """Write the older layout: means times the number of chunks, which is its count."""
    with OutputFile(path, force=force) as file:
        file.write(_integer(len(matrix.entries), "number of tensors"))
        for name, entry in sorted(matrix.entries.items(), key=lambda item: item[0].encode()):
            count = int(entry.counts.max())
            if not entry.is_legacy and matrix.chunk_size:
                count = -(-count // matrix.chunk_size)
            _narrow(entry.sums, name)
            values = _narrow(entry.weights().astype(np.float64) * max(count, 1), name).ravel()
            file.write(_text(name, "name of a tensor"))
            file.write(_integer(count, f"count of {quote(name)}"))
            file.write(_integer(values.size, f"number of sums of {quote(name)}"))
            file.write(np.ascontiguousarray(values))
        file.write(_integer(matrix.chunk_count, "chunk_count"))
        file.write(_text(matrix.datasets[0] if matrix.datasets else "", "name of the data"))


def _integer(number: int, field: str) -> bytes:
    """A number of the older layout; InvalidValueError where it is too large for it."""
    return struct.pack("<i", arguments.integer(number, f"importance matrix: {field}", 0, _MOST_INT32))


def _text(text: str, field: str) -> bytes:
    """A string of the older layout; InvalidValueError where it is longer than the reader allows, or not UTF-8."""
    data = arguments.utf_8(text, field)
    if len(data) > MAX_KEY_BYTES:
        raise InvalidValueError(f"{field}: {len(data)} bytes, the limit is {MAX_KEY_BYTES}: {quote(text)}")
    return _integer(len(data), f"length of the {field}") + data


def _narrow(sums: NDArray[np.floating], name: str) -> NDArray[np.float32]:
    """Sums as float32; InvalidValueError where they are too large for it."""
    with np.errstate(over="ignore"):
        narrow = sums.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise InvalidValueError(f"importance of {quote(name)}: {np.abs(sums).max():.3g} is beyond float32")
    return narrow


def _read_gguf(reader: GGUFReader) -> ImatrixFile:
    kind = reader.value(_TYPE_KEY)
    if kind is not None and kind != "imatrix":
        raise FileFormatError(f"{reader.path}: {_TYPE_KEY}: expected 'imatrix', got {quote(str(kind))}")
    if missing := [k for k in (_DATASETS_KEY, _CHUNK_COUNT_KEY, _CHUNK_SIZE_KEY) if reader.value(k) is None]:
        raise FileFormatError(f"{reader.path}: no importance matrix: the key {missing[0]} is missing")
    parts: dict[str, dict[str, NDArray[np.float32]]] = {}
    for tensor in reader.tensors:
        suffix = next((s for s in (_SUMS, _COUNTS, _FIRST_SUMS) if tensor.name.endswith(s)), None)
        if suffix is None:
            continue
        if tensor.type.name != "F32" or tensor.size == 0:
            raise FileFormatError(f"{reader.path}: tensor {quote(tensor.name)}: expected F32 numbers")
        data = np.empty(tensor.size, np.float32)
        reader.read_into(tensor, 0, data.view(np.uint8))
        parts.setdefault(tensor.name.removesuffix(suffix), {})[suffix] = data
    if not parts:
        raise FileFormatError(f"{reader.path}: no importance matrix: it has no sums (*{_SUMS})")
    entries = {name: _join(name, found, reader.path) for name, found in parts.items()}
    datasets = reader.value(_DATASETS_KEY)
    numbers = [reader.value(key) for key in (_CHUNK_COUNT_KEY, _CHUNK_SIZE_KEY)]
    if not isinstance(datasets, list) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise FileFormatError(f"{reader.path}: {_DATASETS_KEY} is not a list, or {_CHUNK_COUNT_KEY} no number")
    return ImatrixFile(entries, tuple(map(str, datasets)), *numbers)


def _join(name: str, parts: dict[str, NDArray[np.float32]], path: str) -> ImatrixEntry:
    field = f"{path}: importance of {quote(name)}"
    sums, counts, firsts = parts.get(_SUMS), parts.get(_COUNTS), parts.get(_FIRST_SUMS)
    if sums is None or counts is None:
        raise FileFormatError(f"{field}: {_SUMS if sums is None else _COUNTS} is missing")
    if sums.size % counts.size or (firsts is not None and firsts.size != sums.size):
        raise FileFormatError(f"{field}: {sums.size} sums and {counts.size} counts do not fit")
    shape = (counts.size, sums.size // counts.size)
    _check(sums, field)
    _check(counts, field)
    if counts.max() > _MOST_COUNT:
        raise FileFormatError(f"{field}: expected counts of at most 2^53, got {counts.max():g}")
    return ImatrixEntry(
        sums.reshape(shape),
        np.floor(counts.astype(np.float64) + 0.5).astype(np.int64),
        None if firsts is None else firsts.reshape(shape),
    )


def _check(values: NDArray[np.float32], field: str) -> None:
    with np.errstate(invalid="ignore"):
        bad = np.flatnonzero(~((values >= 0) & np.isfinite(values)))
    if bad.size:
        raise FileFormatError(f"{field}: must be finite and not negative, got {values[bad[0]]} at index {int(bad[0])}")


def _read_legacy(file: InputFile) -> ImatrixFile:
    cursor = _LegacyCursor(file)
    n_entries = cursor.integer("number of tensors")
    if not 1 <= n_entries <= file.size // _SMALLEST_LEGACY_ENTRY:
        cursor.refuse(f"{n_entries} tensors are impossible in {file.size} bytes; it is no importance matrix")
    entries: dict[str, ImatrixEntry] = {}
    for i in range(n_entries):
        name = cursor.text(f"name of tensor {i}")
        if not name or name in entries:
            cursor.refuse(f"name of tensor {i}: {'empty' if not name else f'{quote(name)} is there twice'}")
        count = cursor.integer(f"count of {quote(name)}")
        n_values = cursor.integer(f"number of sums of {quote(name)}")
        if n_values < 1:
            cursor.refuse(f"number of sums of {quote(name)}: expected at least 1, got {n_values}")
        sums = np.frombuffer(cursor.take(4 * n_values, f"sums of {quote(name)}"), "<f4")
        _check(sums, f"{file.label}: importance of {quote(name)}")
        entries[name] = ImatrixEntry(sums[None], np.array([max(count, 0)], np.int64), is_legacy=True)
    n_chunks = cursor.integer("number of chunks") if cursor.remaining else 0
    dataset = cursor.text("name of the data") if cursor.remaining else ""
    return ImatrixFile(entries, (dataset,) if dataset else (), max(n_chunks, 0), 0)


class _LegacyCursor:
    """Reads a file from front to back; each field is checked against its end."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._offset = 0

    @property
    def remaining(self) -> int:
        return self._file.size - self._offset

    def refuse(self, problem: str) -> NoReturn:
        raise FileFormatError(f"{self._file.label}: {problem}; offset {self._offset}, file size {self._file.size}")

    def take(self, count: int, field: str) -> bytes:
        if count > self.remaining:
            self.refuse(f"{field}: takes {count} bytes, {self.remaining} are left")
        data = bytes(self._file.read(self._offset, count))
        self._offset += count
        return data

    def integer(self, field: str) -> int:
        return int.from_bytes(self.take(4, field), "little", signed=True)

    def text(self, field: str) -> str:
        length = self.integer(f"{field} length")
        if not 0 <= length <= MAX_KEY_BYTES:
            self.refuse(f"{field}: {length} bytes, the limit is {MAX_KEY_BYTES}")
        data = self.take(length, field)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            self.refuse(f"{field}: not UTF-8")
