"""Work on whole blocks, shared out to threads.

Chunks of blocks are handed out in ascending order by the kernel's object, which all threads run, without the GIL. The
calling thread works as well, in turns of some hundredths of a second, between which Ctrl-C is answered: the handing out
stops, the chunks under way (about a millisecond each) are waited for, KeyboardInterrupt is raised. The other threads
work until no chunk is left, so that a busy interpreter does not slow them. Small inputs run inline. There is no pool of
threads, so a fork loses none. Each block is computed alone, so the bytes do not depend on the number of threads.
"""

import _thread
import os
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from time import perf_counter

from quantcore import _kernels
from quantcore._base.arguments import integer
from quantcore._base.text import brief
from quantcore.errors import InvalidValueError

CHUNK_BYTES = 1 << 20
INLINE_BYTES = 1 << 21
TURN_SECONDS = 0.02
_UNLIMITED = sys.maxsize
_MOST_DIGITS = 18

Turn = Callable[[int], object]
"""Works on chunks until none are left, or so many are done."""

_num_threads: int | None = None


def set_num_threads(n_threads: int | None) -> None:
    """Set the number of threads that functions use when `n_threads` is not given.

    Parameters
    ----------
    n_threads : int or None
        At least 1. None: return to `QUANTCORE_NUM_THREADS`, or else the number of CPUs that this process may use.
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
        is_number = setting.isascii() and setting.isdigit() and len(setting) <= _MOST_DIGITS
        if not is_number or int(setting) < 1:
            raise InvalidValueError(f"QUANTCORE_NUM_THREADS: expected an integer >= 1, got {brief(setting)}")
        return int(setting)
    return num_cpus()


def num_cpus() -> int:
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
    """Run `kernel` over items of `item_bytes` bytes (the larger of input and output), in multiples of `unit` items.

    `turn` is what each thread calls if it is not `kernel.run` itself. Returns the first item that the kernel could not
    take, or -1; the items after it are only processed if `goes_on`.
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
        _run_in_threads(kernel, turn, max(1, min(count_threads(n_threads), n_bytes // CHUNK_BYTES)))
    return kernel.first_bad


def check_threads(n_threads: int | None) -> None:
    """Check `n_threads` in a call that may return before it gets to `run`."""
    if n_threads is not None:
        integer(n_threads, "n_threads", 1)


def count_threads(n_threads: int | None) -> int:
    """How many threads `n_threads` asks for; None: `get_num_threads()`."""
    return get_num_threads() if n_threads is None else integer(n_threads, "n_threads", 1)


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
            if not kernel.is_done:  # otherwise nobody waits for this thread any more
                turn(_UNLIMITED)
        except BaseException as error:
            failures.append(error)
            kernel.cancel()
        finally:
            ended.set()

    try:
        is_crowded = n_threads > num_cpus()
        for _ in range(n_threads - 1):
            if not start_thread(work, waits=is_crowded):
                break  # those that there are do it all
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


def start_thread(work: Callable[[], None], *, waits: bool = False) -> bool:
    """Start a thread, if the system has one left and the interpreter is not shutting down.

    `waits`: until it runs, which gives others than this thread a turn; else it is started in a third of the time.
    """
    if sys.is_finalizing():  # the thread would never get to run Python
        return False
    try:
        if waits:
            threading.Thread(target=work, name="quantcore").start()
        else:
            _thread.start_new_thread(work, ())
    except RuntimeError:  # "can't start new thread", or not at this time of the interpreter's life
        return False
    return True


def _work_in_turns(kernel: _kernels.Kernel, turn: Turn) -> None:
    most = 1
    while not kernel.is_done:
        start = perf_counter()
        turn(most)
        if perf_counter() - start < TURN_SECONDS:
            most *= 2
