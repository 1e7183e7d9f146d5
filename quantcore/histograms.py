"""Histograms of one or many channels on a dyadic grid, which grows with the data and depends on nothing else."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays, _kernels, _parallel, affine
from quantcore._arrays import Floats
from quantcore.affine import Sharing
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.statistics import bounds_of, sequence
from quantcore.tables import brief

N_BINS = _kernels.HISTOGRAM_BINS
_MOST_IN_32_BITS = (1 << 32) - 1
_MOST_VALUES = 1 << 62
_TORN = -1
_GATHERED_CHANNELS = 16


class Histograms:
    """Counts of each channel's values on a dyadic grid.

    A bin is `2**exponent` wide: x lies in bin `floor(x / 2**exponent)`, negative x in the bin that mirrors it. The
    exponent is the smallest with which all values lie in `N_BINS` neighbouring bins, so at least half of the bins are
    used (unless the values are so close together, or so small, that float32 cannot tell them apart as finely).
    """

    def __init__(self, n_channels: int) -> None:
        self.grids = np.empty((n_channels, 4), np.int32)
        _kernels.clear_histograms(self.grids)
        self.counts: NDArray[Any] = np.zeros((n_channels, N_BINS), np.uint64 if n_channels == 1 else np.uint32)
        self.n_values = 0

    @property
    def n_channels(self) -> int:
        """How many channels there are."""
        return len(self.grids)

    @property
    def lowest(self) -> NDArray[np.float32]:
        """The smallest value of each channel."""
        return affine.of_keys(self.grids[:, 2]) + 0

    @property
    def highest(self) -> NDArray[np.float32]:
        """The largest value of each channel."""
        return affine.of_keys(self.grids[:, 3]) + 0

    def observe(self, source: Floats, sharing: Sharing, name: str, n_threads: int | None) -> None:
        """Take in a batch that is not empty."""
        if self.n_channels == 1:
            self.merge(self._of_all(source, name, n_threads))
            return
        affine.extremes(source, sharing, name, n_threads)  # refuses the batch before anything is counted
        n_values = sharing.outer * sharing.inner
        self._make_room(n_values)
        seen, self.n_values = self.n_values, _TORN
        bad = _parallel.run(
            _kernels.CountChannels(
                source.raw, source.element_type, sharing.outer, sharing.inner, self.grids, self.counts
            ),
            self.n_channels,
            n_values * source.itemsize,
            n_threads,
            unit=_GATHERED_CHANNELS if sharing.inner < affine.SHORTEST_RUN else 1,
        )
        if bad >= 0:  # it was finite a moment ago
            raise InvalidValueError(f"{name}: changed while it was read")
        self.n_values = seen + n_values

    @property
    def is_torn(self) -> bool:
        """Whether an interruption left some channels with a batch and others without; there is no way back."""
        return self.n_values == _TORN

    def _of_all(self, source: Floats, name: str, n_threads: int | None) -> "Histograms":
        total, lock = Histograms(1), threading.Lock()
        kernel = _kernels.CountValues(source.raw, source.element_type)

        def count(most: int) -> None:
            part = Histograms(1)
            kernel.count(part.grids, part.counts, most)
            with lock:
                total.merge(part)

        if _parallel.run(kernel, source.size, source.itemsize, n_threads, turn=count) >= 0:
            affine.refuse_first(source, name)
        total.n_values = source.size
        return total

    def merge(self, other: "Histograms") -> None:
        """Take in what another record saw."""
        self._make_room(other.n_values)
        other_counts = other.counts.astype(self.counts.dtype, copy=False)
        _kernels.merge_histograms(self.grids, self.counts, other.grids, other_counts)
        self.n_values += other.n_values

    def _make_room(self, n_values: int) -> None:
        if self.counts.dtype == np.uint32 and self.n_values + n_values > _MOST_IN_32_BITS:
            self.counts = self.counts.astype(np.uint64)

    def bins(self, channel: int) -> tuple[int, int, NDArray[np.int64]]:
        """(exponent, the bin of the smallest value, the counts from there to the bin of the largest value)."""
        exponent, first = (int(value) for value in self.grids[channel, :2])
        low, high = (bin_of(float(x), exponent) - first for x in affine.of_keys(self.grids[channel, 2:]))
        return exponent, first + low, self.counts[channel, low : high + 1].astype(np.int64)

    def to_state(self, listed: Callable[[NDArray[Any]], Any]) -> dict[str, Any]:
        """What was seen, as numbers and as arrays that `listed` turned into something else."""
        channels = []
        for channel, (low, high) in enumerate(zip(self.lowest.tolist(), self.highest.tolist(), strict=True)):
            exponent, first, counts = self.bins(channel)
            channels.append(
                {"lowest": low, "highest": high, "exponent": exponent, "first": first, "counts": listed(counts)}
            )
        return {"channels": channels}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a state; whatever does not fit together is refused."""
        channels = sequence(state, "channels", self.n_channels)
        totals = {self._restore(channel, entry) for channel, entry in enumerate(channels)}
        if len(totals) > 1:
            raise InvalidValueError(f"channels: hold different numbers of values, {min(totals)} and {max(totals)}")
        self.n_values = totals.pop()

    def _restore(self, channel: int, entry: Any) -> int:
        name = f"channels[{channel}]"
        if not isinstance(entry, Mapping):
            raise InvalidValueError(f"{name}: expected a mapping, got {brief(entry)}")
        bounds = bounds_of({key: [entry.get(key)] for key in ("lowest", "highest")}, 1, f"{name}.")
        lowest, highest = (float(bound[0]) for bound in bounds)
        exponent = smallest_exponent(lowest, highest)
        first = bin_of(lowest, exponent)
        for key, wanted in (("exponent", exponent), ("first", first)):
            if _arrays.integer(entry.get(key), f"{name}.{key}", -(1 << 31), 1 << 31) != wanted:
                raise InvalidValueError(f"{name}.{key}: expected {wanted} for its extremes, got {entry[key]}")
        counts = _counts(entry, bin_of(highest, exponent) - first + 1, f"{name}.")
        total = int(counts.sum())
        if not (counts[0] and counts[-1]) or (lowest != highest and total < 2):
            raise InvalidValueError(f"{name}.counts: nothing is counted in the bins of its extremes")
        self._make_room(total)
        self.grids[channel] = (exponent, first, *affine.keys_of(np.concatenate(bounds)))
        self.counts[channel, : counts.size] = counts
        return total


def bin_of(x: float, exponent: int) -> int:
    """The bin of a float32."""
    m = int(abs(x) * 2.0**-exponent)
    return -1 - m if x < 0 else m


def smallest_exponent(lowest: float, highest: float) -> int:
    """That of the finest grid with which two float32 values and all between them lie in `N_BINS` bins."""
    largest = max(abs(lowest), abs(highest))
    exponent = max(-126, int(np.frexp(largest)[1]) - 1 - 23) if largest else -126
    while bin_of(highest, exponent) - bin_of(lowest, exponent) >= N_BINS:
        exponent += 1
    return exponent


def _counts(entry: Mapping[str, Any], n: int, prefix: str) -> NDArray[np.int64]:
    values = entry.get("counts")
    if isinstance(values, np.ndarray):
        values = values.tolist()
    values = sequence({"counts": values}, "counts", n, prefix)
    wrong = set(map(type, values)) - {int}
    if wrong:
        raise InvalidTypeError(f"{prefix}counts: expected integers, got a {wrong.pop().__name__}")
    if min(values) < 0 or sum(values) > _MOST_VALUES:
        raise InvalidValueError(f"{prefix}counts: expected counts >= 0 of at most 2**62 values")
    return np.array(values, np.int64)
