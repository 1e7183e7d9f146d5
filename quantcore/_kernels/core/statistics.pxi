# statistics.pxi: histograms and selection, for _core.pyx. A histogram is a row of four int32, its Grid
# (histogram.pxd), and a row of N_BINS counts. Threads do not share counts: the caller gives each call its own arrays or
# disjoint rows, and adds them up.
from libc.stdlib cimport calloc, free, malloc
from libc.stdint cimport uint16_t

from quantcore._kernels.passes.histogram cimport (
    MOST_COUNTED,
    MOST_IN_16_BITS,
    N_BINS,
    N_TABLES,
    Grid,
    Histogram,
    clear,
    clear_grid,
    fold,
    is_wider,
    merge,
    move,
    widened,
)
from quantcore._kernels.table cimport MOST_SLOTS, SLOT_COLUMNS, ClipJob, ColumnCounts

cdef enum:
    MANY_VALUES = 1 << 17  # values per channel from which clearing and adding up more than FEW_TABLES pays off
    FEW_TABLES = 2

HISTOGRAM_BINS = N_BINS


cdef Grid* grid_at(int32_t[:, ::1] grids, int64_t row) noexcept nogil:
    return <Grid*> &grids[row, 0]


def clear_histograms(int32_t[:, ::1] grids):
    """Set grids to those of empty histograms; the counts must be zero."""
    cdef int64_t i
    for i in range(grids.shape[0]):
        clear_grid(grid_at(grids, i))


ctypedef struct Merging:
    int64_t n
    Grid* grids
    uint32_t* counts  # of the two, the one that is not NULL
    uint64_t* wide_counts
    const Grid* other_grids
    const uint32_t* other_counts
    const uint64_t* other_wide_counts


def merge_histograms(object grids, object counts, object other_grids, object other_counts):
    """Add histograms row by row; both have counts of the same type."""
    cdef Kernel held = Kernel()
    cdef Merging merging
    merging.n = len(grids)
    merging.counts = merging.wide_counts = NULL
    merging.grids, merging.other_grids = <Grid*> held.write(grids, 4), <const Grid*> held.read(other_grids, 4)
    if counts.itemsize == 4:
        merging.counts = <uint32_t*> held.write(counts)
        merging.other_counts = <const uint32_t*> held.read(other_counts, 4)
    else:
        merging.wide_counts = <uint64_t*> held.write(counts)
        merging.other_wide_counts = <const uint64_t*> held.read(other_counts, 8)
    run_with_stack(merge_rows, &merging)


cdef void merge_rows(void* argument) noexcept nogil:
    cdef const Merging* merging = <const Merging*> argument
    cdef uint64_t row[N_BINS]
    cdef int64_t i, j
    for i in range(merging.n):
        for j in range(N_BINS):
            row[j] = (
                merging.other_counts[i * N_BINS + j]
                if merging.counts != NULL
                else merging.other_wide_counts[i * N_BINS + j]
            )
        if merging.counts != NULL:
            merge(&merging.grids[i], merging.counts + i * N_BINS, &merging.other_grids[i], row)
        else:
            merge(&merging.grids[i], merging.wide_counts + i * N_BINS, &merging.other_grids[i], row)


ctypedef struct Widening:
    int64_t n
    Grid* grids
    uint32_t* counts  # of the two, the one that is not NULL
    uint64_t* wide_counts
    const int32_t* lowest
    const int32_t* highest


def widen_histograms(object grids, object counts, object keys):
    """Make histograms wide enough for values between the keys of extremes, shape (2, histograms)."""
    cdef Kernel held = Kernel()
    cdef Widening widening
    widening.n, widening.grids = len(grids), <Grid*> held.write(grids, 4)
    widening.counts = widening.wide_counts = NULL
    widening.lowest = <const int32_t*> held.read(keys, 4)
    widening.highest = widening.lowest + widening.n
    if counts.itemsize == 4:
        widening.counts = <uint32_t*> held.write(counts)
    else:
        widening.wide_counts = <uint64_t*> held.write(counts)
    run_with_stack(widen_rows, &widening)


