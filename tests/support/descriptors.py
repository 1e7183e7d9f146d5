"""Which descriptors this process has open."""

import os
import time


def open_descriptors() -> set[str]:
    """The numbers of those that are open, this list's own among them; none on Windows, which does not tell."""
    return set(os.listdir("/dev/fd")) if os.name == "posix" else set()


def none_opened_since(before: set[str]) -> bool:
    """Whether no more are open than before, once threads that are about to end have ended.

    What earlier tests left to the garbage collector may have been closed meanwhile.
    """
    for _ in range(500):
        if open_descriptors() <= before:
            return True
        time.sleep(0.01)
    return False
