"""Calibration once more, as naively as its definitions read: lists of values, exact fractions, loops over everything.

Nothing here is shared with quantcore. Values are lists of floats that are float32 numbers.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tests.support import reference_affine

BINS = 4096
KL_BINS = 2048
KL_FIRST = 128


@dataclass(frozen=True)
class Histogram:
    """How many values are in each bin of the dyadic grid, by index, from `first` to the bin of the largest value."""

    minimum: float
    maximum: float
    exponent: int
    first: int
    counts: tuple[int, ...]

    @property
    def width(self) -> float:
        return 2.0**self.exponent

    def to_dict(self) -> dict[str, object]:
        return {
            "lowest": self.minimum,
            "highest": self.maximum,
            "exponent": self.exponent,
            "first": self.first,
            "counts": list(self.counts),
        }


def index_of(value: float, exponent: int) -> int:
    """The bin: magnitudes are rounded down, and those of negative values count backwards from -1."""
    magnitude = math.floor(abs(Fraction(value)) / Fraction(2) ** exponent)
    return magnitude if value >= 0 else -1 - magnitude


def histogram(values: Sequence[float]) -> Histogram:
    """The histogram of all values at once, with the finest grid that is allowed."""
    low, high = min(values), max(values)
    largest = max(abs(low), abs(high))
    exponent = max(-126, math.frexp(largest)[1] - 1 - 23 if largest else -126)
    while index_of(high, exponent) - index_of(low, exponent) >= BINS:
        exponent += 1
    indices = Counter(index_of(value, exponent) for value in values)
    first, last = index_of(low, exponent), index_of(high, exponent)
    return Histogram(low, high, exponent, first, tuple(indices[i] for i in range(first, last + 1)))


def percentile(state: Histogram, percent: float) -> float:
    """Between the two order statistics as numpy does, each spread evenly over its bin with its neighbours there."""
    position = percent / 100 * (sum(state.counts) - 1)
    rank = math.floor(position)
    lower = _order_statistic(state, rank)
    upper = _order_statistic(state, min(rank + 1, sum(state.counts) - 1))
    return lower + (upper - lower) * (position - rank)


def _order_statistic(state: Histogram, rank: int) -> float:
    below = 0
    for i, count in enumerate(state.counts):
        if rank < below + count:
            value = (state.first + i + (rank - below + 0.5) / count) * state.width
            return min(max(value, state.minimum), state.maximum)
        below += count
    raise AssertionError("no such rank")


def searched(state: Histogram, levels: int) -> tuple[list[int], float, range]:
    """What TensorRT's search goes through: the histogram of |x|, the width of its bins, and the numbers of bins.

    The first bin takes the count of its neighbour, as in NVIDIA's toolkit.
    """
    folded = Counter[int]()
    for i, count in enumerate(state.counts, state.first):
        folded[i if i >= 0 else -1 - i] += count
    width = state.width
    while max(folded) >= KL_BINS:  # neighbours are put together
        pairs = Counter[int]()
        for i, count in folded.items():
            pairs[i // 2] += count
        folded, width = pairs, 2 * width
    counts = [folded[i] for i in range(max(folded) + 1)]
    counts[0] = counts[min(1, len(counts) - 1)]
    return counts, width, range(min(max(KL_FIRST, levels), len(counts)), len(counts) + 1)


def divergence(counts: list[int], i: int, levels: int) -> float:
    """KL(P || Q) of the histogram clipped to its first i bins and its quantized form."""
    p = [float(count) for count in counts[:i]]
    p[-1] += sum(counts[i:])
    q = [0.0] * i
    for level in range(levels):
        bins = range(math.ceil(Fraction(level * i, levels)), math.ceil(Fraction((level + 1) * i, levels)))
        occupied = [j for j in bins if counts[j]]
        for j in occupied:
            q[j] = sum(counts[k] for k in bins) / len(occupied)
    if not any(q) or (sum(counts[i:]) and sum(count > 0 for count in counts[:i]) < 2):
        return math.inf  # nothing left, or all in one bin: P and Q were equal whatever the data
    total_p, total_q = math.fsum(p), math.fsum(q)
    terms = []
    for x, y in zip(p, q, strict=True):
        if x and not y:
            return math.inf
        if x:
            terms.append(x / total_p * math.log((x / total_p) / (y / total_q)))
    return math.fsum(terms)


def expected_error(
    counts: Sequence[int],
    first: int,
    width: float,
    low: float,
    high: float,
    bits: int,
    *,
    symmetric: bool,
    narrow: bool,
) -> float:
    """The squared error of all bin centres after quantization with the range [low, high]."""
    ends = np.array([low, high], np.float32)
    found = reference_affine.calibrate(ends, [np.arange(2)], bits, symmetric=symmetric, narrow=narrow)
    scale, zero_point = float(found.scales[0]), found.zero_points[0]
    total = []
    for i, count in enumerate(counts, first):
        centre = (i + 0.5) * width
        code = min(max(round(centre / scale) + zero_point, found.quant_min), found.quant_max)
        total.append(count * (centre - (code - zero_point) * scale) ** 2)
    return math.fsum(total)