cdef void widen_rows(void* argument) noexcept nogil:
    cdef const Widening* widening = <const Widening*> argument
    cdef Grid wide
    cdef int64_t i
    for i in range(widening.n):
        wide = widened(&widening.grids[i], widening.lowest[i], widening.highest[i])
        if widening.counts != NULL:
            move(&widening.grids[i], &wide, widening.counts + i * N_BINS)
        else:
            move(&widening.grids[i], &wide, widening.wide_counts + i * N_BINS)


cdef void merge_into(Grid* grid, uint64_t* counts, const Histogram* histogram) noexcept nogil:
    cdef uint64_t folded[N_BINS]
    fold(histogram, folded)
    merge(grid, counts, &histogram.grid, folded)


ctypedef struct OneHistogram:
    Histogram* histogram
    Grid* grid
    uint64_t* counts


cdef class CountValues(Kernel):
    """Counts of all values in one histogram. Items are elements."""

    cdef const uint8_t* values
    cdef int dtype

    def __init__(self, object values, int dtype):
        self.values, self.dtype = self.read(values), dtype

    def count(self, int32_t[:, ::1] grids, uint64_t[:, ::1] counts, int64_t most):
        """`run`, into a histogram that no other thread uses."""
        cdef OneHistogram into
        into.histogram = <Histogram*> calloc(1, sizeof(Histogram))
        if into.histogram == NULL:
            raise MemoryError
        into.grid, into.counts = grid_at(grids, 0), &counts[0, 0]
        try:
            self.run_into(most, &into)
        finally:
            free(into.histogram)

    cdef void run_chunks(self, Chunks* chunks) noexcept nogil:
        cdef OneHistogram* into = <OneHistogram*> chunks.into
        cdef int64_t start = self.take(&chunks.most), count, n = 0
        clear(into.histogram, N_TABLES)
        while start >= 0:
            count = min(self.size, self.total - start)
            if TABLE.count_channel(
                self.values + start * size_of(self.dtype), self.dtype, 1, count, count, into.histogram
            ) < 0:
                self.report(start)
            n += count
            if n >= MOST_COUNTED:
                merge_into(into.grid, into.counts, into.histogram)
                clear(into.histogram, N_TABLES)
                n = 0
            start = self.take(&chunks.most)
        merge_into(into.grid, into.counts, into.histogram)


cdef class CountIntoRows(Kernel):
    """Base of kernels that count into the rows of several channels, whose grids have room for all values."""

    cdef const Grid* grids
    cdef int64_t channels
    cdef uint32_t* counts  # of the two, the one that is not NULL
    cdef uint64_t* wide_counts

    cdef int into(self, object grids, object counts) except -1:
        self.grids, self.channels = <const Grid*> self.read(grids, 4), len(grids)
        self.counts, self.wide_counts = NULL, NULL
        if counts.itemsize == 4:
            self.counts = <uint32_t*> self.write(counts, 4)
        else:
            self.wide_counts = <uint64_t*> self.write(counts, 8)
        return 0

    cdef uint32_t* counts_at(self, int64_t channel) noexcept nogil:
        return self.counts + channel * N_BINS if self.counts != NULL else NULL

    cdef uint64_t* wide_counts_at(self, int64_t channel) noexcept nogil:
        return self.wide_counts + channel * N_BINS if self.wide_counts != NULL else NULL


