# scaled_codes.pxi: the loop over the rectangles of a matrix that share a scale.
from libc.stdint cimport int64_t, uint8_t, uint64_t

from quantcore._kernels.common.floats cimport FLOAT32, TILE, size_of, store_tile
from quantcore._kernels.passes.scaled_codes cimport (
    FloatPair,
    is_short,
    look_up_nibbles,
    may_be_ties,
    scale_run,
    scale_run_to_odd,
    widen_bytes,
)
from quantcore._kernels.table cimport ScaledCodes


cdef inline void make_pairs(const float* table, uint64_t* pairs) noexcept nogil:
    cdef FloatPair pair
    cdef int code
    for code in range(256):
        pair.values[0] = table[code & 15]
        pair.values[1] = table[code >> 4]
        pairs[code] = pair.bits


cdef inline bint scale_tile(
    const ScaledCodes* coded, int64_t first, const float* x, int64_t n, float* y, bint to_odd
) noexcept nogil:
    """Multiply n values, from element `first` on, by their scales; whether all products are exact in float32."""
    cdef int64_t row = first // coded.columns, column = first % coded.columns, done = 0, scale_row, run, block, left
    cdef const double* scales
    cdef double scale
    cdef bint is_exact = True
    while done < n:
        scale_row = row // coded.rows * coded.scale_rows + row % coded.rows // coded.row_block
        scales = coded.scales + (scale_row - coded.first_scale_row) * coded.scale_columns
        block = column // coded.column_block
        left = coded.column_block - column % coded.column_block
        while done < n and column < coded.columns:
            run = min(min(left, coded.columns - column), n - done)
            scale = scales[block]
            if to_odd:
                scale_run_to_odd(x + done, run, scale, y + done)
            else:
                scale_run(x + done, run, scale, y + done)
                is_exact = is_exact and is_short(scale)
            done += run
            column += run
            block += 1
            left = coded.column_block
        row += 1
        column = 0
    return is_exact


cdef void codes_dequantize(
    const ScaledCodes* coded, const uint8_t* codes, int64_t first, int64_t n, uint8_t* values, int dtype
) noexcept nogil:
    cdef uint64_t pairs[256]
    cdef float looked_up[TILE]
    cdef float staged[TILE]
    cdef float* y
    cdef int64_t start = 0, count
    if coded.bits == 4:
        make_pairs(coded.table, pairs)
    while start < n:
        count = min(<int64_t> TILE, n - start)
        if coded.bits == 4:
            # A last half of a byte is looked up as a whole one; TILE is even, so there is room for it.
            look_up_nibbles(codes + start // 2, count + (count & 1), pairs, looked_up)
        else:
            widen_bytes(codes + start, count, coded.widening, coded.table, looked_up)
        y = <float*> values + start if dtype == FLOAT32 else staged
        if not scale_tile(coded, first + start, looked_up, count, y, False) and dtype != FLOAT32:
            if may_be_ties(staged, count, dtype):
                scale_tile(coded, first + start, looked_up, count, staged, True)
        if dtype != FLOAT32:
            store_tile(staged, count, dtype, values + start * size_of(dtype))
        start += count
