"""Files on the disk: inputs (see `inputs`), and outputs that are written atomically, one or several together.

The data of an output go to a temporary beside it. When all outputs of a call are complete and on the disk, each gets
its name. If anything fails before the last one has it (an error, Ctrl-C), those that have theirs are withdrawn: every
step only looks at which file a name belongs to, so it does not matter between which two steps that happens.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from quantcore._base import arguments
from quantcore.errors import OutputFileError
from quantcore.files import system
from quantcore.files.inputs import InputFile
from quantcore.files.paths import label, local_path, naming
from quantcore.files.temporaries import (
    PARTIAL,
    REPLACED,
    is_still,
    new_temporary,
    remove_stale,
    settle,
)

__all__ = ["InputFile", "OutputFile", "OutputFiles", "check_output", "label", "local_path", "settle"]

_RUN_BYTES = 1 << 24
_COPY_BYTES = 1 << 22
Paths = Sequence[str | os.PathLike[str]]


class OutputFile:
    """A file that is written atomically: it gets its name when the `with` block succeeds; otherwise nothing changes.

    The data go to a temporary in the same folder, which is locked while it is written. The next run that writes the
    same output removes what a killed one left.

    Parameters
    ----------
    path : path
        The final name. A symbolic link is followed.
    force : bool
        Replace an existing file.
    inputs : paths
        Files that are read while this one is written; the output must not be one of them.

    Raises
    ------
    OutputFileError
        The file exists and `force` is false; it is one of the inputs, or not a regular file; its folder does not exist;
        another process writes it (OutputBusyError).
    """

    def __init__(self, path: str | os.PathLike[str], *, force: bool = False, inputs: Paths = ()) -> None:
        check_output(path, force=force, inputs=inputs)
        self.path: Path = Path(os.path.realpath(local_path(path)))
        self.label: str = label(path)
        self._force = force
        self._inputs = tuple(inputs)
        self._descriptor = -1
        self._partial = self.path
        self._replaced: Path | None = None  # another name of the old output
        self._old: os.stat_result | None = None
        self._old_lock = -1
        self._run = 0, 0
        self._checks: list[Callable[[], None]] = []
        self._is_on_disk = False

    def open(self) -> None:
        """Create the temporary."""
        try:
            with naming(self.path):
                remove_stale(self.path, PARTIAL, self._inputs)
                while not self._create():
                    self.withdraw()
        except BaseException:
            self.withdraw()
            raise

    def adopt(self, finished: Path) -> None:
        """Take a file that is complete and on the disk, in the same file system, instead of creating a temporary.

        It keeps its name as well, so that it is not lost if the output is withdrawn; where there are no hard links, it
        becomes the temporary.
        """
        if os.path.exists(self.path) and os.path.samefile(self.path, finished):
            # An earlier run was stopped after it had put it in place. A file does not take the place of itself.
            self.open()
            self.copy(finished)
            return
        try:
            with naming(self.path):
                remove_stale(self.path, PARTIAL, self._inputs)
                self._partial = new_temporary(self.path, PARTIAL)
                _give_name(finished, self._partial)
                self._descriptor = system.SYSTEM.open_for_lock(self._partial)
                system.SYSTEM.try_lock(self._descriptor)
                self._is_on_disk = True
        except BaseException:
            self.withdraw()
            raise

    def write(self, data: Any) -> None:
        """Write after the bytes that were written last."""
        self.write_at(self._run[1], data)

    def copy(self, source: Path) -> None:
        """Write what another file holds."""
        with InputFile(source) as file:
            for start in range(0, file.size, _COPY_BYTES):
                self.write(file.read(start, min(_COPY_BYTES, file.size - start)))

    def write_at(self, offset: int, data: Any) -> None:
        """Write from this offset of the file on."""
        view = arguments.buffer(data, "data")
        start = self._run[0] if offset == self._run[1] else offset
        with naming(self.path):
            while len(view):
                count = system.SYSTEM.write(self._descriptor, view, offset)
                view, offset = view[count:], offset + count
        if offset - start >= _RUN_BYTES:
            system.SYSTEM.start_writeback(self._descriptor, start, offset)
            start = offset
        self._run = start, offset

    def require(self, check: Callable[[], None]) -> None:
        """Have a check called before the file gets its name; nothing changes if it raises."""
        self._checks.append(check)

    def complete(self) -> None:
        """Check what was required, and wait until all bytes are on the disk."""
        for check in self._checks:
            check()
        if not self._is_on_disk:
            with naming(self.path):
                os.fsync(self._descriptor)

    def put_in_place(self, *, keep_old: bool) -> None:
        """Give the file its name, which `withdraw` takes back; an old output only comes back if it was kept."""
        if not is_still(self._partial, os.fstat(self._descriptor)):
            raise OutputFileError(
                f"{self.label}: its temporary {label(self._partial)} was removed or replaced while it was being written"
            )
        with naming(self.path):
            if self._force:
                self._replace(keep_old=keep_old)
            else:
                self._link()

    def withdraw(self) -> None:
        """Leave everything as it was before `open`, and close; nothing happens to what somebody else put in the way."""
        settle((self._restore, self._remove_partial, self._drop_restored, self._close, self._unlock_old))

    def finish(self) -> bool:
        """Give up the old output, and close. Returns whether Ctrl-C came meanwhile."""
        return settle((self._drop_old, self._remove_stale_old, self._close, self._unlock_old))

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end((self,), is_success=kind is None)

    def _create(self) -> bool:
        """Make a temporary and lock it; False if another process took it for a stale one meanwhile."""
        self._partial = new_temporary(self.path, PARTIAL)
        self._descriptor = system.SYSTEM.create(self._partial)
        return system.SYSTEM.try_lock(self._descriptor) is not False and is_still(
            self._partial, os.fstat(self._descriptor)
        )

    def _link(self) -> None:
        # A link, unlike a rename, fails if someone made the file in the meantime.
        try:
            os.link(self._partial, self.path)
        except FileExistsError:
            raise OutputFileError(f"{self.label}: appeared while it was being written") from None
        except OSError as error:
            if error.errno not in system.SYSTEM.no_links:
                raise
            if os.path.lexists(self.path):
                raise OutputFileError(f"{self.label}: appeared while it was being written") from None
            os.rename(self._partial, self.path)
        else:
            with contextlib.suppress(OSError):  # of no use any more; the next run removes it
                os.unlink(self._partial)

    def _replace(self, *, keep_old: bool) -> None:
        try:
            self._old = os.lstat(self.path)
            if not stat.S_ISREG(self._old.st_mode):
                raise OutputFileError(f"{self.label}: became something else than a regular file meanwhile")
            if keep_old:
                self._keep_old()
        except FileNotFoundError:
            self._old = None
        os.replace(self._partial, self.path)

    def _keep_old(self) -> None:
        with contextlib.suppress(OSError):  # tells others that it is in use; without a lock, they leave it alone
            self._old_lock = system.SYSTEM.open_input(self.path, follows_links=False)
            system.SYSTEM.try_lock(self._old_lock)
        self._replaced = new_temporary(self.path, REPLACED)
        _give_name(self.path, self._replaced)

    @property
    def _has_old(self) -> bool:
        """Whether the old output is there under its other name."""
        return self._replaced is not None and self._old is not None and is_still(self._replaced, self._old)

    def _restore(self) -> None:
        if self._descriptor < 0:
            return
        if is_still(self.path, os.fstat(self._descriptor)):
            if self._has_old:
                os.replace(self._replaced, self.path)  # type: ignore[arg-type]
            elif self._old is None:
                os.unlink(self.path)
        elif self._has_old and not os.path.lexists(self.path):
            os.rename(self._replaced, self.path)  # type: ignore[arg-type]

    def _remove_partial(self) -> None:
        if self._descriptor >= 0 and is_still(self._partial, os.fstat(self._descriptor)):
            os.unlink(self._partial)

    def _drop_old(self) -> None:
        if self._has_old:
            os.unlink(self._replaced)  # type: ignore[arg-type]

    def _drop_restored(self) -> None:
        """Drop the second name of an old output unless it has become the only one."""
        is_only = self._descriptor < 0 or not os.path.lexists(self.path)
        if not is_only and not is_still(self.path, os.fstat(self._descriptor)):
            self._drop_old()

    def _remove_stale_old(self) -> None:
        if self._force:
            remove_stale(self.path, REPLACED, self._inputs)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _unlock_old(self) -> None:
        descriptor, self._old_lock = self._old_lock, -1
        if descriptor >= 0:
            os.close(descriptor)


class OutputFiles:
    """Several files that are written atomically together: all get their names when the `with` block succeeds, or none.

    They get their names in the order in which they were opened. On a file system without hard links a killed process
    may leave an old file under its temporary name (`.NAME.*.replaced`).

    Parameters
    ----------
    force, inputs
        As for `OutputFile`.
    """

    def __init__(self, *, force: bool = False, inputs: Paths = ()) -> None:
        self._force = force
        self._inputs = inputs
        self._files: list[OutputFile] = []

    def open(self, path: str | os.PathLike[str]) -> OutputFile:
        """Another file, ready to be written."""
        file = self._add(path)
        file.open()
        return file

    def adopt(self, path: str | os.PathLike[str], finished: Path) -> None:
        """Another file, whose data are there already (see `OutputFile.adopt`)."""
        self._add(path).adopt(finished)

    def _add(self, path: str | os.PathLike[str]) -> OutputFile:
        file = OutputFile(path, force=self._force, inputs=self._inputs)
        if any(file.path == other.path for other in self._files):
            raise OutputFileError(f"{file.label}: two outputs would be written to it")
        self._files.append(file)
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self._files, is_success=kind is None)


def check_output(
    path: str | os.PathLike[str], *, force: bool = False, inputs: Paths = (), makes_folder: bool = False
) -> None:
    """Refuse an output that is an input, exists already, is not a regular file, or has no folder to lie in.

    `makes_folder` says that the folder is made if it does not exist.
    """
    local_path(path)
    force = arguments.flag(force, "force")
    inputs = [local_path(source) for source in arguments.entries(inputs, "inputs", "paths")]
    if not os.path.basename(os.fsdecode(path)):
        raise OutputFileError(f"output: expected the path of a file, got {os.fsdecode(path)!r}")
    for source in inputs:
        if os.path.exists(path) and os.path.samefile(path, source):
            raise OutputFileError(f"{label(path)}: is the same file as the input {label(source)}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise OutputFileError(f"{label(path)}: exists and is not a regular file")
    if not force and os.path.lexists(path):
        raise OutputFileError(f"{label(path)}: exists already; --force (force=True) replaces it")
    folder = os.path.dirname(os.path.realpath(path))
    if not makes_folder and not os.path.isdir(folder):
        problem = os.strerror(errno.ENOTDIR if os.path.lexists(folder) else errno.ENOENT)
        raise OutputFileError(f"{label(path)}: cannot be written to the folder {label(folder)}: {problem}")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(path)  # a name that is too long would only be refused when the file is complete


def _give_name(path: Path, name: Path) -> None:
    """Give a file another name; where there are no hard links, instead of the one that it has."""
    try:
        system.SYSTEM.link(path, name)
    except OSError as error:
        if error.errno not in system.SYSTEM.no_links:
            raise
        os.rename(path, name)


def _end(files: Sequence[OutputFile], *, is_success: bool) -> None:
    """Put files in place together, or none of them."""
    are_in_place = was_interrupted = False
    try:
        if is_success:
            for file in files:
                file.complete()
            for file in files:
                file.put_in_place(keep_old=len(files) > 1)
            for folder in dict.fromkeys(file.path.parent for file in files):
                system.SYSTEM.sync_folder(folder)
            are_in_place = True
    finally:
        was_interrupted = settle(file.finish if are_in_place else file.withdraw for file in reversed(files))
    if are_in_place and was_interrupted:
        raise KeyboardInterrupt
