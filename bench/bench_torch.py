"""Training steps with `quantcore.torch` beside torch and bitsandbytes: `pytest bench/bench_torch.py --benchmark-only`.

Outputs and gradients are new every time, as in training. `extra_info` holds Gelem/s of the matrix.
"""

from collections.abc import Callable, Iterator
from functools import cache

import pytest

import quantcore
from bench.works import Work

pytest.importorskip("torch")

from bench.torch_works import torch_works

N_ELEMENTS = 1 << 22
WORKS = {work.name: work for work in torch_works(1 << 20)}


@cache
def full_size() -> dict[str, Work]:
    return {work.name: work for work in torch_works(N_ELEMENTS)}


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
        gelem_per_second = work.n_elements / benchmark.stats.stats.median / 1e9
        benchmark.extra_info |= {"isa": quantcore.isa(), "gelem_per_second": gelem_per_second}
