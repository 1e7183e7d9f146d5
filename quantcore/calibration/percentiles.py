"""Exact order statistics of a large array by selection, in two passes over the data, without copying or sorting it."""

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore import _kernels
from quantcore._base import parallel
from quantcore._base.arrays import Floats
from quantcore.affine import passes
from quantcore.calibration.clipping import interpolate, ranks_of

_N_HALVES = 1 << 16
FEW = 1 << 17  # for fewer values, NumPy selects in a copy
_LEAST, _MOST = 0x0080, 0xFF80  # upper halves of the keys of finite values; all others are inf or NaN
_SIGN = np.uint32(1 << 31)


def percentiles(source: Floats, percents: tuple[float, ...], name: str, n_threads: int | None) -> list[float]:
    """Percentiles of all values, as NumPy's method "linear" defines them, in float64."""
    ranks = [ranks_of(percent, source.size) for percent in percents]
    wanted = sorted({rank for below, above, _ in ranks for rank in (below, above)})
    values = dict(zip(wanted, order_statistics(source, wanted, name, n_threads), strict=True))
    return [interpolate(*rank, values.__getitem__) for rank in ranks]


def order_statistics(source: Floats, ranks: list[int], name: str, n_threads: int | None) -> list[float]:
    """The values of some ranks, counted from 0 in ascending order."""
    parallel.check_threads(n_threads)
    if source.size < FEW:
        return _of_few(source, ranks, name)
    counts = _counts(source, np.empty(0, np.uint32), 2, n_threads).sum(axis=0)
    if counts[:_LEAST].any() or counts[_MOST:].any():
        passes.refuse_first(source, name)
    uppers, left = _find_ranks(counts, np.array(ranks))
    distinct, which = np.unique(uppers, return_inverse=True)
    counts = _counts(source, distinct, distinct.size, n_threads)
    lowers = [_find_ranks(counts[row], rank)[0] for row, rank in zip(which, left, strict=True)]
    keys = uppers << np.uint32(16) | np.array(lowers, np.uint32)
    return [float(value) for value in passes.of_keys((keys ^ _SIGN).view(np.int32)) + 0]


def _of_few(source: Floats, ranks: list[int], name: str) -> list[float]:
    passes.refuse_not_finite(source, name, 1)
    values = np.partition(source.values(0, source.size).astype(np.float32), ranks)
    return [float(values[rank]) + 0 for rank in ranks]


def _find_ranks(counts: NDArray[np.int64], ranks: Any) -> tuple[NDArray[np.uint32], Any]:
    """The halves of the keys at these ranks, and the ranks among the values with the same half."""
    cumulative = np.cumsum(counts)
    # Within bounds even if the array changed between the passes.
    halves = np.minimum(np.searchsorted(cumulative, ranks, side="right"), counts.size - 1)
    return halves.astype(np.uint32), ranks - (cumulative[halves] - counts[halves])


def _counts(source: Floats, uppers: NDArray[np.uint32], n_rows: int, n_threads: int | None) -> NDArray[np.int64]:
    counts, lock = np.zeros((n_rows, _N_HALVES), np.int64), threading.Lock()
    kernel = _kernels.CountHalves(source.raw, source.element_type)

    def count(most: int) -> None:
        part = np.zeros((n_rows, _N_HALVES), np.uint32)
        while not kernel.count(uppers, part, most):
            with lock:
                np.add(counts, part, out=counts)
            part[:] = 0
        with lock:
            np.add(counts, part, out=counts)

    parallel.run(kernel, source.size, source.itemsize, n_threads, turn=count)
    return counts
