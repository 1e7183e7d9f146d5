# core_statistics.pxi: the part of _core.pyx for histograms and selection. Histograms are rows of a Grid (histogram.pxd)
# as four int32, and of N_BINS counts. Threads do not share what they count into: the caller gives each call arrays of
# its own, or disjoint rows, and adds them up.
from libc.stdint cimport uint32_t
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
    clear(histogram, N_TABLES)
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
                clear(histogram, N_TABLES)
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
    cdef int n_tables = N_TABLES if outer * inner >= MANY_VALUES else 1
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
                    clear(&histograms[c], n_tables)
                if TABLE.count_channels(
                    &values[0] + first * inner * itemsize, dtype, outer, channels, inner, n, histograms
                ) < 0:
                    chunks.report(first, 0)
                else:
                    for c in range(n):
                        merge_into(grids, counts, first + c, &histograms[c])
                first += n
            start = chunks.take(&most)
    free(histograms)


def count_halves(
    const uint8_t[::1] values, int dtype, const uint32_t[::1] uppers, uint32_t[:, ::1] counts, Chunks chunks,
    int64_t most,
):
    """Count the upper halves of all keys (no `uppers`; two rows), or the lower ones of those with each upper half.

    `chunks` hand out elements. Returns whether it is done; else the counts are to be taken away first, since they could
    overflow.
    """
    cdef int64_t start, n = 0, itemsize = size_of(dtype)
    cdef int n_uppers = <int> uppers.shape[0]
    if chunks.total == 0:
        return True
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            TABLE.count_halves(
                &values[0] + start * itemsize, dtype, chunks.count(start), &uppers[0] if n_uppers else NULL, n_uppers,
                &counts[0, 0],
            )
            n += chunks.count(start)
            start = chunks.take(&most) if n < MOST_COUNTED else -1
    return n < MOST_COUNTED
