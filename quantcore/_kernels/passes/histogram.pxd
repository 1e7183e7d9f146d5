# histogram.pxd: counts on a dyadic grid. A bin is 2**exponent wide; x lies in bin m = floor(|x| / 2**exponent) if it is
# >= 0, else in bin -1 - m. The exponent is the smallest for which the values span at most N_BINS bins (and at least
# that of the largest magnitude minus 23, so that an index is exact in float32). Doubling the width joins bins 2i and 2i
# + 1, so the counts are order-independent: they depend on the values alone.
from libc.stdint cimport INT32_MAX, INT32_MIN, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from quantcore._kernels.passes.affine cimport key_of
from quantcore._kernels.common.bits cimport INFINITE, MAGNITUDE, bits_of, float_of
from quantcore._kernels.common.floats cimport TILE
from quantcore._kernels.common.memory cimport __builtin_prefetch

cdef enum:
    N_BINS = 4096
    N_TABLES = 4  # counted into in turn, so that consecutive equal values do not wait for each other
    SMALLEST_EXPONENT = -126
    SLOTS_TOGETHER = 8  # that are counted in turn
    TABLE_SHIFT = 12  # N_BINS == 1 << TABLE_SHIFT: a slot's bits above these are the number of its table
    MOST_IN_16_BITS = 65535
    MOST_COUNTED = 1 << 30  # values in one Histogram, so that no count overflows

ctypedef fused Count:
    uint32_t
    uint64_t

ctypedef fused Tally:
    uint16_t
    uint32_t
    uint64_t

# A row of Python's arrays: the keys (affine.pxd) of the extremes, INT32_MAX and INT32_MIN if there are no values yet.
ctypedef struct Grid:
    int32_t exponent
    int32_t first  # the bin of counts[0]
    int32_t lowest
    int32_t highest

ctypedef struct Histogram:
    Grid grid
    int n_tables  # in use: several pay off for many values
    uint32_t tables[N_TABLES][N_BINS]


