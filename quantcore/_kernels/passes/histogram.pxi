# histogram.pxi: histograms of channels. Values lie as outer x channels x inner: long runs of a channel are counted one
# after the other; where they are short, the array is one of rows with columns.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from quantcore._kernels.common.bits cimport INFINITE, float_of
from quantcore._kernels.common.floats cimport TILE, loaded, size_of
from quantcore._kernels.passes.histogram cimport (
    LONG_COLUMN,
    MOST_IN_16_BITS,
    N_BINS,
    TABLES_TOGETHER,
    Grid,
    Histogram,
    add_slots,
    add_tables,
    count_tile,
    slots_of,
)
from quantcore._kernels.table cimport SLOT_COLUMNS, SLOT_ROWS


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


cdef void add_all(
    uint16_t* tables, int64_t n_channels, uint32_t* counts, uint64_t* wide_counts
) noexcept nogil:
    """Add the tables of all channels to the counts that are not NULL."""
    if counts != NULL:
        add_tables(tables, n_channels * N_BINS, counts)
    else:
        add_tables(tables, n_channels * N_BINS, wide_counts)


cdef int64_t count_columns(
    const uint8_t* values, int dtype, int64_t n_rows, int64_t width, int64_t n_channels, int64_t inner,
    const Grid* grids, uint32_t* counts, uint64_t* wide_counts, uint16_t* slots,
) noexcept nogil:
    """Count `inner` neighbouring columns for each of n_channels channels, of which `values` is the first column.

    First the slots of some rows, then table after table: rows are read as they lie, and few tables are in use. In long
    columns they are tables of 16 bits, of which TABLES_TOGETHER fit into L1, and which are added up before one is full.
    """
    cdef float factors[SLOT_COLUMNS]
    cdef int32_t firsts[SLOT_COLUMNS]
    cdef float staged[SLOT_COLUMNS]
    cdef const float* x
    cdef uint16_t* tables = slots + SLOT_ROWS * SLOT_COLUMNS
    cdef const uint16_t* of_channel
    cdef const uint8_t *next_rows, *ahead
    cdef int64_t n_columns = n_channels * inner, row = 0, n, i, c, together, most = SLOT_ROWS, counted = 0
    cdef int64_t itemsize = size_of(dtype), distance = width * itemsize
    cdef uint32_t largest = 0
    cdef bint is_long = n_rows * inner >= LONG_COLUMN
    if n_columns == width:  # whole rows are prefetched as they lie
        distance = TABLES_TOGETHER * itemsize
    if is_long:
        memset(tables, 0, n_channels * N_BINS * sizeof(uint16_t))
        most = min(most, MOST_IN_16_BITS // inner)
    for i in range(n_columns):
        factors[i] = float_of(<uint32_t> (127 - grids[i // inner].exponent) << 23)
        firsts[i] = grids[i // inner].first
    while row < n_rows:
        n = min(most, n_rows - row)
        for i in range(n):
            x = loaded(values, dtype, (row + i) * width, n_columns, staged)
            largest = max(largest, slots_of(x, n_columns, factors, firsts, slots + i * n_columns))
        if largest >= <uint32_t> INFINITE:
            return -1
        if is_long and counted + n * inner > MOST_IN_16_BITS:
            add_all(tables, n_channels, counts, wide_counts)
            counted = 0
        counted += n * inner
        next_rows = values + (row + n) * width * itemsize
        c = 0
        while c < n_channels:
            together = min(<int64_t> TABLES_TOGETHER, n_channels - c)
            of_channel = slots + c * inner
            ahead = next_rows + c * inner * (itemsize if distance == width * itemsize else n * itemsize)
            if is_long:
                add_slots(tables + c * N_BINS, of_channel, n, n_columns, together, inner, ahead, distance)
            elif counts != NULL:
                add_slots(counts + c * N_BINS, of_channel, n, n_columns, together, inner, ahead, distance)
            else:
                add_slots(wide_counts + c * N_BINS, of_channel, n, n_columns, together, inner, ahead, distance)
            c += together
        row += n
    if is_long:
        add_all(tables, n_channels, counts, wide_counts)
    return 0
