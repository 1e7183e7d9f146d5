"""Q4_0 and Q8_0 both ways under pytest-benchmark: `pytest bench/ --benchmark-only`. Ours beside ggml and gguf-py.

`extra_info` holds Gelem/s and the share of the memory roofline measured in the same process; the CPU level is
quantcore.isa(), set by QUANTCORE_ISA. `python -m bench.table` prints one table of interleaved medians instead.
"""

from collections.abc import Callable, Iterator
from functools import cache

import pytest

import quantcore
from bench.roofline import bandwidth
from bench.works import Work, works

N_ELEMENTS = 1 << 25
WORKS = {work.name: work for work in works(4096)}


@cache
def roofline(n_threads: int) -> float:
    return bandwidth(n_threads)


@cache
def full_size() -> dict[str, Work]:
    return {work.name: work for work in works(N_ELEMENTS)}


def cases() -> Iterator[tuple[str, str, int]]:
    for work in WORKS.values():
        for n_threads in (1, 2):
            yield work.name, "quantcore", n_threads
            for peer in work.peers:
                if n_threads == 1 or peer != "gguf-py":
                    yield work.name, peer, n_threads


@pytest.mark.parametrize(("name", "library", "n_threads"), list(cases()))
def test_speed(benchmark: Callable[..., object], name: str, library: str, n_threads: int) -> None:
    work = full_size()[name]
    call = work.ours(n_threads) if library == "quantcore" else work.peers[library](n_threads)
    benchmark.group = f"{name}, {n_threads} threads"
    benchmark.pedantic(call, rounds=5, warmup_rounds=1)
    if benchmark.stats is not None:
        median = benchmark.stats.stats.median
        benchmark.extra_info |= {
            "isa": quantcore.isa(),
            "gelem_per_second": work.n_elements / median / 1e9,
            "roofline_share": work.n_bytes / median / roofline(n_threads),
        }
