"""Histograms of one or many channels on a dyadic grid that grows with the range of the data; order-independent."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore import _kernels
from quantcore._base import arguments, parallel
from quantcore._base.arrays import Floats
from quantcore._base.text import brief
from quantcore.affine import passes
from quantcore.affine.sharing import Sharing
from quantcore.calibration.extremes import bounds_of, sequence
from quantcore.calibration.totals import MOST_VALUES, TORN, Totals
from quantcore.errors import InvalidStateError, InvalidTypeError, InvalidValueError

N_BINS = _kernels.HISTOGRAM_BINS
_MOST_IN_32_BITS = (1 << 32) - 1
_SLOTS_TOGETHER, _COLUMNS_TOGETHER = 8, 512  # as the kernel counts columns
_LONGEST_RUN = _COLUMNS_TOGETHER // _SLOTS_TOGETHER  # of a channel's values that are counted as columns
_LONG_COLUMN = N_BINS // 2  # values of a channel from which tables of each thread pay off
_ROW_BYTES = 32  # with which the rows of a chunk of narrow rows do not fill a table
_TOGETHER = 256  # channels that are unpacked at the same time


class Histograms:
    """Counts of each channel's values on a dyadic grid.

    A bin is `2**exponent` wide: x lies in bin `floor(x / 2**exponent)`, negative x in the bin that mirrors it. The
    exponent is the smallest with which all values lie in `N_BINS` neighbouring bins, so at least half of the bins are
    used (unless the values are so close together, or so small, that float32 does not resolve such narrow bins).

    Many channels that are counted into are rows of `N_BINS` counts, and change in place. What comes from a state or
    another calibrator is packed: `runs` holds the counts between the extremes of each channel and nothing else, so that
    its memory is that of the state; it never changes, and neither does the histogram of a single channel.
    """

    def __init__(self, n_channels: int, runs: list[NDArray[Any]] | None = None) -> None:
        self.grids = np.empty((n_channels, 4), np.int32)
        _kernels.clear_histograms(self.grids)
        self.runs = runs
        self.counts: NDArray[Any] = np.zeros(
            (n_channels if runs is None else 0, N_BINS), np.uint64 if n_channels == 1 else np.uint32
        )
        self.totals: Totals | None = Totals(0, 0)

    @property
    def n_channels(self) -> int:
        """The number of channels."""
        return len(self.grids)

    @property
    def num_batches(self) -> int:
        """How many batches were observed."""
        return self._whole_totals.num_batches

    @property
    def nbytes(self) -> int:
        """Of memory."""
        return self.grids.nbytes + self.counts.nbytes + sum(run.nbytes for run in self.runs or ())

    @property
    def lowest(self) -> NDArray[np.float32]:
        """The smallest value of each channel."""
        return passes.of_keys(self.grids[:, 2]) + 0

    @property
    def highest(self) -> NDArray[np.float32]:
        """The largest value of each channel."""
        return passes.of_keys(self.grids[:, 3]) + 0

    @property
    def is_torn(self) -> bool:
        """Whether some channels have a batch that others lack: it is being counted, or that was interrupted."""
        return self.totals is None

    @property
    def _whole_totals(self) -> Totals:
        if self.totals is None:
            raise InvalidStateError(TORN)
        return self.totals

    def observe(self, source: Floats, sharing: Sharing, name: str, n_threads: int | None) -> "Histograms":
        """The histograms with a batch that is not empty: these, or new ones; refused, it changes nothing."""
        if self.n_channels == 1:
            result = self._of_all(source, name, n_threads)
            totals = self._whole_totals.plus(Totals(source.size, 1), name)
            _kernels.merge_histograms(result.grids, result.counts, self.grids, self.counts)
            result.totals = totals
            return result
        bounds = passes.extremes(source, sharing, name, n_threads)  # refuses the batch before anything is counted
        n_values = sharing.outer * sharing.inner
        totals = self._whole_totals.plus(Totals(n_values, 1), name)
        result = self if self.runs is None else self._unpacked()
        result._make_room(totals)
        result.totals = None
        _kernels.widen_histograms(result.grids, result.counts, passes.keys_of(bounds))
        if sharing.inner > _LONGEST_RUN or sharing.outer == 1:
            bad = result._count_runs(source, sharing, n_threads)
        elif n_values < _LONG_COLUMN:
            bad = result._count_columns(source, sharing, n_threads)
        else:
            bad = result._count_rows(source, sharing, n_threads)
        if bad >= 0:  # it was finite a moment ago
            raise InvalidValueError(f"{name}: changed while it was read")
        result.totals = totals
        return result

    def _count_runs(self, source: Floats, sharing: Sharing, n_threads: int | None) -> int:
        places = source.raw, source.element_type, sharing.outer, sharing.inner
        kernel = _kernels.CountRuns(*places, self.grids, self.counts)
        item_bytes = sharing.outer * sharing.inner * source.itemsize
        return parallel.run(kernel, self.n_channels, item_bytes, n_threads, unit=1)

    def _count_columns(self, source: Floats, sharing: Sharing, n_threads: int | None) -> int:
        """Share out channels, as wide a part of the rows as possible."""
        places = source.raw, source.element_type, sharing.outer, sharing.inner
        kernel = _kernels.CountColumns(*places, self.grids, self.counts)
        wanted = min(self.n_channels // parallel.count_threads(n_threads), _COLUMNS_TOGETHER // sharing.inner)
        unit = max(1, wanted // _SLOTS_TOGETHER) * _SLOTS_TOGETHER
        item_bytes = sharing.outer * sharing.inner * source.itemsize
        return parallel.run(kernel, self.n_channels, item_bytes, n_threads, unit=unit)

    def _count_rows(self, source: Floats, sharing: Sharing, n_threads: int | None) -> int:
        """Share out rows of as many channels as are counted together; each thread has tables, which are added up."""
        inner, together = sharing.inner, _COLUMNS_TOGETHER // sharing.inner
        for first in range(0, self.n_channels, together):
            n = min(together, self.n_channels - first)
            rows = slice(first, first + n)
            item_bytes = max(n * source.itemsize, _ROW_BYTES) * inner
            kernel = _kernels.CountRows(source.raw, source.element_type, self.n_channels, inner, first, n, self.grids)
            bad = _count_in_tables(kernel, sharing.outer, item_bytes, self.grids[rows], self.counts[rows], n_threads)
            if bad >= 0:
                return bad
        return -1

    def observe_channels(self, sources: Sequence[Floats], name: str, n_threads: int | None) -> "Histograms":
        """The histograms with a batch of which the channels, none of them empty, hold different numbers of values."""
        totals = self._whole_totals.plus(Totals(max(source.size for source in sources), 1), name)
        parts = [self._of_all(source, name, n_threads) for source in sources]
        result = self if self.runs is None else self._unpacked()
        result._make_room(totals)
        result.totals = None
        for channel, part in enumerate(parts):
            row = slice(channel, channel + 1)
            counts = part.counts.astype(result.counts.dtype, copy=False)
            _kernels.merge_histograms(result.grids[row], result.counts[row], part.grids, counts)
        result.totals = totals
        return result

    def _of_all(self, source: Floats, name: str, n_threads: int | None) -> "Histograms":
        total, lock = Histograms(1), threading.Lock()
        kernel = _kernels.CountValues(source.raw, source.element_type)

        def count(most: int) -> None:
            part = Histograms(1)
            kernel.count(part.grids, part.counts, most)
            with lock:
                _kernels.merge_histograms(total.grids, total.counts, part.grids, part.counts)

        if parallel.run(kernel, source.size, source.itemsize, n_threads, turn=count) >= 0:
            passes.refuse_first(source, name)
        return total

    def merge(self, other: "Histograms") -> "Histograms":
        """The histograms with what others saw: these, or new ones."""
        totals = self._whole_totals.plus(other._whole_totals, "other")
        if self.n_channels == 1 or (self.runs is not None and other.runs is not None):
            return self._merge_rows(other, totals)
        result = self if self.runs is None else self._unpacked()
        result._make_room(totals)
        result.totals = None
        for start in range(0, self.n_channels, _TOGETHER):
            rows = slice(start, start + _TOGETHER)
            theirs = other._rows(rows, result.counts.dtype)
            _kernels.merge_histograms(result.grids[rows], result.counts[rows], *theirs)
        result.totals = totals
        return result

    def _merge_rows(self, other: "Histograms", totals: Totals) -> "Histograms":
        """New ones, as those that were there are: packed, or of a single channel."""
        result = Histograms(self.n_channels, None if self.runs is None else [])
        dtype = _count_dtype(self.n_channels, totals)
        for start in range(0, self.n_channels, _TOGETHER):
            rows = slice(start, start + _TOGETHER)
            grids, counts = self._rows(rows, dtype)
            _kernels.merge_histograms(grids, counts, *other._rows(rows, dtype))
            if result.runs is None:
                result.grids, result.counts = grids, counts
            else:
                result._pack(start, grids, counts)
        result.totals = totals
        return result

    def packed(self) -> "Histograms":
        """These, if they never change; else new ones that hold no more than the counts between the extremes."""
        if self.n_channels == 1 or self.runs is not None:
            return self
        result = Histograms(self.n_channels, [])
        result._pack(0, self.grids, self.counts)
        result.totals = self._whole_totals
        return result

    def _pack(self, start: int, grids: NDArray[np.int32], counts: NDArray[Any]) -> None:
        """Append channels from `start` on."""
        assert self.runs is not None
        for channel, (grid, row) in enumerate(zip(grids, counts, strict=True), start):
            exponent, first, offset, n = _place(grid)
            self.grids[channel] = (exponent, first, *grid[2:])
            self.runs.append(row[offset : offset + n].copy())

    def _unpacked(self) -> "Histograms":
        result = Histograms(self.n_channels)
        result._make_room(self._whole_totals)
        result.grids[:] = self.grids
        for row, run in zip(result.counts, self.runs or (), strict=True):
            row[: run.size] = run
        result.totals = self.totals
        return result

    def _rows(self, rows: slice, dtype: np.dtype[Any]) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """Copies of the grids and the counts of some channels."""
        if self.runs is None:
            return self.grids[rows].copy(), self.counts[rows].astype(dtype)
        runs = self.runs[rows]
        counts = np.zeros((len(runs), N_BINS), dtype)
        for row, run in zip(counts, runs, strict=True):
            row[: run.size] = run
        return self.grids[rows].copy(), counts

    def whole_rows(self) -> Iterator[tuple[NDArray[np.int32], NDArray[Any]]]:
        """All grids and counts, whole rows of many channels at a time."""
        step = self.n_channels if self.runs is None else _TOGETHER
        for start in range(0, self.n_channels, step):
            rows = slice(start, start + step)
            if self.runs is None:
                yield self.grids, self.counts
            else:
                yield self._rows(rows, _count_dtype(self.n_channels, self._whole_totals))

    def _make_room(self, totals: Totals) -> None:
        self.counts = self.counts.astype(_count_dtype(self.n_channels, totals), copy=False)

    def bins(self, channel: int) -> tuple[int, int, NDArray[np.int64]]:
        """(exponent, the bin of the smallest value, the counts from there to the bin of the largest value)."""
        exponent, first, offset, n = _place(self.grids[channel])
        counts = self.counts[channel, offset : offset + n] if self.runs is None else self.runs[channel]
        return exponent, first, counts.astype(np.int64)

    def to_state(self, listed: Callable[[NDArray[Any]], Any]) -> dict[str, Any]:
        """What was observed; `listed` converts arrays."""
        channels = []
        for channel, (low, high) in enumerate(zip(self.lowest.tolist(), self.highest.tolist(), strict=True)):
            exponent, first, counts = self.bins(channel)
            channels.append(
                {"lowest": low, "highest": high, "exponent": exponent, "first": first, "counts": listed(counts)}
            )
        return {"channels": channels}

    def restore(self, state: Mapping[str, Any], num_batches: int) -> None:
        """Take over a state; whatever does not fit together is refused."""
        channels = sequence(state, "channels", self.n_channels)
        runs = [self._restore(channel, entry) for channel, entry in enumerate(channels)]
        n_values = max(int(run.sum(dtype=np.int64)) for run in runs)  # channels may have left out different ones
        self.totals = Totals(n_values, num_batches)
        dtype = _count_dtype(self.n_channels, self.totals)
        if self.n_channels == 1:
            self.counts[0, : runs[0].size] = runs[0]
        else:
            self.runs, self.counts = [run.astype(dtype) for run in runs], self.counts[:0]

    def _restore(self, channel: int, entry: Any) -> NDArray[np.int64]:
        name = f"channels[{channel}]"
        if not isinstance(entry, Mapping):
            raise InvalidValueError(f"{name}: expected a mapping, got {brief(entry)}")
        bounds = bounds_of({key: [entry.get(key)] for key in ("lowest", "highest")}, 1, f"{name}.")
        lowest, highest = (float(bound[0]) for bound in bounds)
        exponent = smallest_exponent(lowest, highest)
        first = bin_of(lowest, exponent)
        for key, wanted in (("exponent", exponent), ("first", first)):
            if arguments.integer(entry.get(key), f"{name}.{key}", -(1 << 31), 1 << 31) != wanted:
                raise InvalidValueError(f"{name}.{key}: expected {wanted} for its extremes, got {entry[key]}")
        counts = _counts(entry, bin_of(highest, exponent) - first + 1, f"{name}.")
        if not (counts[0] and counts[-1]) or (lowest != highest and int(counts.sum()) < 2):
            raise InvalidValueError(f"{name}.counts: nothing is counted in the bins of its extremes")
        self.grids[channel] = (exponent, first, *passes.keys_of(np.concatenate(bounds)))
        return counts


def _count_in_tables(
    kernel: _kernels.CountRows,
    n_rows: int,
    item_bytes: int,
    grids: NDArray[np.int32],
    counts: NDArray[Any],
    n_threads: int | None,
) -> int:
    """Run a kernel with tables for each thread, and add them to the counts."""
    free: list[_kernels.ColumnTables] = []
    lock = threading.Lock()

    def add(tables: _kernels.ColumnTables, n_threads: int | None) -> None:
        parallel.run(_kernels.AddTables(tables, grids, counts), len(grids), counts[0].nbytes, n_threads, unit=1)

    def count(most: int) -> None:
        try:
            tables = free.pop()
        except IndexError:
            tables = _kernels.ColumnTables(len(grids))
        while not kernel.count(tables, most):
            with lock:
                add(tables, 1)
        free.append(tables)

    bad = parallel.run(kernel, n_rows, item_bytes, n_threads, unit=1, turn=count)
    for tables in free:
        add(tables, n_threads)
    return bad


def _count_dtype(n_channels: int, totals: Totals) -> np.dtype[Any]:
    is_wide = n_channels == 1 or totals.n_values > _MOST_IN_32_BITS
    return np.dtype(np.uint64 if is_wide else np.uint32)


def _place(grid: NDArray[np.int32]) -> tuple[int, int, int, int]:
    """Exponent, the bin of the smallest value, where in a row its count is, and the bins up to the largest value."""
    exponent, start = int(grid[0]), int(grid[1])
    first, last = (bin_of(float(x), exponent) for x in passes.of_keys(grid[2:]))
    return exponent, first, first - start, last - first + 1


def bin_of(x: float, exponent: int) -> int:
    """The index of the bin that holds a float32."""
    m = int(abs(x) * 2.0**-exponent)
    return -1 - m if x < 0 else m


def smallest_exponent(lowest: float, highest: float) -> int:
    """The exponent of the finest grid on which two float32 values and all between them lie in `N_BINS` bins."""
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
    if min(values) < 0 or sum(values) > MOST_VALUES:
        raise InvalidValueError(f"{prefix}counts: expected counts >= 0 of at most 2**62 values")
    return np.array(values, np.int64)
