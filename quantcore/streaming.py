"""Slabs that are read and computed in several threads, and taken in their order by the calling one.

While slabs are computed, another one is read and an earlier one is written. A slab should be small, so that what was
read is still in the CPU's cache when it is computed. A few buffers take turns: memory does not grow with what flows
through. Errors come up in the order of the slabs too, so that the first bad one is reported whatever the threads.
"""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Semaphore
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from quantcore import _parallel

Slab = TypeVar("Slab")
Result = TypeVar("Result")
Bytes = NDArray[np.uint8]

_MOST_THREADS = 64  # each has its buffers; memory and disk have no more to give before so many are busy
_N_WAITING = 2  # results that may wait to be taken while the others go on


def stream(
    slabs: Iterable[Slab],
    *,
    read: Callable[[Slab, Bytes], Bytes],
    compute: Callable[[Slab, Bytes, Bytes], Result],
    take: Callable[[Slab, Result], None],
    buffer_bytes: tuple[int, int],
    n_threads: int | None,
    progress: Callable[[int], None],
    in_order: bool = False,
) -> None:
    """Send every slab through `read` and `compute` in any order and thread, then through `take` in order.

    Parameters
    ----------
    slabs : iterable
        Whatever the three functions understand.
    read : (slab, buffer) -> bytes
        Fills the head of a buffer and returns that part of it.
    compute : (slab, bytes, buffer) -> result
        The result may be, or lie in, the bytes or the second buffer. Should not start threads.
    take : (slab, result) -> None
        Runs in the calling thread; the buffers are filled anew once it returns.
    buffer_bytes : (int, int)
        Sizes of the buffers for `read` and for `compute`.
    n_threads : int or None
        How many slabs are computed at the same time, 64 at most; None: `get_num_threads()`. One more may be read
        meanwhile.
    progress : (int) -> None
        Gets the number of bytes that were read for each slab, once it is taken.
    in_order : bool, default False
        Read and compute in order as well, one slab after the other: for what can only be read from front to back.
    """
    n_computing = min(n_threads or _parallel.get_num_threads(), _MOST_THREADS)
    computing = Semaphore(n_computing)
    n_workers = 1 if in_order else n_computing + 1
    free = [[np.empty(size, np.uint8) for size in buffer_bytes] for _ in range(n_workers + _N_WAITING)]
    under_way: deque[tuple[Slab, list[Bytes], Future[tuple[int, Result]]]] = deque()

    def work(slab: Slab, buffers: list[Bytes]) -> tuple[int, Result]:
        data = read(slab, buffers[0])
        with computing:
            return data.size, compute(slab, data, buffers[1])

    def take_first() -> None:
        slab, buffers, future = under_way.popleft()
        n_bytes, result = future.result()
        take(slab, result)
        free.append(buffers)
        progress(n_bytes)

    with ThreadPoolExecutor(n_workers, "quantcore") as workers:
        try:
            for slab in slabs:
                if not free:
                    take_first()
                buffers = free.pop()
                under_way.append((slab, buffers, workers.submit(work, slab, buffers)))
            while under_way:
                take_first()
        finally:
            workers.shutdown(cancel_futures=True)
