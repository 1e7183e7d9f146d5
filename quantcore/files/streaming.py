"""Slabs that are read and computed in several threads, and consumed in order by the calling thread.

While slabs are computed, another one is read and an earlier one is written. A slab should be small, so that its
bytes are still in the CPU's cache when it is computed. A few buffers are reused, so memory does not grow with the data.
Errors are raised in the order of the slabs too, so the first bad one is reported for any number of threads.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Event, Semaphore
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, parallel

Item = TypeVar("Item")
Part = TypeVar("Part")
Result = TypeVar("Result")
Bytes = NDArray[np.uint8]

_MOST_THREADS = 64  # each has its own buffers; memory and disk are saturated long before
_N_WAITING = 2  # results that may wait to be taken while the others go on


@dataclass(frozen=True, slots=True)
class Slab(Generic[Item]):
    """Elements (or bytes) `start` to `stop` of an item, such as a tensor or a job."""

    item: Item
    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many elements (or bytes) there are."""
        return self.stop - self.start


def cut(item: Item, size: int, most: int) -> Iterator[Slab[Item]]:
    """The slabs of an item of `size` elements, each of `most` elements but the last one."""
    for start in range(0, size, most):
        yield Slab(item, start, min(start + most, size))


class Progress:
    """Bytes done of all bytes; it may go through several streams, one after the other.

    Parameters
    ----------
    total : int
        Bytes in all.
    tell : (done, total) -> None, optional
        Called whenever some are done.
    """

    def __init__(self, total: int, tell: Callable[[int, int], None] | None) -> None:
        arguments.callback(tell, "progress")
        self._total = total
        self._tell = tell
        self._done = 0

    def advance(self, count: int) -> None:
        """So many more bytes are done."""
        # Slabs of 4-bit codes may share a byte, which is read twice then.
        self._done = min(self._done + count, self._total)
        if self._tell is not None:
            self._tell(self._done, self._total)


def stream(
    slabs: Iterable[Part],
    *,
    read: Callable[[Part, Bytes], Bytes],
    compute: Callable[[Part, Bytes, Bytes], Result],
    take: Callable[[Part, Result], None],
    buffer_bytes: tuple[int, int],
    n_threads: int | None,
    progress: Progress,
    in_order: bool = False,
) -> None:
    """Pass every slab through `read` and `compute` in any order and thread, then through `take` in order.

    Parameters
    ----------
    slabs : iterable
        Whatever the three functions understand, such as the slabs that `cut` gives.
    read : (slab, buffer) -> bytes
        Fills the head of a buffer and returns that part of it.
    compute : (slab, bytes, buffer) -> result
        The result may be, or lie in, the bytes or the second buffer. Should not start threads.
    take : (slab, result) -> None
        Runs in the calling thread; the buffers are reused once it returns.
    buffer_bytes : (int, int)
        Sizes of the buffers for `read` and for `compute`.
    n_threads : int or None
        How many slabs are computed at the same time, 64 at most; None: `get_num_threads()`. One more may be read
        meanwhile.
    progress : Progress
        Advances by the number of bytes that were read for each slab, once it is taken.
    in_order : bool, default False
        Read and compute in order as well, one slab after the other: for files that can only be read from front to back.
    """
    n_computing = min(parallel.count_threads(n_threads), _MOST_THREADS)
    computing = Semaphore(n_computing)
    n_workers = 1 if in_order else n_computing + 1
    free = [[np.empty(size, np.uint8) for size in buffer_bytes] for _ in range(n_workers + _N_WAITING)]
    under_way: deque[_Job[Part, Result]] = deque()
    workers = _Workers(n_workers)

    def work(slab: Part, buffers: list[Bytes]) -> tuple[int, Result]:
        data = read(slab, buffers[0])
        with computing:
            return data.size, compute(slab, data, buffers[1])

    def take_first() -> None:
        job = under_way.popleft()
        n_bytes, result = workers.result_of(job)
        take(job.slab, result)
        free.append(job.buffers)
        progress.advance(n_bytes)

    try:
        for slab in slabs:
            if not free:
                take_first()
            under_way.append(_Job(slab, free.pop(), work))
            workers.submit(under_way[-1])
        while under_way:
            take_first()
    finally:
        workers.end()


class _Job(Generic[Part, Result]):
    """One slab with its buffers, and what came of it."""

    def __init__(
        self, slab: Part, buffers: list[Bytes], work: Callable[[Part, list[Bytes]], tuple[int, Result]]
    ) -> None:
        self.slab = slab
        self.buffers = buffers
        self.ended = Event()
        self.result: tuple[int, Result] | None = None
        self.error: BaseException | None = None
        self._work = work

    def run(self) -> None:
        try:
            self.result = self._work(self.slab, self.buffers)
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()


class _Workers:
    """Up to `most` threads that run jobs, started as jobs come; without a thread, the jobs run where they are awaited.

    The system may have no thread left, and an interpreter that shuts down starts none.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._jobs: SimpleQueue[_Job[Any, Any] | None] = SimpleQueue()
        self._ended: list[Event] = []
        self._is_cancelled = False

    def submit(self, job: _Job[Any, Any]) -> None:
        if len(self._ended) < self._most:
            ended = Event()
            if parallel.start_thread(partial(self._work, ended)):
                self._ended.append(ended)
            else:
                self._most = len(self._ended)
        if self._most:
            self._jobs.put(job)

    def result_of(self, job: _Job[Part, Result]) -> tuple[int, Result]:
        if not self._most:
            job.run()
        job.ended.wait()
        if job.error is not None:
            raise job.error
        assert job.result is not None
        return job.result

    def end(self) -> None:
        """Leave out the jobs that wait, and let those under way end."""
        self._is_cancelled = True
        for _ in self._ended:
            self._jobs.put(None)
        for ended in self._ended:
            ended.wait()

    def _work(self, ended: Event) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                if not self._is_cancelled:
                    job.run()
        finally:
            ended.set()
