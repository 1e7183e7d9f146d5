# core_statistics.pxi: the part of _core.pyx for histograms and selection. Histograms are rows of a Grid (histogram.pxd)
# as four int32, and of N_BINS counts. Threads do not share what they count into: the caller gives each call arrays of
# its own, or disjoint rows, and adds them up.
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from quantcore._kernels.histogram cimport (
    MOST_COUNTED,
    N_BINS,
    Count,
    Grid,
    Histogram,
    clear,
    clear_grid,
    fold,
    merge,
)
from quantcore._kernels.selection cimport MOST_PREFIXES, N_DIGITS, Digits
from quantcore._kernels.table cimport MOST_CHANNELS, SHORTEST_RUN

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


cdef void merge_into(int32_t[:, ::1] grids, Count[:, ::1] counts, int64_t row, const Histogram* histogram) noexcept nogil:
    cdef uint64_t folded[N_BINS]
    fold(histogram, folded)
    merge(grid_at(grids, row), &counts[row, 0], &histogram.grid, folded)


def count_values(
    const uint8_t[::1] values, int dtype, int32_t[:, ::1] grids, uint64_t[:, ::1] counts, Chunks chunks, int64_t most
):
    """Add all values to the one histogram; `chunks` hand out elements."""
    cdef int64_t start, n = 0, itemsize = size_of(dtype)
    cdef Histogram* histogram
    if chunks.total == 0:
        return
    histogram = <Histogram*> calloc(1, sizeof(Histogram))
    if histogram == NULL:
        raise MemoryError
    clear_grid(&histogram.grid)
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            if TABLE.count_channels(
                &values[0] + start * itemsize, dtype, 1, 1, chunks.count(start), 1, histogram
            ) < 0:
                chunks.report(start, 0)
            n += chunks.count(start)
            if n >= MOST_COUNTED:
                merge_into(grids, counts, 0, histogram)
                clear(histogram)
                n = 0
            start = chunks.take(&most)
        merge_into(grids, counts, 0, histogram)
    free(histogram)


def count_channels(
    const uint8_t[::1] values, int dtype, int64_t outer, int64_t inner, int32_t[:, ::1] grids, Count[:, ::1] counts,
    Chunks chunks, int64_t most,
):
    """Add an array of outer x channels x inner to a histogram for each channel; `chunks` hand out channels."""
    cdef int64_t channels = grids.shape[0], start, c, first, n, itemsize = size_of(dtype)
    cdef int64_t together = MOST_CHANNELS if inner < SHORTEST_RUN else 1
    cdef int64_t k
    cdef Histogram* histograms
    if chunks.total == 0:
        return
    histograms = <Histogram*> calloc(together, sizeof(Histogram))
    if histograms == NULL:
        raise MemoryError
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            first = start
            while first < start + chunks.count(start):
                n = min(together, start + chunks.count(start) - first)
                for c in range(n):
                    clear(&histograms[c])
                k = TABLE.count_channels(
                    &values[0] + first * inner * itemsize, dtype, outer, channels, inner, n, histograms
                )
                if k < 0:
                    chunks.report(first, 0)
                else:
                    for c in range(n):
                        merge_into(grids, counts, first + c, &histograms[c])
                first += n
            start = chunks.take(&most)
    free(histograms)


cdef void add_digits(Digits* digits, uint64_t[:, ::1] counts) noexcept nogil:
    cdef int p, i
    for p in range(MOST_PREFIXES):
        for i in range(N_DIGITS):
            counts[p, i] += digits.counts[p][i]
    memset(digits, 0, sizeof(Digits))


def count_digits(
    const uint8_t[::1] values, int dtype, const uint32_t[::1] prefixes, int shift, uint64_t[:, ::1] counts,
    Chunks chunks, int64_t most,
):
    """Add the counts of a digit of the keys that begin with each prefix; `chunks` hand out elements."""
    cdef int64_t start, n = 0, itemsize = size_of(dtype)
    cdef int n_prefixes = <int> prefixes.shape[0]
    cdef Digits* digits
    if chunks.total == 0:
        return
    digits = <Digits*> calloc(1, sizeof(Digits))
    if digits == NULL:
        raise MemoryError
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            TABLE.count_digits(
                &values[0] + start * itemsize, dtype, chunks.count(start), &prefixes[0], n_prefixes, shift, digits
            )
            n += chunks.count(start)
            if n >= MOST_COUNTED:
                add_digits(digits, counts)
                n = 0
            start = chunks.take(&most)
        add_digits(digits, counts)
    free(digits)
