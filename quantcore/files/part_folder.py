"""Finished parts of an output, which several processes write at different times, kept until all of them are there.

The parts lie in a private folder `.quantcore-IDENTITY.parts` inside that of the output, and so in the same file system.
The identity stands for everything that the bytes of the parts depend on, so that a later run only finds parts of its
own plan. A part gets its name once it is complete and on the disk; what a killed process left has none.
"""

import contextlib
import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from quantcore.errors import OutputBusyError, OutputFileError
from quantcore.files import system
from quantcore.files.disk import OutputFile, label, settle
from quantcore.files.temporaries import is_still

_NAME = re.compile(r"\.quantcore-[0-9a-f]{32}\.parts")
_LOCK = "lock"
_WAIT_SECONDS = 0.1
_MOST_ATTEMPTS = 10


class PartFolder:
    """A folder of finished parts; `with` claims it for the process that will put the parts in place.

    The lock is held until the end. When the block fails, finished parts stay for the next run; when it succeeds, the
    folder is removed, and those of other plans for the same output, which killed processes left.

    Parameters
    ----------
    output : Path
        The folder of the output; it exists when the block is entered.
    identity : str
        32 hexadecimal digits.
    """

    def __init__(self, output: Path, identity: str) -> None:
        self.path = output / f".quantcore-{identity}.parts"
        self._lock = -1

    def part(self, number: int) -> Path:
        """Where a finished part lies. Numbers, since a part may have any name in the output."""
        return self.path / f"{number:05d}"

    def keep_if(self, number: int, is_whole: Callable[[Path], bool]) -> bool:
        """Whether a part is finished; one that is not what it should be is removed."""
        path = self.part(number)
        if not os.path.lexists(path):
            return False
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode) and system.SYSTEM.is_own(status) and is_whole(path):
            return True
        os.unlink(path)
        return False

    def write(self, number: int, write: Callable[[OutputFile], None], inputs: Sequence[Path]) -> None:
        """Write a part in any process, unless it is there; if another process is writing it, wait for that one."""
        self._check()
        path = self.part(number)
        while not path.exists():
            try:
                with OutputFile(path, inputs=inputs) as file:
                    write(file)
            except OutputBusyError:
                time.sleep(_WAIT_SECONDS)
            except OutputFileError:  # another process was faster
                if not path.exists():
                    raise

    def __enter__(self) -> Self:
        for other in self._others():
            try:
                lock = _lock(other)
            except OutputFileError:
                raise
            except OSError:  # it was removed meanwhile, or cannot be locked, and so nobody writes to it
                continue
            if lock is not None:
                os.close(lock)
        for attempt in range(1, _MOST_ATTEMPTS + 1):
            try:
                self._claim()
                break
            except FileNotFoundError:  # the call that had it is just removing it
                if attempt == _MOST_ATTEMPTS:
                    raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            settle((self._remove_if_empty, self._close, self._remove_folder))
        elif settle((self._remove_others, self._remove, self._close, self._remove_folder)):
            raise KeyboardInterrupt

    def _claim(self) -> None:
        """Make the folder unless it is there, and lock it; one that was made for nothing is removed."""
        is_new = False
        try:
            with contextlib.suppress(FileExistsError):
                self.path.mkdir(0o700)
                is_new = True
            self._check(is_new=is_new)
            lock = _lock(self.path)
            self._lock = -1 if lock is None else lock
        except BaseException:
            if is_new:
                settle((self._remove_folder,))
            raise

    def _check(self, *, is_new: bool = False) -> None:
        status = os.lstat(self.path)
        if stat.S_ISDIR(status.st_mode) and system.SYSTEM.is_private(status):
            return
        if is_new:
            raise OutputFileError(
                f"{label(self.path)}: was made for this user alone, and is not; this file system does not keep "
                "permissions, choose a folder in another one"
            )
        raise OutputFileError(
            f"{label(self.path)}: is not a folder of this user that nobody else can write; remove it to begin anew"
        )

    def _others(self) -> list[Path]:
        """Folders of other plans for the same output, as far as they are this user's."""
        names = sorted(name for name in os.listdir(self.path.parent) if _NAME.fullmatch(name))
        found = []
        for path in (self.path.with_name(name) for name in names if name != self.path.name):
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                if stat.S_ISDIR(status.st_mode) and system.SYSTEM.is_private(status):
                    found.append(path)
        return found

    def _remove_others(self) -> None:
        for path in self._others():
            with contextlib.suppress(OSError):
                if (lock := _lock(path)) is not None:
                    try:
                        _empty(path)
                    finally:
                        os.close(lock)
                    os.rmdir(path)

    def _remove(self) -> None:
        _empty(self.path)

    def _remove_folder(self) -> None:
        # Not while the lock is open: its name may stay until then on network file systems and Windows.
        os.rmdir(self.path)

    def _remove_if_empty(self) -> None:
        if os.listdir(self.path) == [_LOCK]:
            self._remove()

    def _close(self) -> None:
        descriptor, self._lock = self._lock, -1
        if descriptor >= 0:
            os.close(descriptor)


def _empty(folder: Path) -> None:
    """Remove all files of a locked folder, the lock last: until then nobody can take the rest for finished parts."""
    for name in [*sorted(name for name in os.listdir(folder) if name != _LOCK), _LOCK]:
        with contextlib.suppress(OSError):
            os.unlink(folder / name)


def _lock(folder: Path) -> int | None:
    """Lock a folder of parts; None where the file system has no locks.

    Raises
    ------
    OutputFileError
        Another process has locked it.
    """
    path = folder / _LOCK
    while True:
        try:
            descriptor = system.SYSTEM.create(path)
        except FileExistsError:
            try:
                descriptor = system.SYSTEM.open_for_lock(path)
            except FileNotFoundError:
                continue
        is_kept = False
        try:
            lock = system.SYSTEM.try_lock(descriptor)
            is_kept = lock is True and is_still(path, os.fstat(descriptor))
            if is_kept:
                return descriptor
        finally:
            if not is_kept:
                os.close(descriptor)
        if lock is False:
            raise OutputFileError(f"{label(folder.parent)}: another process is writing to this folder ({label(path)})")
        if lock is None:
            return None
