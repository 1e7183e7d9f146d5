"""Exact order statistics of a large array by selection: digit by digit, in three passes, without a copy or a sort."""

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore import _kernels, _parallel, affine
from quantcore._arrays import Floats
from quantcore.clipping import interpolated, ranks_of

_SHIFTS = (20, 10, 0)  # of the digits of a 32-bit key; the first one has 12 bits
_TABLES = (8, 4096)
_NOT_FINITE = slice(8), slice(4096 - 8, 4096)  # first digits of inf and NaN


def percentiles(source: Floats, percents: tuple[float, ...], name: str, n_threads: int | None) -> list[float]:
    """Percentiles of all values, as NumPy's method "linear" defines them, in float64."""
    ranks = [ranks_of(percent, source.size) for percent in percents]
    wanted = sorted({rank for below, above, _ in ranks for rank in (below, above)})
    values = dict(zip(wanted, order_statistics(source, wanted, name, n_threads), strict=True))
    return [interpolated(*rank, values.__getitem__) for rank in ranks]


def order_statistics(source: Floats, ranks: list[int], name: str, n_threads: int | None) -> list[float]:
    """The values of up to 8 ranks, counted from 0 in ascending order."""
    prefixes = np.zeros(len(ranks), np.uint32)
    left = np.array(ranks, np.int64)  # ranks among the values that share the digits found so far
    for shift in _SHIFTS:
        distinct, which = np.unique(prefixes, return_inverse=True)
        counts = _digit_counts(source, distinct, shift, n_threads)
        if shift == _SHIFTS[0]:
            counts[0] = counts[:4].sum(axis=0)
            if any(counts[0, part].any() for part in _NOT_FINITE):
                affine.refuse_first(source, name)
        cumulative = np.cumsum(counts.astype(np.int64), axis=1)
        for i, row in enumerate(which):
            digit = int(np.searchsorted(cumulative[row], left[i], side="right"))
            left[i] -= cumulative[row, digit - 1] if digit else 0
            prefixes[i] = prefixes[i] << np.uint32(10) | np.uint32(digit)
    keys = (prefixes ^ np.uint32(0x80000000)).view(np.int32)
    return [float(value) for value in affine.of_keys(keys) + 0]


def _digit_counts(
    source: Floats, prefixes: NDArray[np.uint32], shift: int, n_threads: int | None
) -> NDArray[np.uint64]:
    counts, lock = np.zeros(_TABLES, np.uint64), threading.Lock()

    def count(*turn: Any) -> None:
        part = np.zeros(_TABLES, np.uint64)
        _kernels.count_digits(source.raw, source.element_type, prefixes, shift, part, *turn)
        with lock:
            np.add(counts, part, out=counts)

    _parallel.run(count, source.size, source.itemsize, n_threads)
    return counts
