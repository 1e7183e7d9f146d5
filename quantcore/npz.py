"""A reader of .npz archives that streams: members are decompressed as they are read, never whole and never to a file.

Only what `numpy.savez` and `savez_compressed` write is taken: members that are stored or deflated, each a .npy file.
A stored member is read by position. A deflated one can only be read forward: going back starts it anew, so a pass over
its columns costs a decompression for each block of columns.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from quantcore._files import InputFile, label
from quantcore.errors import FileFormatError
from quantcore.npy import NpyHeader, read_header

_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")  # the second one begins an empty archive
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_SUFFIX = ".npy"
_ENCRYPTED = 1
_MALFORMED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OverflowError, RuntimeError,
    ValueError,
)  # fmt: skip


def is_zip(head: bytes | bytearray) -> bool:
    """Whether a file that begins with these bytes is a zip archive."""
    return head.startswith(_MAGICS)


@dataclass(frozen=True, slots=True)
class NpzMember:
    """One array of an archive; `read_into(offset, buffer)` fills a buffer from an offset in its .npy file on."""

    name: str
    header: NpyHeader
    read_into: Callable[[int, Any], None]


class NpzFile:
    """The arrays of a .npz archive.

    Parameters
    ----------
    file : InputFile
        Open; it is read whenever a member is.

    Attributes
    ----------
    members : tuple of NpzMember
        In the order of the archive.

    Raises
    ------
    FileFormatError
        Not a zip archive, or a member is encrypted, compressed otherwise, not an array of floats or named twice.
    """

    def __init__(self, file: InputFile) -> None:
        self._file = file
        with _refusals(file.label):
            self._archive = zipfile.ZipFile(_Window(file))
        members = [self._member(info) for info in self._archive.infolist()]
        names = {member.name for member in members}
        if len(names) != len(members):
            raise FileFormatError(f"{file.label}: two members have the same name")
        self.members = tuple(members)

    def _member(self, info: zipfile.ZipInfo) -> NpzMember:
        where = f"{self._file.label}: {label(info.filename[:80])}"
        if not info.filename.endswith(_SUFFIX):
            raise FileFormatError(f"{where}: not a .npy array (PyTorch's zip files hold pickles and are never opened)")
        if info.flag_bits & _ENCRYPTED:
            raise FileFormatError(f"{where}: encrypted")
        if info.compress_type == zipfile.ZIP_STORED:
            reader: Callable[[int, Any], None] = self._stored(info, where)
        elif info.compress_type == zipfile.ZIP_DEFLATED:
            reader = _Deflated(self._archive, info, where).read_into
        else:
            raise FileFormatError(f"{where}: compression {info.compress_type}: expected stored or deflated")

        def read(offset: int, count: int) -> bytearray:
            buffer = bytearray(count)
            reader(offset, buffer)
            return buffer

        return NpzMember(info.filename.removesuffix(_SUFFIX), read_header(read, info.file_size, where), reader)

    def _stored(self, info: zipfile.ZipInfo, where: str) -> Callable[[int, Any], None]:
        file, start = self._file, info.header_offset
        if not 0 <= start <= file.size - _LOCAL_HEADER.size:
            raise FileFormatError(f"{where}: offset {start} is not within the {file.size} bytes of the file")
        magic, n_name, n_extra = _LOCAL_HEADER.unpack(file.read(start, _LOCAL_HEADER.size))
        first = start + _LOCAL_HEADER.size + n_name + n_extra
        if magic != _MAGICS[0] or info.compress_size != info.file_size or first + info.file_size > file.size:
            raise FileFormatError(f"{where}: {info.file_size} bytes from {first} on are not all in the file")
        return lambda offset, buffer: file.read_part(first, info.file_size, offset, buffer)


class _Deflated:
    """A member that is decompressed as it is read; what lies before an offset is decompressed and dropped."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> None:
        self._archive, self._info, self._where = archive, info, where
        self._stream: Any = None

    def read_into(self, offset: int, buffer: Any) -> None:
        view = memoryview(buffer).cast("B")
        with _refusals(self._where):
            if self._stream is None or self._stream.tell() > offset:
                self._stream = self._archive.open(self._info)
            self._skip(offset - self._stream.tell())
            done = 0
            while done < len(view):
                count = self._stream.readinto(view[done:])
                if not count:
                    raise EOFError(f"ends at {offset + done} of {self._info.file_size} bytes")
                done += count

    def _skip(self, count: int) -> None:
        while count > 0:
            data = self._stream.read(min(count, 1 << 20))
            if not data:
                raise EOFError("ends too early")
            count -= len(data)


class _Window(io.RawIOBase):
    """An InputFile as the file object that `zipfile` wants."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + (0, self._position, self._file.size)[whence]
        if position < 0:
            # Both an OSError, which zipfile expects here, and a ValueError, which tells it from a failure to read.
            raise io.UnsupportedOperation(f"offset {position} is before the file")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._file.size - self._position))
        self._file.read_into(self._position, view[:count])
        self._position += count
        return count


@contextmanager
def _refusals(where: str) -> Iterator[None]:
    """What `zipfile` and `zlib` raise on a malformed archive becomes one line."""
    try:
        yield
    except FileFormatError:
        raise
    except _MALFORMED as error:
        raise FileFormatError(f"{where}: {' '.join(str(error).split())[:120]}") from None
