"""Where to clip: thresholds found from a histogram, by percentiles, by relative entropy, by squared error.

A histogram is (exponent, first, counts): bin `first + i` holds `counts[i]` values, is `2**exponent` wide, and mirrors
itself below zero (see `histograms.py`). Everything here is float64 and exact integers.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ENTROPY_BINS = 2048
FEWEST_ENTROPY_BINS = 128
_MOST_SWEEPS = 16
_COARSE_STEPS = 32
_MOST_AT_ONCE = 1 << 16  # levels of thresholds that are compared


class Bins(NamedTuple):
    """A histogram: `exponent`, the bin of `counts[0]`, the counts."""

    exponent: int
    first: int
    counts: NDArray[np.int64]

    @property
    def width(self) -> float:
        """Of a bin."""
        return 2.0**self.exponent

    @property
    def edges(self) -> NDArray[np.float64]:
        """The lower edge of each bin, and the upper one of the last."""
        return np.arange(self.first, self.first + self.counts.size + 1) * np.float64(self.width)


def percentiles(bins: Bins, percents: tuple[float, ...], lowest: float, highest: float) -> list[float]:
    """Percentiles as NumPy's "linear" method defines them, wrong by at most the width of a bin.

    The values within a bin are taken to lie evenly spread in it.
    """
    cumulative = np.cumsum(bins.counts)
    n = int(cumulative[-1])

    def value_of_rank(rank: int) -> float:
        i = int(np.searchsorted(cumulative, rank, side="right"))
        count = int(bins.counts[i])
        fraction = (rank - (int(cumulative[i]) - count) + 0.5) / count
        return min(max((bins.first + i + fraction) * bins.width, lowest), highest)

    return [interpolated(*ranks_of(percent, n), value_of_rank) for percent in percents]


def ranks_of(percent: float, n: int) -> tuple[int, int, float]:
    """The two ranks that a percentile of n values lies between, and how far from the first to the second."""
    position = percent / 100 * (n - 1)
    below = min(int(position), n - 1)
    return below, min(below + 1, n - 1), position - below


def interpolated(below: int, above: int, fraction: float, value_of_rank: Callable[[int], float]) -> float:
    """The value between two ranks."""
    low, high = value_of_rank(below), value_of_rank(above)
    return low + (high - low) * fraction


def entropy_threshold(bins: Bins, bits: int) -> float:
    """The threshold of |x| that loses least information: Migacz, "8-bit inference with TensorRT", GTC 2017.

    For each number of bins i from 128 on, P are the first i bins with all that lies beyond added to the last one, and Q
    are the first i bins brought to `2**(bits - 1)` levels and spread again evenly over the bins of each level that are
    not empty. The i with the smallest KL(P || Q) wins, the larger one of equals; the threshold is the middle of bin
    i - 1. KL is infinite where Q is 0 and P is not. An i with which everything would end up in one bin is passed over:
    P and Q are equal there whatever the data.

    Bins of a level share one value of Q, so that sums over bins become differences of running sums.
    """
    bins = _magnitudes(bins, ENTROPY_BINS)
    n, levels = bins.counts.size, 2 ** (bits - 1)
    fewest = min(max(FEWEST_ENTROPY_BINS, levels), n)
    counts = bins.counts.astype(np.float64)
    mass, filled, information = (np.concatenate(([0.0], np.cumsum(a))) for a in (counts, counts > 0, _x_log_x(counts)))
    edges = _level_edges(levels)[fewest - 1 : n]
    in_level, filled_in_level = np.diff(mass[edges]), np.diff(filled[edges])
    inside, total, last = mass[fewest:], mass[-1], counts[fewest - 1 :]
    outliers = total - inside
    is_usable = (inside > 0) & ((outliers == 0) | ((last > 0) & (filled[fewest:] > 1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        log_q = np.log(in_level / filled_in_level / inside[:, None])
    log_q[in_level == 0] = 0
    p_log_p = information[fewest:] - _x_log_x(last) + _x_log_x(last + outliers)
    p_log_q = (in_level * log_q).sum(axis=1) + outliers * log_q[:, -1]
    divergences = np.where(is_usable, (p_log_p - p_log_q) / total, np.inf)  # less log(total), the same for all
    best = n - int(np.argmin(divergences[::-1]))
    return (best - 0.5) * bins.width


@cache
def _level_edges(levels: int) -> NDArray[np.int64]:
    """Row i - 1: where each of the levels begins when i bins are brought to so many, and the end of the last one."""
    return np.arange(1, ENTROPY_BINS + 1)[:, None] * np.arange(levels + 1) // levels


def _x_log_x(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * np.log(np.where(x > 0, x, 1))


def least_error_range(
    bins: Bins, lowest: float, highest: float, limits: tuple[int, int], *, symmetric: bool
) -> tuple[float, float]:
    """The clip range of least squared error when every value of a bin lies in its middle.

    Symmetric: all thresholds from one bin to the extremes are compared. Asymmetric: the best of a coarse grid of both
    ends; from there one end is chosen with the other one fixed, by turns, until neither moves. The extremes themselves
    are always among the candidates, so the error is never larger than theirs.
    """
    sums = _Sums.of(bins)
    if symmetric:
        largest = max(-lowest, highest)
        thresholds = np.append(_magnitudes(bins, bins.counts.size).edges[1:], largest)
        thresholds = thresholds[thresholds <= largest]
        scales = thresholds / ((limits[1] - limits[0]) / 2)
        chosen, _ = sums.least(scales, np.zeros_like(scales), limits)
        return clipped_to(float(thresholds[chosen]), lowest, highest)
    return _least_error_ends(sums, lowest, highest, limits)


def _least_error_ends(sums: "_Sums", lowest: float, highest: float, limits: tuple[int, int]) -> tuple[float, float]:
    edges, extremes = sums.bins.edges, (min(lowest, 0.0), max(highest, 0.0))
    fractions = np.arange(_COARSE_STEPS + 1) / _COARSE_STEPS
    lows, highs = (grid.reshape(-1) for grid in np.meshgrid(extremes[0] * fractions, extremes[1] * fractions))
    ends, least = _least_of(sums, lows, highs, limits)
    for sweep in range(_MOST_SWEEPS):
        low, high = ends
        if sweep % 2:
            highs = np.append(edges[(edges > 0) & (edges < extremes[1])], extremes[1])
            found, error = _least_of(sums, np.full(highs.size, low), highs, limits)
        else:
            lows = np.append(edges[(edges < 0) & (edges > extremes[0])][::-1], extremes[0])
            found, error = _least_of(sums, lows, np.full(lows.size, high), limits)
        if error >= least and sweep:
            break
        if error < least:
            ends, least = found, error
    return max(lowest, min(ends[0], highest)), min(highest, max(ends[1], lowest))


def _least_of(
    sums: "_Sums", lows: NDArray[np.float64], highs: NDArray[np.float64], limits: tuple[int, int]
) -> tuple[tuple[float, float], float]:
    """The pair of ends, of which the last is the widest, with the least error, and the error."""
    usable = highs > lows
    if not usable.any():  # nothing but zeros
        return (0.0, 0.0), 0.0
    lows, highs = lows[usable], highs[usable]
    scales = (highs - lows) / (limits[1] - limits[0])
    i, error = sums.least(scales, np.clip(limits[0] - np.rint(lows / scales), *limits), limits)
    return (float(lows[i]), float(highs[i])), error


class _Sums(NamedTuple):
    """Running sums of counts, of counts * centre and of counts * centre**2, the centres in widths of a bin."""

    bins: Bins
    zeroth: NDArray[np.float64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]

    @classmethod
    def of(cls, bins: Bins) -> "_Sums":
        centres = bins.first + np.arange(bins.counts.size) + 0.5
        return cls(bins, *(np.concatenate(([0.0], np.cumsum(bins.counts * centres**k))) for k in range(3)))

    def least(
        self, scales: NDArray[np.float64], zero_points: NDArray[np.float64], limits: tuple[int, int]
    ) -> tuple[int, float]:
        """Which scale and zero point have the least squared error, and that error in widths of a bin.

        What they clip is a lower bound of it and quickly known; those whose bound is above the least error found so far
        are passed over, from the widest range down.
        """
        ends = [(limit - zero_points) * scales / self.bins.width for limit in limits]
        bounds = (self._beyond(ends[0], above=False) + self._beyond(ends[1], above=True)) * (1 - 1e-9)
        step = max(1, _MOST_AT_ONCE // (limits[1] - limits[0] + 1))
        best, least = scales.size - 1, np.inf
        for stop in range(scales.size, 0, -step):
            part = np.arange(max(0, stop - step), stop)
            part = part[bounds[part] < least]
            if part.size:
                errors = self._errors(scales[part], zero_points[part], limits)
                i = _last_argmin(errors)
                if errors[i] < least:
                    best, least = int(part[i]), float(errors[i])
        return best, least

    def _beyond(self, ends: NDArray[np.float64], *, above: bool) -> NDArray[np.float64]:
        """The squared distance to an end of all that lies beyond it."""
        n = self.bins.counts.size
        border = np.clip(np.ceil(ends - self.bins.first - 0.5), 0, n).astype(np.int64)
        zeroth, first, second = (
            sums[-1] - sums[border] if above else sums[border] for sums in (self.zeroth, self.first, self.second)
        )
        return np.asarray(second - 2 * ends * first + ends**2 * zeroth)

    def _errors(
        self, scales: NDArray[np.float64], zero_points: NDArray[np.float64], limits: tuple[int, int]
    ) -> NDArray[np.float64]:
        """The squared errors. Bins that share a code are neighbours: theirs is made of differences of running sums."""
        widths = scales[:, None] / self.bins.width
        levels = (np.arange(limits[0], limits[1] + 1) - zero_points[:, None]) * widths
        # the first bin whose centre is nearer to the next level
        borders = np.ceil((levels[:, :-1] + levels[:, 1:]) / 2 - self.bins.first - 0.5)
        ends = np.pad(np.clip(borders, 0, self.bins.counts.size), ((0, 0), (1, 1))).astype(np.int64)
        ends[:, -1] = self.bins.counts.size
        zeroth, first, second = (np.diff(sums[ends]) for sums in (self.zeroth, self.first, self.second))
        return np.asarray((second - 2 * levels * first + levels**2 * zeroth).sum(axis=1))


def clipped_to(threshold: float, lowest: float, highest: float) -> tuple[float, float]:
    """A range after all values were clipped to [-threshold, threshold]."""
    return min(max(lowest, -threshold), threshold), max(min(highest, threshold), -threshold)


def _last_argmin(values: NDArray[np.float64]) -> int:
    return values.size - 1 - int(np.argmin(values[::-1]))


def _magnitudes(bins: Bins, most: int) -> Bins:
    """The histogram of |x| from zero on, in at most so many bins."""
    indices = bins.first + np.arange(bins.counts.size)
    indices = np.where(indices < 0, -1 - indices, indices)
    shift = 0
    while int(indices.max()) >> shift >= most:
        shift += 1
    folded = np.zeros((int(indices.max()) >> shift) + 1, np.int64)
    np.add.at(folded, indices >> shift, bins.counts)
    return Bins(bins.exponent + shift, 0, folded)
