# affine.pxi: extremes and affine codes over an array's groups (runs that share a scale) or rows (each column has its
# own), piece by piece (walks.pxd): a piece of another type than float32 is converted in L1. While a part of a piece is
# processed, the next data are prefetched, for reading and for writing.
from libc.stdint cimport INT32_MAX, INT32_MIN, int32_t, int64_t, uint8_t, uint32_t

from quantcore._kernels.passes.affine cimport (
    dequantize_row,
    dequantize_run,
    extremes_of_four_rows,
    extremes_of_row,
    extremes_of_run,
    extremes_of_short_run,
    lower_and_raise,
    quantize_row,
    quantize_run,
)
from quantcore._kernels.common.bits cimport INFINITE
from quantcore._kernels.common.floats cimport TILE, keep, loaded, place, size_of
from quantcore._kernels.common.memory cimport PART, prefetch_run
from quantcore._kernels.table cimport CodingRows, GroupLayout
from quantcore._kernels.common.walks cimport COLUMNS, columns_together, walk_columns, walk_groups

cdef enum:
    ROWS = 4  # rows of columns whose extremes are taken together
    SHORTEST = 32  # for shorter runs, the overhead takes longer than memory

ctypedef struct ExtremesJob:
    const uint8_t* values
    int dtype
    int32_t* lowest
    int32_t* highest

ctypedef struct QuantizeJob:
    bint in_columns
    const uint8_t* values
    int dtype
    const CodingRows* rows
    uint8_t* out

ctypedef struct DequantizeJob:
    bint in_columns
    const uint8_t* codes
    bint is_signed
    const CodingRows* rows
    uint8_t* values
    int dtype

# The extremes of the bits of each column (see lower_and_raise).
cdef struct ColumnExtremes:
    int32_t least[COLUMNS]
    int32_t most[COLUMNS]
    uint32_t furthest[COLUMNS]


cdef bint piece_extremes(
    const void* job, int64_t at, int64_t n, int64_t i, int64_t slot, int64_t ahead
) noexcept nogil:
    cdef float staged[TILE]
    cdef const ExtremesJob* p = <const ExtremesJob*> job
    cdef const float* x = loaded(p.values, p.dtype, at, n, staged)
    cdef int64_t done = 0, part, itemsize = size_of(p.dtype)
    while done < n:
        part = min(2 * <int64_t> PART, n - done)
        if part > SHORTEST:
            prefetch_run(p.values + (ahead + done) * itemsize, part * itemsize)
        if part < PART:
            extremes_of_short_run(x + done, part, p.lowest + slot, p.highest + slot)
        else:
            extremes_of_run(x + done, part, p.lowest + slot, p.highest + slot)
        done += part
    return True


cdef bint piece_quantize(
    const void* job, int64_t at, int64_t n, int64_t i, int64_t slot, int64_t ahead
) noexcept nogil:
    cdef float staged[TILE]
    cdef const QuantizeJob* p = <const QuantizeJob*> job
    cdef const CodingRows* rows = p.rows
    cdef const float* x = loaded(p.values, p.dtype, at, n, staged)
    cdef uint32_t largest = 0, found
    cdef int64_t done = 0, part, c, itemsize = size_of(p.dtype)
    while done < n:
        part = min(<int64_t> PART, n - done)
        prefetch_run(p.values + (ahead + done) * itemsize, part * itemsize)
        prefetch_run(p.out + ahead + done, part)
        if p.in_columns:
            c = i + done
            if rows.offsets != NULL:  # then all zero points are 0
                found = quantize_row(
                    x + done, part, True, True, rows.offsets + c, rows.inverses + c, rows.zero_points, rows.lows,
                    rows.highs, p.out + at + done,
                )
            elif rows.are_limits_shared:
                found = quantize_row(
                    x + done, part, False, True, NULL, rows.inverses + c, rows.zero_points, rows.lows, rows.highs,
                    p.out + at + done,
                )
            else:
                found = quantize_row(
                    x + done, part, False, False, NULL, rows.inverses + c, rows.zero_points + c, rows.lows + c,
                    rows.highs + c, p.out + at + done,
                )
        elif rows.offsets != NULL:
            found = quantize_run(
                x + done, part, True, rows.offsets[i], rows.inverses[i], rows.zero_points[i], rows.lows[i],
                rows.highs[i], p.out + at + done,
            )
        else:
            found = quantize_run(
                x + done, part, False, 0, rows.inverses[i], rows.zero_points[i], rows.lows[i], rows.highs[i],
                p.out + at + done,
            )
        largest = max(largest, found)
        done += part
    return largest < <uint32_t> INFINITE


