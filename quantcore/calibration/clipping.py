"""Where to clip: thresholds found from a histogram, by percentiles, by relative entropy, by squared error.

A histogram is (exponent, first, counts): bin `first + i` holds `counts[i]` values and is `2**exponent` wide; bins below
zero mirror those above (see `histograms`). The searches are compiled (`_kernels/passes/clipping.pxi`). All arithmetic
is float64 or exact integers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantcore import _kernels
from quantcore._base import parallel
from quantcore.affine.modes import QuantMode

Range = tuple[NDArray[np.float32], NDArray[np.float32]]


class Bins(NamedTuple):
    """A histogram: `exponent`, the bin of `counts[0]`, the counts."""

    exponent: int
    first: int
    counts: NDArray[np.int64]

    @property
    def width(self) -> float:
        """The width of a bin."""
        return 2.0**self.exponent


def percentiles(bins: Bins, percents: tuple[float, ...], lowest: float, highest: float) -> list[float]:
    """Percentiles as NumPy's "linear" method defines them, accurate to the width of a bin.

    Values are assumed to be evenly spread within their bin.
    """
    cumulative = np.cumsum(bins.counts)
    n = int(cumulative[-1])

    def value_of_rank(rank: int) -> float:
        i = int(np.searchsorted(cumulative, rank, side="right"))
        count = int(bins.counts[i])
        fraction = (rank - (int(cumulative[i]) - count) + 0.5) / count
        return min(max((bins.first + i + fraction) * bins.width, lowest), highest)

    return [interpolate(*ranks_of(percent, n), value_of_rank) for percent in percents]


def ranks_of(percent: float, n: int) -> tuple[int, int, float]:
    """The two ranks between which a percentile of n values lies, and its fraction of the way between them."""
    position = percent / 100 * (n - 1)
    below = min(int(position), n - 1)
    return below, min(below + 1, n - 1), position - below


def interpolate(below: int, above: int, fraction: float, value_of_rank: Callable[[int], float]) -> float:
    """The value at a fraction of the way between two ranks."""
    low, high = value_of_rank(below), value_of_rank(above)
    return low + (high - low) * fraction


def clip_ranges(
    grids: NDArray[np.int32],
    counts: NDArray[Any],
    method: str,
    bits: int,
    limits: tuple[int, int],
    *,
    mode: QuantMode,
    n_threads: int | None,
) -> NDArray[np.float64]:
    """Where to clip each of several histograms that are not empty, as rows of `Histograms`; shape (channels, 2).

    Parameters
    ----------
    grids, counts : ndarray
        Of shape (channels, 4) and (channels, N_BINS).
    method : {"entropy", "mse"}
    bits : int
    limits : (int, int)
        The first and the last code.
    mode : QuantMode
    n_threads : int, optional

    Notes
    -----
    **entropy** chooses the threshold of |x| that loses the least information: Migacz, "8-bit inference with TensorRT",
    GTC 2017, as NVIDIA's pytorch-quantization computes it. The histogram of |x| has up to 2048 bins, of which the first
    one, where zeros lie, takes the count of the second one: the zeros of a ReLU would outweigh all other values. For
    each number of bins i >= 128, P is the first i bins with all counts beyond them added to the last one, and Q is the
    first i bins merged into levels and spread evenly again over the non-empty bins of each level. There are
    `2**(bits - 1)` levels, or `2**bits` where asymmetric codes meet values of one sign. The i with the smallest
    KL(P || Q) is chosen, the largest on a tie; the threshold is the middle of bin i - 1. KL is infinite where Q is 0
    and P is not. An i for which everything would be in one bin is skipped, since P and Q are always equal there.

    **mse** finds the range of least squared error, with every value placed in the middle of its bin. Symmetric: all
    thresholds from one bin to the extremes are compared. Asymmetric: the best of a coarse grid of both ends; from there
    each end is optimised in turn with the other one fixed, until neither moves. With an offset the mean takes the place
    of zero, which the range must contain, and the first code is the lower end itself. The extremes themselves are
    always among the candidates, so the error is never larger than theirs.
    """
    ends = np.empty((len(grids), 2))
    kernel = _kernels.ClipHistograms(
        grids, counts, int(method == "mse"), mode is QuantMode.SYMMETRIC, mode is QuantMode.OFFSET, bits, *limits, ends
    )
    parallel.run(kernel, len(grids), parallel.CHUNK_BYTES, n_threads, unit=1)  # each takes as long as a mebibyte
    return ends


def within(ends: NDArray[np.float64], lowest: NDArray[np.float32], highest: NDArray[np.float32]) -> Range:
    """The smallest and the largest values after clipping to these ranges: (lows, highs), each float32."""
    low, high = (np.clip(extremes, ends[:, 0], ends[:, 1]).astype(np.float32) + 0 for extremes in (lowest, highest))
    return low, high