cdef inline void clear_grid(Grid* grid) noexcept nogil:
    grid.exponent = SMALLEST_EXPONENT
    grid.first = -(N_BINS // 2)
    grid.lowest = INT32_MAX
    grid.highest = INT32_MIN


cdef inline void clear(Histogram* histogram, int n_tables) noexcept nogil:
    clear_grid(&histogram.grid)
    histogram.n_tables = n_tables
    memset(histogram.tables, 0, n_tables * sizeof(histogram.tables[0]))


cdef inline int32_t bin_of(int32_t key, int32_t exponent) noexcept nogil:
    """The bin of the value with this key."""
    cdef float x = float_of(<uint32_t> (key ^ ((key >> 31) & MAGNITUDE)))
    cdef int32_t m = <int32_t> (float_of(bits_of(x) & MAGNITUDE) * float_of(<uint32_t> (127 - exponent) << 23))
    return -1 - m if x < 0 else m


cdef inline Grid grid_of(int32_t lowest, int32_t highest) noexcept nogil:
    """The grid for values between two keys, with room on both sides."""
    cdef Grid grid
    cdef uint32_t magnitude = max(<uint32_t> (lowest ^ (lowest >> 31)), <uint32_t> (highest ^ (highest >> 31)))
    cdef int32_t used
    grid.lowest = lowest
    grid.highest = highest
    grid.exponent = max(<int32_t> SMALLEST_EXPONENT, <int32_t> (magnitude >> 23) - 127 - 23)
    while bin_of(highest, grid.exponent) - bin_of(lowest, grid.exponent) >= N_BINS:
        grid.exponent += 1
    used = bin_of(highest, grid.exponent) - bin_of(lowest, grid.exponent) + 1
    grid.first = bin_of(lowest, grid.exponent) - (N_BINS - used) // 2
    return grid


cdef inline bint is_empty(const Grid* grid) noexcept nogil:
    return grid.lowest > grid.highest


cdef inline int32_t first_used(const Grid* grid) noexcept nogil:
    """The slot of the smallest value."""
    return bin_of(grid.lowest, grid.exponent) - grid.first


cdef inline int32_t last_used(const Grid* grid) noexcept nogil:
    """The slot of the largest value."""
    return bin_of(grid.highest, grid.exponent) - grid.first


cdef inline bint is_wider(const Grid* grid, int32_t lowest, int32_t highest) noexcept nogil:
    return lowest < grid.lowest or highest > grid.highest


cdef inline Grid widened(const Grid* grid, int32_t lowest, int32_t highest) noexcept nogil:
    """Make room in the grid for values between two keys; the grid is kept if it has room."""
    cdef Grid wide, moved
    if not is_wider(grid, lowest, highest):
        return grid[0]
    wide = grid_of(min(lowest, grid.lowest), max(highest, grid.highest))
    moved = wide
    moved.first = grid.first
    if wide.exponent == grid.exponent and first_used(&moved) >= 0 and last_used(&moved) < N_BINS:
        return moved
    return wide


cdef inline void add_counts(
    const Grid* source, const uint64_t* counts, const Grid* target, Count* sums
) noexcept nogil:
    """Add counts (only slots in use are read) to those of a grid whose range contains the source's values."""
    # An index has less than 32 bits, so a shift by 31 gives what larger shifts, which C leaves undefined, should give.
    cdef int32_t shift = min(31, target.exponent - source.exponent), offset = source.first - target.first, i
    if is_empty(source):
        return
    if shift:
        for i in range(first_used(source), last_used(source) + 1):
            sums[((source.first + i) >> shift) - target.first] += <Count> counts[i]
    else:
        for i in range(first_used(source), last_used(source) + 1):
            sums[offset + i] += <Count> counts[i]


cdef inline void move(Grid* grid, const Grid* target, Count* counts) noexcept nogil:
    """Convert counts to another grid."""
    cdef uint64_t old[N_BINS]
    cdef int32_t i
    if not is_empty(grid) and (target.exponent != grid.exponent or target.first != grid.first):
        for i in range(N_BINS):
            old[i] = counts[i]
            counts[i] = 0
        add_counts(grid, old, target, counts)
    grid[0] = target[0]


cdef inline void merge(
    Grid* grid, Count* counts, const Grid* source, const uint64_t* source_counts
) noexcept nogil:
    cdef Grid wide
    if is_empty(source):
        return
    wide = widened(grid, source.lowest, source.highest)
    move(grid, &wide, counts)
    add_counts(source, source_counts, grid, counts)


cdef inline void fold(const Histogram* histogram, uint64_t* counts) noexcept nogil:
    """Add up the counts of all tables, for the slots in use."""
    cdef int32_t i, t, start, stop
    if is_empty(&histogram.grid):
        return
    start = first_used(&histogram.grid)
    stop = last_used(&histogram.grid) + 1
    for i in range(start, stop):
        counts[i] = histogram.tables[0][i]
    for t in range(1, histogram.n_tables):
        for i in range(start, stop):
            counts[i] += histogram.tables[t][i]


cdef inline void widen(Histogram* histogram, int32_t lowest, int32_t highest) noexcept nogil:
    cdef Grid wide = widened(&histogram.grid, lowest, highest), old = histogram.grid
    cdef uint64_t counts[N_BINS]
    if not is_empty(&old) and (wide.exponent != old.exponent or wide.first != old.first):
        fold(histogram, counts)
        memset(histogram.tables, 0, histogram.n_tables * sizeof(histogram.tables[0]))
        add_counts(&old, counts, &wide, histogram.tables[0])
    histogram.grid = wide


cdef inline void bins_of(
    const float* x, int64_t n, const Grid* grid, uint32_t* bins, int32_t* lowest, int32_t* highest
) noexcept nogil:
    """The slot of each value in the grid's table, and the keys of the extremes.

    If the grid does not contain the extremes, the slots must not be used. They stay within the table even if another
    thread writes to x meanwhile.
    """
    cdef float factor = float_of(<uint32_t> (127 - grid.exponent) << 23), m
    cdef int32_t low = INT32_MAX, high = INT32_MIN, first = grid.first, key
    cdef int64_t j
    for j in range(n):
        key = key_of(x[j])
        low = min(low, key)
        high = max(high, key)
        m = float_of(bits_of(x[j]) & MAGNITUDE) * factor
        m = m if m < <float> 16777216 else <float> 16777216
        bins[j] = min(
            <uint32_t> ((<int32_t> m ^ -<int32_t> (x[j] < <float> 0)) - first), <uint32_t> (N_BINS - 1)
        )
    lowest[0] = low
    highest[0] = high


cdef inline int64_t count_tile(
    Histogram* histogram, const float* x, int64_t n, const uint8_t* ahead, int64_t itemsize
) noexcept nogil:
    """Count up to TILE values. Returns 0, or -1 if one is not finite; the whole histogram is invalid then.

    `ahead`: the next values, which are prefetched while these are counted in L1.
    """
    cdef uint32_t bins[TILE]
    cdef int32_t lowest, highest
    cdef int64_t j, start
    cdef uint32_t *t0 = histogram.tables[0]
    cdef uint32_t *t1 = histogram.tables[1 % histogram.n_tables]
    cdef uint32_t *t2 = histogram.tables[2 % histogram.n_tables]
    cdef uint32_t *t3 = histogram.tables[3 % histogram.n_tables]
    bins_of(x, n, &histogram.grid, bins, &lowest, &highest)
    if lowest <= ~<int32_t> INFINITE or highest >= <int32_t> INFINITE:
        return -1
    if is_wider(&histogram.grid, lowest, highest):
        widen(histogram, lowest, highest)
        bins_of(x, n, &histogram.grid, bins, &lowest, &highest)
    for start in range(0, n & ~<int64_t> 15, 16):
        __builtin_prefetch(ahead + start * itemsize)
        for j in range(start, start + 16, 4):
            t0[bins[j]] += 1
            t1[bins[j + 1]] += 1
            t2[bins[j + 2]] += 1
            t3[bins[j + 3]] += 1
    for j in range(n & ~<int64_t> 15, n):
        t0[bins[j]] += 1
    return 0


cdef inline uint32_t slots_of_row(
    const float* x, int64_t n, const float* factors, const int32_t* firsts, const uint16_t* tables, uint16_t* slots
) noexcept nogil:
    """The slot of each value of a row in the table of its column, whose grid contains it.

    Returns the largest magnitude's bits. The slots stay within the tables whatever the values are.
    """
    cdef uint32_t largest = 0, magnitude
    cdef float m
    cdef int64_t j
    for j in range(n):
        magnitude = bits_of(x[j]) & MAGNITUDE
        largest = max(largest, magnitude)
        m = float_of(magnitude) * factors[j]
        m = m if m < <float> 16777216 else <float> 16777216
        slots[j] = tables[j] | <uint16_t> min(
            <uint32_t> ((<int32_t> m ^ -<int32_t> (x[j] < <float> 0)) - firsts[j]), <uint32_t> (N_BINS - 1)
        )
    return largest


cdef inline void count_slots(
    Tally* tables, const uint16_t* slots, int64_t n_rows, int64_t stride, int64_t n, const uint8_t* ahead,
    int64_t distance,
) noexcept nogil:
    """Count up to SLOTS_TOGETHER slots of each row; `stride`, a multiple of 4, is that of the rows.

    `ahead`: what comes next, which is prefetched meanwhile, in steps of `distance` bytes.
    """
    cdef uint64_t four
    cdef int64_t _row, i
    if n == SLOTS_TOGETHER:
        for _row in range(n_rows):
            __builtin_prefetch(ahead)
            for i in range(0, SLOTS_TOGETHER, 4):
                four = (<const uint64_t*> (slots + i))[0]  # one instruction loads them
                tables[four & 0xFFFF] += 1
                tables[(four >> 16) & 0xFFFF] += 1
                tables[(four >> 32) & 0xFFFF] += 1
                tables[four >> 48] += 1
            slots += stride
            ahead += distance
        return
    for _row in range(n_rows):
        for i in range(n):
            tables[slots[i]] += 1
        slots += stride


cdef inline void add_table(Tally* table, int64_t n, Count* counts) noexcept nogil:
    """Add n counts of a table to those of a row, and clear them."""
    cdef int64_t i
    for i in range(n):
        counts[i] += table[i]
        table[i] = 0
