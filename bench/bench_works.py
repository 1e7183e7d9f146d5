"""Every work, ours and its peers', under pytest-benchmark: `pytest bench/ --benchmark-only [-k calibration]`.

`extra_info` holds Gelem/s and the share of the memory roofline measured in the same process; the CPU level is
quantcore.isa(), set by QUANTCORE_ISA. `python -m bench.table` prints one table of interleaved medians instead.
"""

from collections.abc import Callable, Iterator
from functools import cache

import pytest

import quantcore
from bench.roofline import bandwidth
from bench.suites import SUITES
from bench.work import Work

N_ELEMENTS = 1 << 24
FEW_ELEMENTS = 1 << 20
SINGLE_THREADED = ("gguf-py", "numpy")

pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")  # deprecated, and a peer still


@cache
def roofline(n_threads: int) -> float:
    return bandwidth(n_threads)


@cache
def full_size(suite: str) -> dict[str, Work]:
    return {work.title: work for work in SUITES[suite](N_ELEMENTS)}


def cases() -> Iterator[tuple[str, str, str, int]]:
    for suite, works in SUITES.items():
        for work in works(FEW_ELEMENTS):
            for n_threads in (1, 2):
                for library in ("quantcore", *work.peers):
                    if n_threads == 1 or not library.startswith(SINGLE_THREADED):
                        yield suite, work.title, library, n_threads


def group(suite: str, title: str, n_threads: int) -> str:
    """What is shown together: a work with its peers. A name that is changed has no earlier figures."""
    return f"{suite}: {title}, {n_threads} threads"


@pytest.mark.parametrize(("suite", "title", "library", "n_threads"), list(cases()))
def test_speed(benchmark: Callable[..., object], suite: str, title: str, library: str, n_threads: int) -> None:
    work = full_size(suite)[title]
    call = work.ours(n_threads) if library == "quantcore" else work.peers[library](n_threads)
    benchmark.group = group(suite, title, n_threads)
    benchmark.pedantic(call, rounds=5, warmup_rounds=1)
    if benchmark.stats is not None:
        median = benchmark.stats.stats.median
        benchmark.extra_info |= {
            "isa": quantcore.isa(),
            "gelem_per_second": work.n_elements / median / 1e9,
            "roofline_share": work.n_bytes / median / roofline(n_threads),
        }
