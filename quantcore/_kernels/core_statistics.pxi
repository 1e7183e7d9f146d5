# core_statistics.pxi: histograms and selection, for _core.pyx. Histograms are rows of a Grid (histogram.pxd)
# as four int32, and of N_BINS counts. Threads do not share what they count into: the caller gives each call arrays of
# its own, or disjoint rows, and adds them up.
from libc.stdlib cimport calloc, free

from quantcore._kernels.histogram cimport (
    MOST_COUNTED,
    N_BINS,
    N_TABLES,
    Count,
    Grid,
    Histogram,
    clear,
    clear_grid,
    fold,
    merge,
)
from quantcore._kernels.table cimport MOST_CHANNELS, SHORTEST_RUN

cdef enum:
    MANY_VALUES = 1 << 17  # of a channel, that pay for clearing and adding up several tables

HISTOGRAM_BINS = N_BINS


cdef Grid* grid_at(int32_t[:, ::1] grids, int64_t row) noexcept nogil:
    return <Grid*> &grids[row, 0]


def clear_histograms(int32_t[:, ::1] grids):
    """Set grids to those of histograms without values; their counts are to be zero."""
    cdef int64_t i
    for i in range(grids.shape[0]):
        clear_grid(grid_at(grids, i))


def merge_histograms(
    int32_t[:, ::1] grids, Count[:, ::1] counts, const int32_t[:, ::1] other_grids, const Count[:, ::1] other_counts
):
    """Add histograms row by row."""
    cdef uint64_t row[N_BINS]
    cdef int64_t i, j
    with nogil:
        for i in range(grids.shape[0]):
            for j in range(N_BINS):
                row[j] = other_counts[i, j]
            merge(grid_at(grids, i), &counts[i, 0], <const Grid*> &other_grids[i, 0], row)


cdef void merge_into(
    int32_t[:, ::1] grids, Count[:, ::1] counts, int64_t row, const Histogram* histogram
) noexcept nogil:
    cdef uint64_t folded[N_BINS]
    fold(histogram, folded)
    merge(grid_at(grids, row), &counts[row, 0], &histogram.grid, folded)


cdef class CountValues(Kernel):
    """Counts of all values in one histogram. Items are elements."""

    cdef const uint8_t* values
    cdef int dtype

    def __init__(self, object values, int dtype):
        self.values, self.dtype = self.read(values), dtype

    def count(self, int32_t[:, ::1] grids, uint64_t[:, ::1] counts, int64_t most):
        """`run`, into a histogram that no other thread uses."""
        cdef int64_t start, count, n = 0
        cdef Histogram* histogram = <Histogram*> calloc(1, sizeof(Histogram))
        if histogram == NULL:
            raise MemoryError
        clear(histogram, N_TABLES)
        with nogil:
            start = self.take(&most)
            while start >= 0:
                count = min(self.size, self.total - start)
                if TABLE.count_channels(
                    self.values + start * size_of(self.dtype), self.dtype, 1, 1, count, 1, histogram
                ) < 0:
                    self.report(start)
                n += count
                if n >= MOST_COUNTED:
                    merge_into(grids, counts, 0, histogram)
                    clear(histogram, N_TABLES)
                    n = 0
                start = self.take(&most)
            merge_into(grids, counts, 0, histogram)
        free(histogram)


cdef class CountChannels(Kernel):
    """Counts of an array of outer x channels x inner, a histogram for each channel. Items are channels."""

    cdef const uint8_t* values
    cdef int dtype
    cdef int64_t outer, inner
    cdef int32_t[:, ::1] grids
    cdef uint32_t[:, ::1] counts
    cdef uint64_t[:, ::1] wide_counts

    def __init__(
        self, object values, int dtype, int64_t outer, int64_t inner, int32_t[:, ::1] grids, object counts
    ):
        self.values, self.dtype = self.read(values), dtype
        self.outer, self.inner, self.grids = outer, inner, grids
        self.counts, self.wide_counts = (counts, None) if counts.itemsize == 4 else (None, counts)

    def run(self, int64_t most):
        """Work on chunks until none are left, or so many are done."""
        cdef int64_t start, c, first, n
        cdef int64_t together = MOST_CHANNELS if self.inner < SHORTEST_RUN else 1
        cdef int n_tables = N_TABLES if self.outer * self.inner >= MANY_VALUES else 1
        cdef Histogram* histograms = <Histogram*> calloc(together, sizeof(Histogram))
        if histograms == NULL:
            raise MemoryError
        with nogil:
            start = self.take(&most)
            while start >= 0:
                first = start
                while first < min(start + self.size, self.total):
                    n = min(together, min(start + self.size, self.total) - first)
                    for c in range(n):
                        clear(&histograms[c], n_tables)
                    if TABLE.count_channels(
                        self.values + first * self.inner * size_of(self.dtype), self.dtype, self.outer,
                        self.grids.shape[0], self.inner, n, histograms,
                    ) < 0:
                        self.report(first)
                    else:
                        for c in range(n):
                            self.merge(first + c, &histograms[c])
                    first += n
                start = self.take(&most)
        free(histograms)

    cdef void merge(self, int64_t channel, const Histogram* histogram) noexcept nogil:
        if self.counts is not None:
            merge_into(self.grids, self.counts, channel, histogram)
        else:
            merge_into(self.grids, self.wide_counts, channel, histogram)


cdef class CountHalves(Kernel):
    """Counts of the upper halves of all keys, or of the lower halves of some. Items are elements."""

    cdef const uint8_t* values
    cdef int dtype

    def __init__(self, object values, int dtype):
        self.values, self.dtype = self.read(values), dtype

    def count(self, const uint32_t[::1] uppers, uint32_t[:, ::1] counts, int64_t most):
        """`run`, into counts that no other thread uses: two rows if there are no `uppers`, else one for each.

        Returns whether it is done; else the counts are to be taken away first, since they could overflow.
        """
        cdef int64_t start, count, n = 0
        cdef int n_uppers = <int> uppers.shape[0]
        with nogil:
            start = self.take(&most)
            while start >= 0:
                count = min(self.size, self.total - start)
                TABLE.count_halves(
                    self.values + start * size_of(self.dtype), self.dtype, count, &uppers[0] if n_uppers else NULL,
                    n_uppers, &counts[0, 0],
                )
                n += count
                start = self.take(&most) if n < MOST_COUNTED else -1
        return n < MOST_COUNTED