cdef class CountRuns(CountIntoRows):
    """Counts of an array of outer x channels x inner, a histogram for each channel. Items are channels."""

    cdef const uint8_t* values
    cdef int dtype
    cdef int64_t outer, inner

    def __init__(self, object values, int dtype, int64_t outer, int64_t inner, object grids, object counts):
        self.values, self.dtype, self.outer, self.inner = self.read(values), dtype, outer, inner
        self.into(grids, counts)

    def run(self, int64_t most):
        """Process chunks until none are left, or `most` are done."""
        cdef Histogram* histogram = <Histogram*> calloc(1, sizeof(Histogram))
        if histogram == NULL:
            raise MemoryError
        try:
            self.run_into(most, histogram)
        finally:
            free(histogram)

    cdef void run_chunks(self, Chunks* chunks) noexcept nogil:
        cdef Histogram* histogram = <Histogram*> chunks.into
        cdef int64_t start = self.take(&chunks.most), channel
        histogram.n_tables = N_TABLES if self.outer * self.inner >= MANY_VALUES else FEW_TABLES
        while start >= 0:
            for channel in range(start, min(start + self.size, self.total)):
                histogram.grid = self.grids[channel]
                if TABLE.count_channel(
                    self.values + channel * self.inner * size_of(self.dtype), self.dtype, self.outer,
                    self.channels * self.inner, self.inner, histogram,
                ) < 0 or is_wider(&self.grids[channel], histogram.grid.lowest, histogram.grid.highest):
                    clear(histogram, histogram.n_tables)
                    self.report(channel)
                else:
                    TABLE.add_channel(histogram, self.counts_at(channel), self.wide_counts_at(channel))
            start = self.take(&chunks.most)


cdef class CountColumns(CountIntoRows):
    """The same where runs are short and few. Items are channels."""

    cdef const uint8_t* values
    cdef int dtype
    cdef int64_t outer, inner

    def __init__(self, object values, int dtype, int64_t outer, int64_t inner, object grids, object counts):
        self.values, self.dtype, self.outer, self.inner = self.read(values), dtype, outer, inner
        self.into(grids, counts)

    def run(self, int64_t most):
        """Process chunks until none are left, or `most` are done."""
        cdef uint16_t* slots = <uint16_t*> malloc(MOST_SLOTS * sizeof(uint16_t))
        if slots == NULL:
            raise MemoryError
        try:
            self.run_into(most, slots)
        finally:
            free(slots)

    cdef void run_chunks(self, Chunks* chunks) noexcept nogil:
        cdef int64_t start = self.take(&chunks.most), first, n, together = SLOT_COLUMNS // self.inner
        cdef ColumnCounts into
        into.slots, into.tables = <uint16_t*> chunks.into, NULL
        while start >= 0:
            first = start
            while first < min(start + self.size, self.total):
                n = min(together, min(start + self.size, self.total) - first)
                into.counts, into.wide_counts = self.counts_at(first), self.wide_counts_at(first)
                if TABLE.count_columns(
                    self.values + first * self.inner * size_of(self.dtype), self.dtype, self.outer,
                    self.channels * self.inner, n, self.inner, &self.grids[first], &into,
                ) < 0:
                    self.report(first)
                first += n
            start = self.take(&chunks.most)


ctypedef struct Counted:
    ColumnCounts into
    int64_t n  # values of each channel


cdef class ColumnTables:
    """Tables of 16 bits for some channels, which one thread counts into."""

    cdef Counted counted

    def __cinit__(self, int64_t n_channels):
        self.counted.into.slots = <uint16_t*> calloc(MOST_SLOTS + n_channels * N_BINS, sizeof(uint16_t))
        if self.counted.into.slots == NULL:
            raise MemoryError
        self.counted.into.tables = self.counted.into.slots + MOST_SLOTS

    def __dealloc__(self):
        free(self.counted.into.slots)


