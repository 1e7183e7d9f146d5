"""The bytes of a member of a zip archive, read by position and checked against its CRC.

A deflated member can only be decompressed forward. Reading the columns of an array would decompress it once per block
of columns, so a cursor is kept in every row: the state of a decompressor where the block ended, from which the next one
goes on. An array is then decompressed twice, once to reach all rows and once along them.
"""

import zlib
from collections.abc import Callable
from typing import Any, NoReturn
from zipfile import ZipInfo

from quantcore._base import arguments
from quantcore.errors import FileFormatError
from quantcore.files.disk import InputFile

MOST_CURSORS = 1 << 13
"""Rows in which a cursor is kept, of about 44 kB each; what is in other rows is decompressed again for each block."""
_MOST_BYTES = 1 << 16
_FEWEST_BYTES = 1 << 9
_RAW_DEFLATE = -15


def read_each_run(read_into: Callable[[int, Any], None], offset: int, n_runs: int, stride: int, buffer: Any) -> None:
    """Fill the equal parts of a buffer with the bytes from `offset`, `offset + stride`, and so on."""
    view = arguments.buffer(buffer, "buffer", is_written=True)
    size = len(view) // n_runs
    for i in range(n_runs):
        read_into(offset + i * stride, view[i * size : (i + 1) * size])


class StoredMember:
    """A member that is not compressed. Its CRC is computed along with the first reading; gaps are read for it.

    Parameters
    ----------
    file : InputFile
    info : ZipInfo
        Its entry in the directory of the archive.
    first : int
        The offset of its first byte in the file.
    where : str
        File and member, for messages.
    """

    def __init__(self, file: InputFile, info: ZipInfo, first: int, where: str) -> None:
        self.most_runs: int | None = None
        self._file, self._info, self._first, self._where = file, info, first, where
        self._n_checked = self._crc = 0

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a buffer with the bytes from `offset`."""
        view = arguments.buffer(buffer, "buffer", is_written=True)
        self._file.read_part(self._first, self._info.file_size, offset, view)
        while self._n_checked < offset:
            count = min(_MOST_BYTES, offset - self._n_checked)
            self._check(self._file.read(self._first + self._n_checked, count))
        if self._n_checked < offset + len(view):
            self._check(view[self._n_checked - offset :])

    def read_runs(self, offset: int, n_runs: int, stride: int, buffer: Any) -> None:
        """Fill the equal parts of a buffer with the bytes from `offset`, `offset + stride`, and so on."""
        read_each_run(self.read_into, offset, n_runs, stride, buffer)

    def _check(self, data: Any) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self._n_checked += len(data)
        if self._n_checked == self._info.file_size:
            _check_crc(self._crc, self._info, self._where)


class DeflatedMember:
    """A deflated member, as `StoredMember`. Beyond `most_runs` runs, `read_runs` reads from the front again."""

    def __init__(self, file: InputFile, info: ZipInfo, first: int, where: str) -> None:
        self.most_runs: int = MOST_CURSORS
        self._start = _Cursor(file, info, first, where)
        self._cursors: list[_Cursor] = []

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a buffer with the bytes from `offset`."""
        self.read_runs(offset, 1, 0, buffer)

    def read_runs(self, offset: int, n_runs: int, stride: int, buffer: Any) -> None:
        """Fill the equal parts of a buffer with the bytes from `offset`, `offset + stride`, and so on."""
        view = arguments.buffer(buffer, "buffer", is_written=True)
        size = len(view) // n_runs
        parts = [view[i * size : (i + 1) * size] for i in range(n_runs)]
        places = [offset + i * stride for i in range(n_runs)]
        n_kept = min(n_runs, self.most_runs)
        if len(self._cursors) != n_kept or any(c.position != p for c, p in zip(self._cursors, places, strict=False)):
            before = [c for c in self._cursors if c.position <= offset]
            self._cursors = [max(before, key=lambda c: c.position) if before else self._start.copy()]
        for i, (place, part) in enumerate(zip(places, parts, strict=True)):
            if i < len(self._cursors):
                cursor = self._cursors[i]
            elif i < n_kept:
                cursor = self._cursors[-1].copy()
                self._cursors.append(cursor)
            elif i == n_kept:
                cursor = self._cursors[-1].copy()
            cursor.read(place, part)


class _Cursor:
    """A place in a deflated member: the state of a decompressor that has come so far."""

    __slots__ = ("_crc", "_file", "_inflater", "_info", "_source", "_stop", "_where", "position")

    def __init__(self, file: InputFile, info: ZipInfo, first: int, where: str) -> None:
        self._file, self._info, self._where = file, info, where
        self._source, self._stop = first, first + info.compress_size
        self._inflater = zlib.decompressobj(_RAW_DEFLATE)
        self.position = self._crc = 0

    def copy(self) -> "_Cursor":
        """Another cursor at the same place."""
        other = object.__new__(_Cursor)
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        other._inflater = self._inflater.copy()
        return other

    def read(self, offset: int, view: memoryview) -> None:
        """Decompress up to `offset`, then fill a buffer."""
        while self.position < offset:
            self._next(offset - self.position)
        done = 0
        while done < len(view):
            data = self._next(len(view) - done)
            view[done : done + len(data)] = data
            done += len(data)

    def _next(self, most: int) -> bytes:
        """The next bytes, as many as this or fewer."""
        if self._inflater.eof:
            self._refuse_end()
        most = min(most, _MOST_BYTES)
        source = self._file.read(self._source, min(max(most, _FEWEST_BYTES), self._stop - self._source))
        try:
            data = self._inflater.decompress(source, most)
        except zlib.error as error:
            raise FileFormatError(f"{self._where}: {error}") from None
        # What was not consumed is read again, so that no cursor has to keep it.
        self._source += len(source) - len(self._inflater.unconsumed_tail) - len(self._inflater.unused_data)
        if not data and self._source == self._stop:
            self._refuse_end()
        self._crc = zlib.crc32(data, self._crc)
        self.position += len(data)
        if self.position == self._info.file_size:
            _check_crc(self._crc, self._info, self._where)
        return data

    def _refuse_end(self) -> NoReturn:
        raise FileFormatError(f"{self._where}: ends at {self.position} of {self._info.file_size} bytes")


def _check_crc(crc: int, info: ZipInfo, where: str) -> None:
    if crc != info.CRC:
        raise FileFormatError(
            f"{where}: CRC-32: the data have {crc:08x}, the archive says {info.CRC:08x}: it is damaged"
        )
