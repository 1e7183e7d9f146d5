"""A cursor over the head of a GGUF file: each field is checked against the end of the file before it is used.

The head is read once, from front to back, through a window of some hundred kilobytes. What is kept of it is counted, so
that neither its size nor the number of its entries decides how much memory it takes.
"""

import struct
from dataclasses import dataclass
from typing import NoReturn

from quantcore._base.text import brief
from quantcore._kernels import walk_strings
from quantcore.errors import FileFormatError, InvalidStateError
from quantcore.files.disk import InputFile
from quantcore.gguf.layout import MAX_METADATA_BYTES, MAX_RESIDENT_BYTES, SCALAR_SIZES, ValueType
from quantcore.gguf.values import are_bools

WINDOW_BYTES = 1 << 18
SHORT_VALUE_BYTES = 1 << 10
"""Values of so many bytes are kept, longer ones stay in the file."""


@dataclass(frozen=True, slots=True, eq=False)
class LongValue:
    """The bytes of a long value, which are read when they are asked for. The file must still be open then."""

    file: InputFile
    offset: int
    nbytes: int

    def read(self, start: int, count: int) -> bytes:
        """So many of the bytes, from byte `start` on."""
        if self.file.is_closed:
            raise InvalidStateError(f"{self.file.label}: the file is closed; long values are read while it is open")
        buffer = bytearray(count)
        self.file.read_part(self.offset, self.nbytes, start, buffer)
        return bytes(buffer)


class HeadCursor:
    """Reads fields one after the other; `offset` is where the next one begins."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._window = bytearray()
        self._window_start = 0
        self._resident = 0
        self.offset = 0

    def refuse(self, field: str, problem: str, *, at: int | None = None) -> NoReturn:
        """Raise the error that names the file, the field, what is wrong with it, and where it is."""
        offset = self.offset if at is None else at
        raise FileFormatError(f"{self._file.label}: {field}: {problem}; offset {offset}, file size {self._file.size}")

    @property
    def remaining(self) -> int:
        """Bytes up to the end of the file."""
        return self._file.size - self.offset

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return self._file.size

    def keep(self, memory: int, field: str) -> None:
        """Count memory for what will be kept."""
        self._resident += memory
        if self._resident > MAX_RESIDENT_BYTES:
            self.refuse(field, f"the keys and tensors up to here take more than {MAX_RESIDENT_BYTES} bytes of memory")

    def skip(self, count: int, field: str) -> None:
        """Pass over bytes without reading them."""
        if count > self._file.size - self.offset:
            self.refuse(field, f"takes {count} bytes, {self.remaining} are left")
        if self.offset + count > MAX_METADATA_BYTES:
            self.refuse(field, f"ends at {self.offset + count}; the limit for metadata is {MAX_METADATA_BYTES} bytes")
        self.offset += count

    def take(self, count: int, field: str) -> bytes:
        """Read bytes."""
        start = self.offset
        self.skip(count, field)
        first = start - self._window_start
        if first < 0 or first + count > len(self._window):
            self._window = self._file.read(start, min(max(count, WINDOW_BYTES), self._file.size - start))
            self._window_start, first = start, 0
        return bytes(self._window[first : first + count])

    def number(self, code: str, field: str) -> int:
        """Read an integer; `code` is that of `struct`."""
        (value,) = struct.unpack("<" + code, self.take(struct.calcsize("<" + code), field))
        return int(value)

    def count(self, field: str, smallest: int) -> int:
        """Read a number of items that take at least `smallest` bytes each."""
        value = self.number("Q", field)
        if value > self.remaining // smallest:
            self.refuse(field, f"{value} items of at least {smallest} bytes, {self.remaining} bytes are left")
        return value

    def name(self, field: str, longest: int) -> str:
        """Read a length and that many bytes of UTF-8 without NUL, at least one."""
        start = self.offset
        length = self.number("Q", f"{field} length")
        if length > longest:
            self.refuse(field, f"{length} bytes, the limit is {longest}", at=start)
        data = self.take(length, field)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            self.refuse(field, f"not UTF-8: {brief(data, 40)}", at=start)
        if not text or "\0" in text:
            self.refuse(field, "empty or with a NUL character", at=start)
        return text

    def value(self, type_id: int, field: str) -> bytes | LongValue:
        """Check one metadata value and pass over it; returns its bytes if they are few."""
        start = self.offset
        if type_id in SCALAR_SIZES:
            data = self.take(SCALAR_SIZES[type_id], field)
            if type_id == ValueType.BOOL and data[0] > 1:
                self.refuse(field, f"a bool must be 0 or 1, got {data[0]}", at=start)
            return data
        if type_id == ValueType.STRING:
            self.skip(self.number("Q", f"{field} length"), field)
        elif type_id == ValueType.ARRAY:
            item_type = self.number("I", f"{field} item type")
            self._pass_items(item_type, self.number("Q", f"{field} length"), field)
        else:
            self.refuse(field, f"unknown value type {type_id}", at=start)
        nbytes = self.offset - start
        if nbytes > SHORT_VALUE_BYTES:
            return LongValue(self._file, start, nbytes)
        self.offset = start
        return self.take(nbytes, field)

    def _pass_items(self, item_type: int, n_items: int, field: str) -> None:
        if item_type == ValueType.STRING:
            self._pass_strings(n_items, field)
        elif item_type in SCALAR_SIZES:
            start = self.offset
            self.skip(SCALAR_SIZES[item_type] * n_items, f"{field} array")
            if item_type == ValueType.BOOL:
                self.offset = start
                self._pass_bools(n_items, field)
        else:
            self.refuse(field, f"unknown or nested array item type {item_type}")

    def _pass_bools(self, n_items: int, field: str) -> None:
        while n_items:
            part = self.take(min(n_items, WINDOW_BYTES), field)
            if not are_bools(part):
                self.refuse(field, "a bool must be 0 or 1")
            n_items -= len(part)

    def _pass_strings(self, n_items: int, field: str) -> None:
        start = self.offset
        self.skip(8 * n_items, f"{field} array")  # the lengths alone
        self.offset = start
        while n_items:
            first = self.offset - self._window_start
            if first < len(self._window):
                n_walked, end = walk_strings(self._window, first, n_items)
                self.offset = self._window_start + end
                if self.offset > MAX_METADATA_BYTES:
                    self.refuse(field, f"ends beyond {MAX_METADATA_BYTES}, the limit for metadata in bytes")
                n_items -= n_walked
            if n_items:  # one that does not end in the window
                self.skip(self.number("Q", field), field)
                n_items -= 1
