# walks.pxd: the order in which elementwise kernels process an array whose elements share scales.
# Groups are runs that share a scale. They lie in rows of `cols` elements; each row begins a new group, and the last one
# of a row may be short. Columns: rows of `width` elements with one scale per column.
from libc.stdint cimport int64_t

from quantcore._kernels.common.floats cimport TILE
from quantcore._kernels.table cimport GroupLayout

cdef enum:
    COLUMNS = 1024  # columns whose scales or extremes stay in L1 while the rows are processed
    EVEN = 64  # rows are cut at multiples of this, so that every cut is a whole number of registers

# Processes up to TILE elements from `at`, in a group (`i`: its scale; `slot`: the group), or in a row (`i` and `slot`:
# the first column). `ahead` may be prefetched meanwhile. Returns whether the elements are valid.
ctypedef bint (*Piece)(const void* job, int64_t at, int64_t n, int64_t i, int64_t slot, int64_t ahead) noexcept nogil


cdef inline int64_t walk_groups(
    const void* job, const GroupLayout* layout, int64_t n_scales, int64_t first, int64_t n, Piece piece
) noexcept nogil:
    """Process groups from `first`; returns the first invalid one, or -1."""
    # Counters instead of quotients: a division takes as long as processing a group of 32.
    cdef int64_t row = first // layout.per_row * layout.cols
    cdef int64_t offset = first % layout.per_row * layout.size
    cdef int64_t i = first // layout.sharing % n_scales
    cdef int64_t left = layout.sharing - first % layout.sharing
    cdef int64_t group, start, stop
    for group in range(first, first + n):
        start = row + offset
        stop = row + min(offset + layout.size, layout.cols)
        while start < stop:
            if not piece(job, start, min(<int64_t> TILE, stop - start), i, group, start + TILE):
                return group
            start += TILE
        offset += layout.size
        if offset >= layout.cols:
            offset = 0
            row += layout.cols
        left -= 1
        if left == 0:
            left = layout.sharing
            i = i + 1 if i + 1 < n_scales else 0
    return -1


cdef inline int64_t columns_together(int64_t width) noexcept nogil:
    """The width of the parts that a row is cut into: at most COLUMNS, and nearly equal."""
    cdef int64_t n_parts = (width + COLUMNS - 1) // COLUMNS
    return ((width + n_parts - 1) // n_parts + EVEN - 1) // EVEN * EVEN


cdef inline int64_t walk_columns(
    const void* job, int64_t width, int64_t first_row, int64_t n_rows, Piece piece
) noexcept nogil:
    """Process rows from `first_row`, part by part of their columns; returns an invalid row, or -1."""
    cdef int64_t column = 0, count, row, at, together = columns_together(width)
    # Whole rows are contiguous. For a part of the columns, the next data are the same columns of the next row.
    cdef int64_t distance = width if width > COLUMNS else <int64_t> TILE
    while column < width:
        count = min(together, width - column)
        for row in range(first_row, first_row + n_rows):
            at = row * width + column
            if not piece(job, at, count, column, column, at + distance):
                return row
        column += count
    return -1