cdef class CountRows(Kernel):
    """Counts of n channels, from `first` on, of an array of rows with `inner` neighbouring columns for each channel.

    Items are rows, which threads share: each counts into its own tables. `grids` have room for all values.
    """

    cdef const uint8_t* values
    cdef int dtype
    cdef int64_t width, inner, n
    cdef const Grid* grids

    def __init__(
        self, object values, int dtype, int64_t channels, int64_t inner, int64_t first, int64_t n, object grids
    ):
        self.values = self.read(values) + first * inner * size_of(dtype)
        self.dtype, self.width, self.inner, self.n = dtype, channels * inner, inner, n
        self.grids = <const Grid*> self.read(grids, 4) + first

    def count(self, ColumnTables tables, int64_t most):
        """`run`, into tables that no other thread uses.

        Returns whether all chunks are done; if not, the tables must be added up first, lest they overflow.
        """
        self.run_into(most, &tables.counted)
        return tables.counted.n + self.size * self.inner <= MOST_IN_16_BITS

    cdef void run_chunks(self, Chunks* chunks) noexcept nogil:
        cdef Counted* counted = <Counted*> chunks.into
        cdef int64_t start, count
        while counted.n + self.size * self.inner <= MOST_IN_16_BITS:
            start = self.take(&chunks.most)
            if start < 0:
                return
            count = min(self.size, self.total - start)
            if TABLE.count_columns(
                self.values + start * self.width * size_of(self.dtype), self.dtype, count, self.width, self.n,
                self.inner, self.grids, &counted.into,
            ) < 0:
                self.report(start)
            counted.n += count * self.inner


cdef class AddTables(CountIntoRows):
    """Adds tables to the rows of their channels, and clears them. Items are channels."""

    cdef ColumnTables tables

    def __init__(self, ColumnTables tables, object grids, object counts):
        self.tables = tables
        self.into(grids, counts)
        tables.counted.n = 0

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        TABLE.add_columns(
            &self.grids[first], self.tables.counted.into.tables + first * N_BINS, n, self.counts_at(first),
            self.wide_counts_at(first),
        )
        return -1


cdef class ClipHistograms(Kernel):
    """Where to clip each of several histograms that are not empty: two float64 for each. Items are histograms."""

    cdef const Grid* grids
    cdef double* ends
    cdef ClipJob job

    def __init__(
        self, object grids, object counts, int method, bint is_symmetric, bint has_offset, int bits, int quant_min,
        int quant_max, object ends,
    ):
        self.grids, self.ends = <const Grid*> self.read(grids, 4), <double*> self.write(ends, 8)
        self.job.counts, self.job.wide_counts = NULL, NULL
        if counts.itemsize == 4:
            self.job.counts = <const uint32_t*> self.read(counts, 4)
        else:
            self.job.wide_counts = <const uint64_t*> self.read(counts, 8)
        self.job.method, self.job.is_symmetric, self.job.magnitudes = method, is_symmetric, 1 << (bits - 1)
        self.job.has_offset, self.job.limits[0], self.job.limits[1] = has_offset, quant_min, quant_max

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        cdef int64_t i
        for i in range(first, first + n):
            TABLE.clip_histogram(&self.job, &self.grids[i], i, &self.ends[2 * i])
        return -1


ctypedef struct Halves:
    const uint32_t* uppers
    int n_uppers
    uint32_t* counts
    int64_t n  # that were counted


cdef class CountHalves(Kernel):
    """Counts of the upper halves of all keys, or of the lower halves of some keys. Items are elements."""

    cdef const uint8_t* values
    cdef int dtype

    def __init__(self, object values, int dtype):
        self.values, self.dtype = self.read(values), dtype

    def count(self, const uint32_t[::1] uppers, uint32_t[:, ::1] counts, int64_t most):
        """`run`, into counts that no other thread uses: two rows if there are no `uppers`, else one for each.

        Returns whether all chunks are done; if not, the caller must collect the counts first, lest they overflow.
        """
        cdef Halves into
        into.n_uppers, into.n, into.counts = <int> uppers.shape[0], 0, &counts[0, 0]
        into.uppers = &uppers[0] if into.n_uppers else NULL
        self.run_into(most, &into)
        return into.n < MOST_COUNTED

    cdef void run_chunks(self, Chunks* chunks) noexcept nogil:
        cdef Halves* into = <Halves*> chunks.into
        cdef int64_t start = self.take(&chunks.most), count
        while start >= 0:
            count = min(self.size, self.total - start)
            TABLE.count_halves(
                self.values + start * size_of(self.dtype), self.dtype, count, into.uppers, into.n_uppers, into.counts
            )
            into.n += count
            start = self.take(&chunks.most) if into.n < MOST_COUNTED else -1
