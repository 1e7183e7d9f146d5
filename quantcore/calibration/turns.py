"""Who may use a calibrator when: one thread at a time, also if a signal handler or a forked child comes in between."""

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from quantcore.errors import InvalidStateError

_live: "weakref.WeakSet[Turns]" = weakref.WeakSet()


class Turns:
    """A lock for one object.

    Other threads wait. A signal handler cannot wait for the very thread that it runs in: it may read, which shows what
    was there before, but not change anything. A forked child gets a lock that nobody holds, since the thread that held
    it is not there.

    `with turns.read():` around what must not change meanwhile; `with turns.change("observe"):` around a change.
    """

    __slots__ = ("__weakref__", "_turn")

    def __init__(self) -> None:
        self.free()
        _live.add(self)

    def free(self) -> None:
        """Let nobody hold the lock; who has it in a thread that goes on gives back the old one."""
        self._turn = _Turn()

    @contextmanager
    def read(self) -> Iterator[None]:
        """What changes meanwhile is refused if this thread does it."""
        turn = self._turn
        with turn.lock:
            try:
                turn.depth += 1
                yield
            finally:
                turn.depth -= 1

    @contextmanager
    def change(self, what: str) -> Iterator[None]:
        """Refused within another call of the same thread."""
        turn = self._turn
        with turn.lock:
            if turn.depth:
                raise InvalidStateError(
                    f"{what}: called while this thread is in the midst of another call of the same calibrator, as from "
                    f"a signal handler"
                )
            try:
                turn.depth += 1
                yield
            finally:
                turn.depth -= 1


class _Turn:
    __slots__ = ("depth", "lock")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.depth = 0  # calls of the thread that has the lock


def _free_all() -> None:
    for turns in list(_live):
        turns.free()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_all)
