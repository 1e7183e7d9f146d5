"""Files: inputs read by position and never mapped, outputs that appear whole or not at all.

A mapped file that shrinks kills the process with SIGBUS; a positioned read reports it. An output is written to a
partial file beside its final name and put in place once it is complete and on the disk.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from quantcore.errors import FileFormatError, InvalidValueError, OutputFileError
from quantcore.tables import printable

_LONGEST_NAME = 255
_RUN_BYTES = 1 << 24
_PICKLE_PROTOCOLS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def label(path: str | os.PathLike[str]) -> str:
    """A path as it goes into a message of one line."""
    return printable(os.fsdecode(path))


def is_pickle(head: bytes | bytearray) -> bool:
    """Whether a file that begins with these 9 bytes is a pickle.

    A safetensors file may begin with the same two: its header's length is 640, say. Then the upper bytes of the length
    are zero and a brace follows.
    """
    return head.startswith(_PICKLE_PROTOCOLS) and not (head[4:8] == bytes(4) and head[8:9] == b"{")


class InputFile:
    """A regular file open for positioned reading; `size` is what it was when it was opened."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.fsdecode(path))
        self.label = label(path)
        # Non-blocking, so that opening a FIFO does not wait for a writer.
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise FileFormatError(f"{self.label}: not a regular file")
        self.size = status.st_size

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill `buffer` with the bytes from `offset` on; FileFormatError if the file ends before."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], offset + done)
            if count == 0:
                raise FileFormatError(
                    f"{self.label}: ends at offset {offset + done} while {len(view) - done} more bytes were to be read "
                    f"(it had {self.size} bytes when it was opened)"
                )
            done += count

    def read(self, offset: int, count: int) -> bytearray:
        buffer = bytearray(count)
        self.read_into(offset, buffer)
        return buffer

    def read_part(self, first: int, size: int, start: int, buffer: Any) -> None:
        """Fill `buffer` from byte `start` on of a part of the file that takes `size` bytes from offset `first` on."""
        count = memoryview(buffer).nbytes
        if start < 0 or start + count > size:
            raise InvalidValueError(f"start: {count} bytes from {start} on are not within the {size} bytes there are")
        self.read_into(first + start, buffer)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class OutputFile:
    """A file that takes its name only when the `with` block ends well; otherwise nothing is left and nothing changed.

    The data go to `.NAME.partial` in the same folder, which is locked while it is written: a partial file without a
    lock is what a killed process left, and is removed by the next one that writes the same output.

    Parameters
    ----------
    path : path
        The final name. A symbolic link is followed.
    force : bool
        Replace an existing file.
    inputs : paths
        Files that are read while this one is written, and so must not be it.

    Raises
    ------
    OutputFileError
        The file exists and `force` is false; it is one of the inputs, or not a regular file; another process writes it.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, force: bool = False, inputs: tuple[str | os.PathLike[str], ...] = ()
    ) -> None:
        check_output(path, force=force, inputs=inputs)
        self.path = Path(os.path.realpath(os.fsdecode(path)))
        self.label = label(path)
        self._force = force
        self._partial = self.path.with_name(_partial_name(self.path.name))

    def __enter__(self) -> Self:
        self._descriptor = self._open_partial()
        self._run = 0, 0
        return self

    def write(self, data: Any) -> None:
        """Write behind what was written last."""
        self.write_at(self._run[1], data)

    def write_at(self, offset: int, data: Any) -> None:
        view = memoryview(data).cast("B")
        start = self._run[0] if offset == self._run[1] else offset
        while len(view):
            count = os.pwrite(self._descriptor, view, offset)
            view, offset = view[count:], offset + count
        if offset - start >= _RUN_BYTES:
            _start_writeback(self._descriptor, start, offset)
            start = offset
        self._run = start, offset

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                os.fsync(self._descriptor)
                self._put_in_place()
        except BaseException:
            kind = BaseException
            raise
        finally:
            if kind is not None:
                with contextlib.suppress(FileNotFoundError):
                    self._partial.unlink()
            os.close(self._descriptor)

    def _open_partial(self) -> int:
        while True:
            try:
                descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            except FileExistsError:
                self._remove_stale()
                continue
            if _lock(descriptor) and _is_still(self._partial, descriptor):
                return descriptor
            os.close(descriptor)

    def _remove_stale(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(self._partial, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if not _lock(descriptor):
                    raise OutputFileError(f"{self.label}: another process is writing it ({label(self._partial)})")
                if _is_still(self._partial, descriptor):
                    self._partial.unlink()
            finally:
                os.close(descriptor)

    def _put_in_place(self) -> None:
        if self._force:
            os.replace(self._partial, self.path)
        else:
            # A link, unlike a rename, fails if someone made the file in the meantime.
            try:
                os.link(self._partial, self.path)
            except FileExistsError:
                raise OutputFileError(f"{self.label}: appeared while it was being written") from None
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                    raise
                os.rename(self._partial, self.path)
            else:
                self._partial.unlink()
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def check_output(
    path: str | os.PathLike[str], *, force: bool = False, inputs: tuple[str | os.PathLike[str], ...] = ()
) -> None:
    """Refuse an output that is an input, exists already, or is not a regular file."""
    if not os.path.basename(os.fsdecode(path)):
        raise OutputFileError(f"output: expected the path of a file, got {os.fsdecode(path)!r}")
    if not os.path.lexists(path):
        return
    for source in inputs:
        if os.path.exists(path) and os.path.samefile(path, source):
            raise OutputFileError(f"{label(path)}: is the same file as the input {label(source)}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise OutputFileError(f"{label(path)}: exists and is not a regular file")
    if not force:
        raise OutputFileError(f"{label(path)}: exists already; --force (force=True) replaces it")


def _partial_name(name: str) -> str:
    """Always the same for a name, so that a partial file left behind is found again; a long name is shortened."""
    partial = f".{name}.partial"
    if len(os.fsencode(partial)) <= _LONGEST_NAME:
        return partial
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()}.partial"


def _start_writeback(descriptor: int, start: int, stop: int) -> None:
    """Send what was written on its way to the disk, without waiting, so that little is left for `fsync` to wait for.

    That is what Linux does when it hears that bytes are not needed; it drops none that are not on the disk yet. It may
    have been built without the call, and a file system may refuse it: nothing is lost then.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the name still belongs to the open file: another process may have removed it before the lock was ours."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False
