"""Work on whole blocks, shared out to threads.

Chunks of blocks are handed out in ascending order by the kernel's object, which all threads run, without the GIL. The
calling thread works as well, in turns of some hundredths of a second, between which Ctrl-C is answered: the handing out
stops, the chunks under way (about a millisecond each) are waited for, KeyboardInterrupt is raised. The other threads
work until no chunk is left, so that a busy interpreter does not slow them. Small inputs run inline. There is no pool:
nothing to lose in a fork. Each block is computed alone, so the bytes do not depend on the number of threads.
"""

import _thread
import os
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from time import perf_counter

from quantcore import _kernels
from quantcore._arrays import integer
from quantcore.errors import InvalidValueError

CHUNK_BYTES = 1 << 20
INLINE_BYTES = 1 << 21
TURN_SECONDS = 0.02
_UNLIMITED = sys.maxsize

Turn = Callable[[int], object]
"""Works on chunks until none are left, or so many are done."""

_num_threads: int | None = None


def set_num_threads(n_threads: int | None) -> None:
    """Set the number of threads that functions use when `n_threads` is not given.

    Parameters
    ----------
    n_threads : int or None
        At least 1. None: back to `QUANTCORE_NUM_THREADS`, or else the number of CPUs that this process may use.
    """
    global _num_threads
    _num_threads = None if n_threads is None else integer(n_threads, "n_threads", 1)


def get_num_threads() -> int:
    """The number of threads that functions use when `n_threads` is not given.

    Returns
    -------
    int
        What `set_num_threads` set; else the environment variable `QUANTCORE_NUM_THREADS`; else the number of CPUs that
        this process may use.

    Raises
    ------
    ValueError
        `QUANTCORE_NUM_THREADS` is not a positive integer.
    """
    if _num_threads is not None:
        return _num_threads
    setting = os.environ.get("QUANTCORE_NUM_THREADS")
    if setting:
        if not setting.isascii() or not setting.isdigit() or int(setting) < 1:
            raise InvalidValueError(f"QUANTCORE_NUM_THREADS: expected an integer >= 1, got {setting!r}")
        return int(setting)
    return _num_cpus()


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    kernel: _kernels.Kernel,
    n_items: int,
    item_bytes: int,
    n_threads: int | None,
    *,
    unit: int = 64,
    goes_on: bool = False,
    turn: Turn | None = None,
) -> int:
    """Run `kernel` over items of `item_bytes` bytes (the larger side), `unit` or a multiple of it together.

    `turn` is what each thread calls if it is not `kernel.run` itself. Returns the first item that the kernel could not
    take, or -1; those behind it are only done if `goes_on`.
    """
    check_threads(n_threads)
    n_bytes, size = n_items * item_bytes, chunk_items(item_bytes, unit)
    if n_bytes <= INLINE_BYTES and turn is None:
        return kernel.run_whole(n_items, size, goes_on)
    kernel.hand_out(n_items, size, goes_on)
    turn = turn or kernel.run
    if n_bytes <= INLINE_BYTES:
        turn(_UNLIMITED)
    else:
        n_threads = n_threads or get_num_threads()
        _run_in_threads(kernel, turn, max(1, min(n_threads, n_bytes // CHUNK_BYTES)))
    return kernel.first_bad


def check_threads(n_threads: int | None) -> None:
    """For calls that may end without coming here."""
    if n_threads is not None:
        integer(n_threads, "n_threads", 1)


@lru_cache(maxsize=256)
def chunk_items(item_bytes: int, unit: int = 64) -> int:
    """How many items `run` hands out together."""
    return max(unit, CHUNK_BYTES // item_bytes // unit * unit)


def _run_in_threads(kernel: _kernels.Kernel, turn: Turn, n_threads: int) -> None:
    under_way: list[threading.Event] = []
    failures: list[BaseException] = []

    def work() -> None:
        ended = threading.Event()
        under_way.append(ended)
        try:
            if not kernel.is_done:  # else nobody waits for this thread any more
                turn(_UNLIMITED)
        except BaseException as error:
            failures.append(error)
            kernel.cancel()
        finally:
            ended.set()

    try:
        is_crowded = n_threads > _num_cpus()
        for _ in range(n_threads - 1):
            if is_crowded:  # waits until the thread runs, so that this one gets a turn to answer Ctrl-C
                threading.Thread(target=work, name="quantcore").start()
            else:  # in a third of the time
                _thread.start_new_thread(work, ())
        _work_in_turns(kernel, turn)
        for ended in under_way:
            ended.wait()
        kernel.let_go()  # a thread that ends late keeps the kernel a little longer, but not the caller's arrays
        if failures:
            raise failures[0]
    except BaseException:
        kernel.cancel()
        for ended in under_way:
            ended.wait()
        kernel.let_go()
        raise


def _work_in_turns(kernel: _kernels.Kernel, turn: Turn) -> None:
    most = 1
    while not kernel.is_done:
        start = perf_counter()
        turn(most)
        if perf_counter() - start < TURN_SECONDS:
            most *= 2
