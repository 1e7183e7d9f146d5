"""What operating systems do differently with files: opening, positions, locks, names of open files, folders.

`SYSTEM` is the one of this process. On Windows a file has no positioned reads, a name cannot be moved or removed while
the file is open unless it was opened to share that, and locks hold others back from the bytes themselves: a lock is
taken on a byte far behind the end, which nobody reads.
"""

import contextlib
import errno
import importlib
import io
import os
import stat
import threading
from pathlib import Path
from typing import Any, Protocol


class System(Protocol):
    """Calls of an operating system. Descriptors are integers, as `os` has them; errors are OSError."""

    no_links: tuple[int, ...]
    """Error numbers that mean: no hard links here."""

    def open_input(self, path: str | os.PathLike[str], *, follows_links: bool = True) -> int:
        """Open for reading, without waiting for anybody."""
        ...

    def open_for_lock(self, path: str | os.PathLike[str]) -> int:
        """Open what can be locked and removed, and is no link."""
        ...

    def create(self, path: str | os.PathLike[str]) -> int:
        """Make a new file and open it for writing; its name can be moved meanwhile."""
        ...

    def read_into(self, descriptor: int, view: memoryview, offset: int) -> int:
        """Read at an offset, from any thread; returns how many bytes, 0 at the end."""
        ...

    def write(self, descriptor: int, view: memoryview, offset: int) -> int:
        """Write at an offset; returns how many bytes."""
        ...

    def try_lock(self, descriptor: int) -> bool | None:
        """Lock a file; False if another process holds it, None if the file system cannot tell."""
        ...

    def link(self, path: str | os.PathLike[str], name: str | os.PathLike[str]) -> None:
        """Give a file another name."""
        ...

    def is_own(self, status: os.stat_result) -> bool:
        """Whether a file is this user's."""
        ...

    def is_private(self, status: os.stat_result) -> bool:
        """Whether nobody but this user, and those who may do everything, can put files into a folder."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """Wait until the names in a folder are on the disk."""
        ...

    def start_writeback(self, descriptor: int, start: int, stop: int) -> None:
        """Start writing bytes to the disk without waiting for them, so that `fsync` has little left to wait for."""
        ...


class Posix:
    """Linux and macOS."""

    no_links: tuple[int, ...] = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
    _no_folder_sync = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)

    def __init__(self) -> None:
        self._fcntl: Any = importlib.import_module("fcntl")

    def open_input(self, path: str | os.PathLike[str], *, follows_links: bool = True) -> int:
        # Non-blocking, so that opening a FIFO does not wait for a writer.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(path, flags if follows_links else flags | os.O_NOFOLLOW)

    def open_for_lock(self, path: str | os.PathLike[str]) -> int:
        # Some network file systems only lock what is open for writing, and an old output may be read-only.
        with contextlib.suppress(OSError):
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        return self.open_input(path, follows_links=False)

    def create(self, path: str | os.PathLike[str]) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)

    def read_into(self, descriptor: int, view: memoryview, offset: int) -> int:
        return os.preadv(descriptor, [view], offset)

    def write(self, descriptor: int, view: memoryview, offset: int) -> int:
        return os.pwrite(descriptor, view, offset)

    def try_lock(self, descriptor: int) -> bool | None:
        try:
            self._fcntl.flock(descriptor, self._fcntl.LOCK_EX | self._fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
        return True

    def link(self, path: str | os.PathLike[str], name: str | os.PathLike[str]) -> None:
        os.link(path, name, follow_symlinks=False)

    def is_own(self, status: os.stat_result) -> bool:
        return status.st_uid == os.geteuid()

    def is_private(self, status: os.stat_result) -> bool:
        return self.is_own(status) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

    def sync_folder(self, folder: Path) -> None:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:
            return  # only what may be read can be opened and synced; the names reach the disk a few seconds later
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in self._no_folder_sync:
                raise OSError(error.errno, error.strerror, os.fspath(folder)) from None
        finally:
            os.close(descriptor)

    def start_writeback(self, descriptor: int, start: int, stop: int) -> None:
        # Linux does this when it is told that the bytes are not needed; it drops none that are not on the disk yet. The
        # kernel may lack the call and a file system may refuse it; the bytes are then written by `fsync`.
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)


class Windows:
    """Windows, by the calls of `msvcrt` and `_winapi`, which may be given."""

    no_links: tuple[int, ...] = (errno.EINVAL, errno.EPERM, errno.EMLINK, errno.ENOSYS)
    _GENERIC_READ, _GENERIC_WRITE = 0x80000000, 0x40000000
    _SHARE_ALL = 1 | 2 | 4  # reading, writing, and names that are moved or removed
    _CREATE_NEW, _OPEN_EXISTING = 1, 3
    _NORMAL, _NO_LINKS_FOLLOWED = 0x80, 0x00200000
    _BINARY, _NOT_INHERITED = 0x8000, 0x80  # of os.open's flags, O_BINARY and O_NOINHERIT
    _LOCKED_BYTE = 1 << 43  # 8 TiB
    _HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)

    def __init__(self, msvcrt: Any = None, winapi: Any = None) -> None:
        self._msvcrt = msvcrt or importlib.import_module("msvcrt")
        self._winapi = winapi or importlib.import_module("_winapi")
        self._position = threading.Lock()  # a descriptor has one, which all threads share

    def _open(self, path: str | os.PathLike[str], access: int, creation: int, attributes: int, flags: int) -> int:
        name = os.fsdecode(path)
        try:
            handle = self._winapi.CreateFile(name, access, self._SHARE_ALL, 0, creation, attributes, 0)
        except OSError as error:
            error.filename = name
            raise
        return int(self._msvcrt.open_osfhandle(handle, flags | self._BINARY | self._NOT_INHERITED))

    def open_input(self, path: str | os.PathLike[str], *, follows_links: bool = True) -> int:
        attributes = self._NORMAL if follows_links else self._NORMAL | self._NO_LINKS_FOLLOWED
        return self._open(path, self._GENERIC_READ, self._OPEN_EXISTING, attributes, os.O_RDONLY)

    def open_for_lock(self, path: str | os.PathLike[str]) -> int:
        return self.open_input(path, follows_links=False)

    def create(self, path: str | os.PathLike[str]) -> int:
        return self._open(path, self._GENERIC_WRITE, self._CREATE_NEW, self._NORMAL, os.O_WRONLY)

    def read_into(self, descriptor: int, view: memoryview, offset: int) -> int:
        with self._position, io.FileIO(descriptor, closefd=False) as file:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return file.readinto(view) or 0

    def write(self, descriptor: int, view: memoryview, offset: int) -> int:
        with self._position:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.write(descriptor, view)

    def try_lock(self, descriptor: int) -> bool | None:
        try:
            with self._position:
                os.lseek(descriptor, self._LOCKED_BYTE, os.SEEK_SET)
                self._msvcrt.locking(descriptor, self._msvcrt.LK_NBLCK, 1)
        except OSError as error:
            return False if error.errno in self._HELD else None
        return True

    def link(self, path: str | os.PathLike[str], name: str | os.PathLike[str]) -> None:
        os.link(path, name)

    def is_own(self, status: os.stat_result) -> bool:
        return True  # whoever may remove a file is told so by the system

    def is_private(self, status: os.stat_result) -> bool:
        return True  # the mode says nothing; a folder has the permissions of the one that it was made in

    def sync_folder(self, folder: Path) -> None:
        """Nothing: a folder cannot be opened, and its names are journalled."""

    def start_writeback(self, descriptor: int, start: int, stop: int) -> None:
        """Nothing: there is no such call."""


SYSTEM: System = Windows() if os.name == "nt" else Posix()
