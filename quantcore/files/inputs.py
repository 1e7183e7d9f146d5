"""Input files, which are read by position and never mapped.

A mapped file that shrinks kills the process with SIGBUS; a positioned read reports it.
"""

import os
import stat
from typing import Any, NoReturn, Self

from quantcore._base import arguments
from quantcore._base.text import brief
from quantcore.errors import FileFormatError, InvalidTypeError, InvalidValueError
from quantcore.files import system
from quantcore.files.paths import label, local_path, naming


class InputFile:
    """A regular file open for positioned reading; `size` and `modified_ns` are those when it was opened."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = local_path(path)
        self.label = label(path)
        self._descriptor = system.SYSTEM.open_input(self.path)
        try:
            status = os.fstat(self._descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FileFormatError(f"{self.label}: not a regular file")
        except BaseException:
            self.close()
            raise
        self.size = status.st_size
        self.modified_ns = status.st_mtime_ns

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill `buffer` with the bytes from `offset`; FileFormatError if the file ends first."""
        view = arguments.buffer(buffer, "buffer", is_written=True)
        done = 0
        while done < len(view):
            with naming(self.path):
                count = system.SYSTEM.read_into(self._descriptor, view[done:], offset + done)
            if count == 0:
                raise FileFormatError(
                    f"{self.label}: ends at offset {offset + done} while {len(view) - done} more bytes were to be read "
                    f"(it had {self.size} bytes when it was opened)"
                )
            done += count

    def read(self, offset: int, count: int) -> bytearray:
        """The `count` bytes from `offset`."""
        buffer = bytearray(count)
        self.read_into(offset, buffer)
        return buffer

    def read_whole(self, limit: int, what: str = "") -> bytearray:
        """All bytes of the file; FileFormatError if there are more than `limit`, which is that of `what`."""
        if self.size > limit:
            limited = f"the limit of {what}" if what else "the limit"
            raise FileFormatError(f"{self.label}: {self.size} bytes, {limited} is {limit}")
        return self.read(0, self.size)

    def read_text(self, limit: int) -> str:
        """As `read_whole`, of a file that has to be UTF-8."""
        try:
            return self.read_whole(limit).decode("utf-8")
        except UnicodeDecodeError:
            raise FileFormatError(f"{self.label}: is not UTF-8") from None

    def read_part(self, first: int, size: int, start: int, buffer: Any) -> None:
        """Fill `buffer` from byte `start` of a part of the file: the `size` bytes from offset `first`."""
        view, start = arguments.buffer(buffer, "buffer", is_written=True), arguments.integer(start, "start", 0)
        count = view.nbytes
        if start + count > size:
            raise InvalidValueError(
                f"start: {count} bytes from {brief(start)} on are not within the {size} bytes there are"
            )
        self.read_into(first + start, view)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._descriptor < 0

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __reduce__(self) -> NoReturn:  # the number of its descriptor would mean another file elsewhere
        raise InvalidTypeError(f"{self.label}: an open file cannot be pickled or copied; open it again by its path")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
