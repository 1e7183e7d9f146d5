"""Error statistics beside NumPy and torch: `pytest bench/bench_analysis.py --benchmark-only`.

`extra_info` holds Gelem/s and the share of the memory roofline measured in the same process; the CPU level is
quantcore.isa(), set by QUANTCORE_ISA. Seven sums in float64 for each element are more work than memory waits for.
"""

from collections.abc import Callable, Iterator
from functools import cache

import pytest

import quantcore
from bench.analysis_works import analysis_works
from bench.bench_formats import roofline
from bench.works import Work

N_ELEMENTS = 1 << 25
WORKS = {work.name: work for work in analysis_works(4096)}


@cache
def full_size() -> dict[str, Work]:
    return {work.name: work for work in analysis_works(N_ELEMENTS)}


def cases() -> Iterator[tuple[str, str, int]]:
    for work in WORKS.values():
        for n_threads in (1, 2):
            yield work.name, "quantcore", n_threads
            for peer in work.peers:
                if n_threads == 1 or "numpy" not in peer:
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
