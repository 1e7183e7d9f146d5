# histogram.pxi: histograms of channels. Values lie as outer x channels x inner: long runs of a channel are counted one
# after the other; where they are short, the array is one of rows with columns.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from quantcore._kernels.common.bits cimport INFINITE, float_of
from quantcore._kernels.common.floats cimport TILE, loaded, size_of
from quantcore._kernels.passes.histogram cimport (
    N_BINS,
    TABLES_TOGETHER,
    Grid,
    Histogram,
    add_slots,
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


cdef int64_t count_columns(
    const uint8_t* values, int dtype, int64_t n_rows, int64_t width, int64_t n_channels, int64_t inner,
    const Grid* grids, uint32_t* counts, uint64_t* wide_counts, uint16_t* slots,
) noexcept nogil:
    """Count `inner` neighbouring columns for each of n_channels channels, of which `values` is the first column.

    First the slots of some rows, then table after table: rows are read as they lie, and few tables are in use.
    """
    cdef float factors[SLOT_COLUMNS]
    cdef int32_t firsts[SLOT_COLUMNS]
    cdef float staged[SLOT_COLUMNS]
    cdef const float* x
    cdef int64_t n_columns = n_channels * inner, row = 0, n, i, c, together
    cdef uint32_t largest = 0
    for i in range(n_columns):
        factors[i] = float_of(<uint32_t> (127 - grids[i // inner].exponent) << 23)
        firsts[i] = grids[i // inner].first
    while row < n_rows:
        n = min(<int64_t> SLOT_ROWS, n_rows - row)
        for i in range(n):
            x = loaded(values, dtype, (row + i) * width, n_columns, staged)
            largest = max(largest, slots_of(x, n_columns, factors, firsts, slots + i * n_columns))
        if largest >= <uint32_t> INFINITE:
            return -1
        c = 0
        while c < n_channels:
            together = min(<int64_t> TABLES_TOGETHER, n_channels - c)
            if counts != NULL:
                add_slots(counts + c * N_BINS, slots + c * inner, n, n_columns, together, inner)
            else:
                add_slots(wide_counts + c * N_BINS, slots + c * inner, n, n_columns, together, inner)
            c += together
        row += n
    return 0
