"""How the tests open a hostile file: with a deadline, little memory, and one line of refusal."""

import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quantcore.errors import FileFormatError
from tests.support.descriptors import none_opened_since, open_descriptors

MEMORY = 64 * 2**20


class Deadline(BaseException):
    """Not an Exception: no reader may swallow it."""


@contextmanager
def deadline(cpu: float = 1.0, wall: float = 20.0) -> Iterator[None]:
    """Interrupt what burns CPU time (a machine under load must not fail the test) or waits, as for a FIFO's writer; not
    on Windows, which has no such timers.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(signum: int, frame: object) -> None:
        raise Deadline(signal.Signals(signum).name)

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, cpu)
    outer = signal.setitimer(signal.ITIMER_REAL, wall)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, *outer)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def refusal(open_file: Callable[[Path], object], path: Path, *errors: type[Exception]) -> str:
    """Open a file that must be refused; return the message after checking all that is common to refusals."""
    descriptors = open_descriptors()
    tracemalloc.start()
    try:
        with deadline(), pytest.raises(errors or FileFormatError) as caught:
            open_file(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.isprintable(), message  # one line, and nothing in it that drives a terminal
    assert len(message) < 1000 + len(str(path))
    assert peak < MEMORY
    assert none_opened_since(descriptors)
    return message


def cases(catalogue: dict[str, object]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", catalogue.values(), ids=catalogue.keys())


def written(folder: Path, data: bytes, name: str = "model.gguf") -> Path:
    (folder / name).write_bytes(data)
    return folder / name
