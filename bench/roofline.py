"""The memory roofline: the best bandwidth of plain read, copy and fill, measured in the same process and run."""

import os
import platform
import threading
from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np

from quantcore._base.machine import cpu_name


def in_threads(work: Callable[[int], object], n_threads: int) -> None:
    """Call work(0) … work(n_threads - 1), each in a thread of its own (one: inline)."""
    if n_threads == 1:
        work(0)
        return
    threads = [threading.Thread(target=work, args=(i,)) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Median time of a call, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return median(times)


def bandwidth(n_threads: int, n_bytes: int = 1 << 28, repeats: int = 5) -> float:
    """Bytes per second of the best of read, copy and fill with this many threads."""
    source = np.ones(n_bytes // 8, np.uint64)
    target = np.zeros_like(source)
    parts = [slice(len(source) * i // n_threads, len(source) * (i + 1) // n_threads) for i in range(n_threads)]
    works: list[tuple[int, Callable[[int], object]]] = [
        (n_bytes, lambda i: np.bitwise_or.reduce(source[parts[i]])),
        (2 * n_bytes, lambda i: np.copyto(target[parts[i]], source[parts[i]])),
        (n_bytes, lambda i: target[parts[i]].fill(1)),
    ]
    return max(size / seconds(lambda work=work: in_threads(work, n_threads), repeats) for size, work in works)


def machine() -> str:
    """The CPU and the roofline, without a date."""
    speeds = ", ".join(f"{bandwidth(n) / 1e9:.0f} GB/s with {n} thread{'s' * (n > 1)}" for n in (1, 2))
    return f"{cpu_name()}, {os.cpu_count()} CPUs, {speeds}; {platform.system()}"
