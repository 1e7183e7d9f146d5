"""Fake quantization and its gradients, beside torch: `pytest bench/bench_fake_quant.py --benchmark-only`.

`extra_info` holds Gelem/s and the share of the memory roofline measured in the same process; the CPU level is
quantcore.isa(), set by QUANTCORE_ISA. torch makes new outputs every time; ours are there already unless the name says
otherwise.
"""

from collections.abc import Callable, Iterator
from functools import cache

import pytest

import quantcore
from bench.bench_formats import roofline
from bench.qat_works import qat_works
from bench.works import Work

N_ELEMENTS = 1 << 25
WORKS = {work.name: work for work in qat_works(4096)}


@cache
def full_size() -> dict[str, Work]:
    return {work.name: work for work in qat_works(N_ELEMENTS)}


def cases() -> Iterator[tuple[str, str, int]]:
    for work in WORKS.values():
        for n_threads in (1, 2):
            yield from ((work.name, library, n_threads) for library in ("quantcore", *work.peers))


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
