"""A streaming reader of .npz archives: members are decompressed as they are read, never whole and never to a file.

Only what `numpy.savez` and `savez_compressed` write is accepted: members that are stored or deflated, each a .npy file.
How their bytes are read is in `members`.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from quantcore._base import arguments
from quantcore.array_files.members import DeflatedMember, StoredMember
from quantcore.array_files.npy import NpyHeader, read_header
from quantcore.errors import FileFormatError
from quantcore.files.disk import InputFile, label

_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")  # the second one begins an empty archive
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_SUFFIX = ".npy"
_ENCRYPTED = 1
_KINDS: dict[int, type[StoredMember] | type[DeflatedMember]] = {
    zipfile.ZIP_STORED: StoredMember,
    zipfile.ZIP_DEFLATED: DeflatedMember,
}
_MALFORMED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OverflowError, RuntimeError,
    ValueError,
)  # fmt: skip


def is_zip(head: bytes | bytearray) -> bool:
    """Whether a file that begins with these bytes is a zip archive."""
    return head.startswith(_MAGICS)


@dataclass(frozen=True, slots=True)
class NpzMember:
    """One array of an archive; `data` are the bytes of its .npy file."""

    name: str
    header: NpyHeader
    data: StoredMember | DeflatedMember


class NpzFile:
    """The arrays of a .npz archive.

    Parameters
    ----------
    file : InputFile
        An open file; it is read whenever a member is read.

    Attributes
    ----------
    members : tuple of NpzMember
        In the order of the archive.

    Raises
    ------
    FileFormatError
        Not a zip archive, or a member is encrypted, compressed by another method, not an array of floats, or named
        twice.
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
        kind = _KINDS.get(info.compress_type)
        if kind is None:
            raise FileFormatError(f"{where}: compression {info.compress_type}: expected stored or deflated")
        data = kind(self._file, info, self._first_byte(info, where), where)

        def read(offset: int, count: int) -> bytearray:
            buffer = bytearray(count)
            data.read_into(offset, buffer)
            return buffer

        return NpzMember(info.filename.removesuffix(_SUFFIX), read_header(read, info.file_size, where), data)

    def _first_byte(self, info: zipfile.ZipInfo, where: str) -> int:
        """The offset at which a member's data begin, which its local header says."""
        file, start = self._file, info.header_offset
        if not 0 <= start <= file.size - _LOCAL_HEADER.size:
            raise FileFormatError(f"{where}: offset {start} is not within the {file.size} bytes of the file")
        magic, n_name, n_extra = _LOCAL_HEADER.unpack(file.read(start, _LOCAL_HEADER.size))
        first: int = start + _LOCAL_HEADER.size + n_name + n_extra
        is_stored = info.compress_type == zipfile.ZIP_STORED
        if magic != _MAGICS[0] or first + info.compress_size > file.size:
            raise FileFormatError(f"{where}: {info.compress_size} bytes from {first} on are not all in the file")
        if is_stored and info.compress_size != info.file_size:
            raise FileFormatError(f"{where}: stored, but {info.file_size} bytes take {info.compress_size}")
        return first


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
            # Both an OSError, which zipfile expects here, and a ValueError, which distinguishes it from a failure to
            # read.
            raise io.UnsupportedOperation(f"offset {position} is before the file")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = arguments.buffer(buffer, "buffer", is_written=True)
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
