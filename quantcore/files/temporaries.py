"""The temporary files beside an output: unguessable names, locks that tell whose they are, removal of stale ones.

A temporary is named `.NAME.` + 32 random hexadecimal digits + its suffix. The process that made it holds a lock on it
for as long as it runs, so whatever can be locked is what a killed process left. Where a file system has no
locks, nothing can be proven and nothing is removed.
"""

import contextlib
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from quantcore.errors import OutputBusyError
from quantcore.files import system
from quantcore.files.paths import label

PARTIAL = ".partial"
"""The suffix of an output that is being written."""
REPLACED = ".replaced"
"""The suffix of an old output, kept until all new ones are in place."""
_LONGEST_NAME = 255
_RANDOM_BYTES = 16


def new_temporary(output: Path, suffix: str) -> Path:
    """A name that nobody can have guessed."""
    return output.with_name(_prefix(output.name) + secrets.token_hex(_RANDOM_BYTES) + suffix)


def is_still(path: Path, status: os.stat_result) -> bool:
    """Whether a name still belongs to this file, rather than to none or to one that somebody put there."""
    try:
        return os.path.samestat(os.lstat(path), status)
    except OSError:
        return False


def remove_stale(output: Path, suffix: str, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Remove the temporaries that killed processes left of this output: files of this user that nobody has locked.

    Raises
    ------
    OutputBusyError
        Another process is writing the same output.
    """
    pattern = re.compile(re.escape(_prefix(output.name)) + f"[0-9a-f]{{{2 * _RANDOM_BYTES}}}" + re.escape(suffix))
    try:
        names = [name for name in os.listdir(output.parent) if pattern.fullmatch(name)]
    except OSError:  # a folder that may be written but not read
        return
    for name in sorted(names):
        _remove_if_stale(output, output.with_name(name), inputs)


def settle(steps: Iterable[Callable[[], object]]) -> bool:
    """Take every step of cleaning up, whatever happens. Each may be taken twice.

    Returns
    -------
    bool
        Whether Ctrl-C came meanwhile. A step that fails is left out: there is nothing more to be done about it.
    """
    waiting = list(steps)
    was_interrupted = False
    while waiting:
        try:
            while waiting:
                with contextlib.suppress(OSError):
                    was_interrupted |= waiting[0]() is True
                del waiting[0]
        except KeyboardInterrupt:
            was_interrupted = True
    return was_interrupted


def _remove_if_stale(output: Path, path: Path, inputs: Iterable[str | os.PathLike[str]]) -> None:
    try:
        descriptor = system.SYSTEM.open_for_lock(path)
    except OSError:
        return
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not system.SYSTEM.is_own(status) or _is_one_of(inputs, status):
            return
        lock = system.SYSTEM.try_lock(descriptor)
        if lock is False and path.suffix == PARTIAL:
            raise OutputBusyError(f"{label(output)}: another process is writing it ({label(path)})")
        if lock and is_still(path, status):
            with contextlib.suppress(OSError):
                os.unlink(path)
    finally:
        os.close(descriptor)


def _is_one_of(inputs: Iterable[str | os.PathLike[str]], status: os.stat_result) -> bool:
    for source in inputs:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(source), status):
                return True
    return False


def _prefix(name: str) -> str:
    """The same for the same name, so that a stale temporary is found again; a long name is hashed."""
    prefix = f".{name}."
    if len(os.fsencode(prefix)) + 2 * _RANDOM_BYTES + len(REPLACED) <= _LONGEST_NAME:
        return prefix
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()}."
