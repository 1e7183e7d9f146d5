"""Reading, computing and writing at the same time, slab by slab, in a few buffers that take turns.

While one slab is computed, the next one is read and the last two are written, so that memory does not grow with what
flows through.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Slab = TypeVar("Slab")
Bytes = NDArray[np.uint8]

_N_SLOTS = 4  # one read, one computed, two written at a time


def stream(
    slabs: Iterable[Slab],
    *,
    read: Callable[[Slab, Bytes], Bytes],
    compute: Callable[[Slab, Bytes, Bytes], Bytes],
    write: Callable[[Slab, Bytes], None],
    buffer_bytes: tuple[int, int],
    progress: Callable[[int], None],
) -> None:
    """Send every slab through `read`, `compute` and `write`, each step in order and in a thread of its own.

    Parameters
    ----------
    slabs : iterable
        Whatever the three functions understand.
    read : (slab, buffer) -> bytes
        Fills the head of a buffer and returns that part of it.
    compute : (slab, bytes, buffer) -> bytes
        Returns the bytes as they are or a part of the second buffer. Runs in the calling thread.
    write : (slab, bytes) -> None
    buffer_bytes : (int, int)
        Sizes of the buffers for `read` and for `compute`.
    progress : (int) -> None
        Gets the number of bytes of each slab as it is computed.
    """
    slots = [tuple(np.empty(size, np.uint8) for size in buffer_bytes) for _ in range(_N_SLOTS)]
    with ThreadPoolExecutor(1, "quantcore-read") as reading, ThreadPoolExecutor(1, "quantcore-write") as writing:
        written: list[Future[None]] = []
        for i, (slab, data) in enumerate(_read_ahead(slabs, read, [before for before, _ in slots], reading)):
            while len(written) > 1:
                written.pop(0).result()
            result = compute(slab, data, slots[i % _N_SLOTS][1])
            written.append(writing.submit(write, slab, result))
            progress(data.size)
        for future in written:
            future.result()


def _read_ahead(
    slabs: Iterable[Slab], read: Callable[[Slab, Bytes], Bytes], buffers: list[Bytes], reading: ThreadPoolExecutor
) -> Iterator[tuple[Slab, Bytes]]:
    """Each slab with its bytes; the next one is being read meanwhile."""
    pending: tuple[Slab, Future[Bytes]] | None = None
    for i, slab in enumerate(slabs):
        upcoming = slab, reading.submit(read, slab, buffers[i % _N_SLOTS])
        if pending is not None:
            yield pending[0], pending[1].result()
        pending = upcoming
    if pending is not None:
        yield pending[0], pending[1].result()
