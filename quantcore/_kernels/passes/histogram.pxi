# histogram.pxi: histograms of channels. Values lie as outer x channels x inner: long runs of a channel are counted one
# after the other; where they are short, the array is one of rows with columns.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from quantcore._kernels.common.bits cimport INFINITE, float_of
from quantcore._kernels.common.floats cimport TILE, loaded, size_of
from quantcore._kernels.passes.histogram cimport (
    N_BINS,
    SLOTS_TOGETHER,
    TABLE_SHIFT,
    Grid,
    Histogram,
    add_table,
    count_slots,
    count_tile,
    first_used,
    last_used,
    slots_of_row,
)
from quantcore._kernels.table cimport MOST_SLOTS, SLOT_COLUMNS, ColumnCounts


cdef int64_t count_run(
    const uint8_t* values, int dtype, int64_t n, Histogram* histogram
) noexcept nogil:
    cdef float staged[TILE]
    cdef const float* x
    cdef int64_t done = 0, part, itemsize = size_of(dtype)
    while done < n:
        part = min(<int64_t> TILE, n - done)
        x = loaded(values, dtype, done, part, staged)
        if count_tile(histogram, x, part, values + (done + part) * itemsize, itemsize) < 0:
            return -1
        done += part
    return 0


cdef int64_t count_channel(
    const uint8_t* values, int dtype, int64_t outer, int64_t distance, int64_t inner, Histogram* histogram
) noexcept nogil:
    """Count the runs of a channel, of which `values` is the first one; the next is `distance` elements further on."""
    cdef int64_t o, itemsize = size_of(dtype)
    for o in range(outer):
        if count_run(values + o * distance * itemsize, dtype, inner, histogram) < 0:
            return -1
    return 0


cdef void add_channel(Histogram* histogram, uint32_t* counts, uint64_t* wide_counts) noexcept nogil:
    """Add the counts of all tables to the row of the same grid that is not NULL, and clear them."""
    cdef int32_t start = first_used(&histogram.grid), n = last_used(&histogram.grid) + 1 - start, t
    for t in range(histogram.n_tables):
        if counts != NULL:
            add_table(histogram.tables[t] + start, n, counts + start)
        else:
            add_table(histogram.tables[t] + start, n, wide_counts + start)


cdef void add_columns(
    const Grid* grids, uint16_t* tables, int64_t n_channels, uint32_t* counts, uint64_t* wide_counts
) noexcept nogil:
    """Add a table of each channel to the rows of the same grids that are not NULL, and clear it."""
    cdef int64_t c, start, n
    for c in range(n_channels):
        start = first_used(&grids[c])
        n = last_used(&grids[c]) + 1 - start
        start += c * N_BINS
        if counts != NULL:
            add_table(tables + start, n, counts + start)
        else:
            add_table(tables + start, n, wide_counts + start)


cdef int64_t count_columns(
    const uint8_t* values, int dtype, int64_t n_rows, int64_t width, int64_t n_channels, int64_t inner,
    const Grid* grids, const ColumnCounts* into,
) noexcept nogil:
    """Count `inner` neighbouring columns for each of n_channels channels, of which `values` is the first column.

    First the slots of some rows, then a few columns after the other: rows are read as they lie, and few tables are in
    use. A slot holds the number of its table among those of the columns that are counted together.
    """
    cdef float factors[SLOT_COLUMNS]
    cdef int32_t firsts[SLOT_COLUMNS]
    cdef uint16_t tables[SLOT_COLUMNS]
    cdef float staged[SLOT_COLUMNS]
    cdef const float* x
    cdef const uint8_t* ahead
    cdef int64_t n_columns = n_channels * inner, row = 0, n, i, c, together, bins, itemsize = size_of(dtype)
    cdef int64_t stride = (n_columns + SLOTS_TOGETHER - 1) & ~<int64_t> (SLOTS_TOGETHER - 1)
    cdef int64_t distance = width * itemsize, step = itemsize
    cdef uint32_t largest = 0
    for i in range(n_columns):
        c = i // inner
        factors[i] = float_of(<uint32_t> (127 - grids[c].exponent) << 23)
        firsts[i] = grids[c].first
        tables[i] = <uint16_t> (c - (i & ~<int64_t> (SLOTS_TOGETHER - 1)) // inner) << TABLE_SHIFT
    while row < n_rows:
        n = min(MOST_SLOTS // stride, n_rows - row)
        for i in range(n):
            x = loaded(values, dtype, (row + i) * width, n_columns, staged)
            largest = max(largest, slots_of_row(x, n_columns, factors, firsts, tables, into.slots + i * stride))
        if largest >= <uint32_t> INFINITE:
            return -1
        row += n
        if n_columns == width:  # whole rows are prefetched as they lie
            distance = SLOTS_TOGETHER * itemsize
            step = n * itemsize
        c = 0
        while c < n_columns:
            together = min(<int64_t> SLOTS_TOGETHER, n_columns - c)
            ahead = values + row * width * itemsize + c * step
            bins = c // inner * N_BINS
            if into.tables != NULL:
                count_slots(into.tables + bins, into.slots + c, n, stride, together, ahead, distance)
            elif into.counts != NULL:
                count_slots(into.counts + bins, into.slots + c, n, stride, together, ahead, distance)
            else:
                count_slots(into.wide_counts + bins, into.slots + c, n, stride, together, ahead, distance)
            c += together
    return 0