cdef bint piece_dequantize(
    const void* job, int64_t at, int64_t n, int64_t i, int64_t slot, int64_t ahead
) noexcept nogil:
    cdef float staged[TILE]
    cdef const DequantizeJob* p = <const DequantizeJob*> job
    cdef const CodingRows* rows = p.rows
    cdef float* y = place(p.values, p.dtype, at, staged)
    cdef int64_t done = 0, part, c, itemsize = size_of(p.dtype)
    while done < n:
        part = min(<int64_t> PART, n - done)
        prefetch_run(p.values + (ahead + done) * itemsize, part * itemsize)
        if p.in_columns:
            c = i + done
            prefetch_run(p.codes + ahead + done, part)
            dequantize_row(
                p.codes + at + done, part, p.is_signed, NULL if rows.offsets == NULL else rows.offsets + c,
                rows.scales + c, rows.zero_points + c, y + done,
            )
        else:
            dequantize_run(
                p.codes + at + done, part, p.is_signed, rows.offsets != NULL,
                0 if rows.offsets == NULL else rows.offsets[i], rows.scales[i], rows.zero_points[i], y + done,
            )
        done += part
    keep(y, n, p.values, p.dtype, at)
    return True


cdef void groups_extremes(
    const uint8_t* values, int dtype, const GroupLayout* layout, int64_t first, int64_t n, int32_t* lowest,
    int32_t* highest,
) noexcept nogil:
    cdef ExtremesJob job = ExtremesJob(values, dtype, lowest, highest)
    cdef int64_t group
    for group in range(first, first + n):
        lowest[group] = INT32_MAX
        highest[group] = INT32_MIN
    walk_groups(&job, layout, 1, first, n, piece_extremes)


cdef void extremes_of_rows(
    const uint8_t* values, int dtype, int64_t width, int64_t n_rows, int64_t n, ColumnExtremes* found
) noexcept nogil:
    """Extremes of n columns of up to ROWS rows, of which `values` is the first column of the first row."""
    cdef float staged[ROWS * COLUMNS]
    cdef const float* row[ROWS]
    cdef int64_t i, done = 0, part, itemsize = size_of(dtype)
    cdef int64_t distance = ROWS * width * itemsize
    for i in range(n_rows):
        row[i] = loaded(values, dtype, i * width, n, staged + i * COLUMNS)
    while done < n:
        part = min(<int64_t> PART // ROWS, n - done)
        for i in range(n_rows):
            prefetch_run(values + (i * width + done) * itemsize + distance, part * itemsize)
        if n_rows == ROWS:
            extremes_of_four_rows(
                row[0] + done, row[1] + done, row[2] + done, row[3] + done, part, found.least + done,
                found.most + done, found.furthest + done,
            )
        else:
            for i in range(n_rows):
                extremes_of_row(row[i] + done, part, found.least + done, found.most + done, found.furthest + done)
        done += part


cdef void columns_extremes(
    const uint8_t* values, int dtype, int64_t n_rows, int64_t width, int32_t* lowest, int32_t* highest
) noexcept nogil:
    cdef ColumnExtremes found
    cdef int64_t column = 0, count, row, j, together = columns_together(width)
    while column < width:
        count = min(together, width - column)
        for j in range(count):
            found.least[j] = INT32_MAX
            found.most[j] = INT32_MIN
            found.furthest[j] = 0
        row = 0
        while row < n_rows:
            extremes_of_rows(
                values + (row * width + column) * size_of(dtype), dtype, width, min(<int64_t> ROWS, n_rows - row),
                count, &found,
            )
            row += ROWS
        for j in range(count):
            lowest[column + j] = INT32_MAX
            highest[column + j] = INT32_MIN
            lower_and_raise(
                found.least[j], found.most[j], found.furthest[j], lowest + column + j, highest + column + j
            )
        column += count


cdef int64_t groups_quantize(
    const uint8_t* values, int dtype, const GroupLayout* layout, int64_t first, int64_t n, const CodingRows* rows,
    uint8_t* out,
) noexcept nogil:
    cdef QuantizeJob job = QuantizeJob(False, values, dtype, rows, out)
    return walk_groups(&job, layout, rows.n_scales, first, n, piece_quantize)


cdef int64_t columns_quantize(
    const uint8_t* values, int dtype, int64_t n_rows, int64_t width, const CodingRows* rows, uint8_t* out
) noexcept nogil:
    cdef QuantizeJob job = QuantizeJob(True, values, dtype, rows, out)
    return walk_columns(&job, width, 0, n_rows, piece_quantize)


cdef void groups_dequantize(
    const uint8_t* codes, int is_signed, const GroupLayout* layout, int64_t first, int64_t n, const CodingRows* rows,
    uint8_t* values, int dtype,
) noexcept nogil:
    cdef DequantizeJob job = DequantizeJob(False, codes, is_signed, rows, values, dtype)
    walk_groups(&job, layout, rows.n_scales, first, n, piece_dequantize)


cdef void columns_dequantize(
    const uint8_t* codes, int is_signed, int64_t n_rows, int64_t width, const CodingRows* rows, uint8_t* values,
    int dtype,
) noexcept nogil:
    cdef DequantizeJob job = DequantizeJob(True, codes, is_signed, rows, values, dtype)
    walk_columns(&job, width, 0, n_rows, piece_dequantize)
