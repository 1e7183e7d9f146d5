# affine.pxi: the loops of extremes and affine codes over an array's groups (runs that share a scale) or rows (each
# column has its own); see walks.pxd.
from libc.stdint cimport INT32_MAX, INT32_MIN, int32_t, int64_t, uint8_t, uint32_t

from quantcore._kernels.affine cimport (
    dequantize_row,
    dequantize_run,
    extremes_of_row,
    extremes_of_run,
    quantize_row,
    quantize_run,
)
from quantcore._kernels.bits cimport INFINITE
from quantcore._kernels.floats cimport FLOAT32, TILE, load_tile, size_of, store_tile
from quantcore._kernels.table cimport GroupLayout
from quantcore._kernels.walks cimport COLUMNS, group_count, group_start

cdef void groups_extremes(
    const uint8_t* values, int dtype, const GroupLayout* layout, int64_t first, int64_t n, int32_t* lowest,
    int32_t* highest,
) noexcept nogil:
    cdef float staged[TILE]
    cdef int64_t group, start, count, done, part, itemsize = size_of(dtype)
    for group in range(first, first + n):
        start = group_start(layout, group)
        count = group_count(layout, group)
        lowest[group] = INT32_MAX
        highest[group] = INT32_MIN
        if dtype == FLOAT32:
            extremes_of_run(<const float*> values + start, count, &lowest[group], &highest[group])
            continue
        done = 0
        while done < count:
            part = min(<int64_t> TILE, count - done)
            load_tile(values + (start + done) * itemsize, dtype, part, staged)
            extremes_of_run(staged, part, &lowest[group], &highest[group])
            done += part


cdef void columns_extremes(
    const uint8_t* values, int dtype, int64_t n_rows, int64_t width, int32_t* lowest, int32_t* highest
) noexcept nogil:
    cdef float staged[COLUMNS]
    cdef const float* x
    cdef int64_t column = 0, part, row, itemsize = size_of(dtype)
    while column < width:
        part = min(<int64_t> COLUMNS, width - column)
        for row in range(part):
            lowest[column + row] = INT32_MAX
            highest[column + row] = INT32_MIN
        for row in range(n_rows):
            if dtype == FLOAT32:
                x = <const float*> values + row * width + column
            else:
                load_tile(values + (row * width + column) * itemsize, dtype, part, staged)
                x = staged
            extremes_of_row(x, part, lowest + column, highest + column)
        column += part


cdef int64_t groups_quantize(
    const uint8_t* values, int dtype, const GroupLayout* layout, int64_t first, int64_t n, const float* inverses,
    const int32_t* zero_points, int64_t n_scales, int32_t qmin, int32_t qmax, uint8_t* out,
) noexcept nogil:
    cdef float staged[TILE]
    cdef const float* x
    cdef int64_t group, start, count, done, part, i, itemsize = size_of(dtype)
    for group in range(first, first + n):
        start = group_start(layout, group)
        count = group_count(layout, group)
        i = group // layout.sharing % n_scales
        done = 0
        while done < count:
            part = min(<int64_t> TILE, count - done)
            if dtype == FLOAT32:
                x = <const float*> values + start + done
            else:
                load_tile(values + (start + done) * itemsize, dtype, part, staged)
                x = staged
            if quantize_run(
                x, part, inverses[i], zero_points[i], <float> (qmin - zero_points[i]), <float> (qmax - zero_points[i]),
                out + start + done,
            ) >= <uint32_t> INFINITE:
                return group
            done += part
    return -1


cdef int64_t columns_quantize(
    const uint8_t* values, int dtype, int64_t n_rows, int64_t width, const float* inverses, const int32_t* zero_points,
    int32_t qmin, int32_t qmax, uint8_t* out,
) noexcept nogil:
    cdef float staged[TILE]
    cdef const float* x
    cdef int64_t column, part, row, at, itemsize = size_of(dtype)
    for row in range(n_rows):
        column = 0
        while column < width:
            part = min(<int64_t> TILE, width - column)
            at = row * width + column
            if dtype == FLOAT32:
                x = <const float*> values + at
            else:
                load_tile(values + at * itemsize, dtype, part, staged)
                x = staged
            if quantize_row(
                x, part, inverses + column, zero_points + column, qmin, qmax, out + at
            ) >= <uint32_t> INFINITE:
                return row
            column += part
    return -1


cdef void groups_dequantize(
    const uint8_t* codes, int is_signed, const GroupLayout* layout, int64_t first, int64_t n, const float* scales,
    const int32_t* zero_points, int64_t n_scales, uint8_t* values, int dtype,
) noexcept nogil:
    cdef float staged[TILE]
    cdef float* y
    cdef int64_t group, start, count, done, part, i, itemsize = size_of(dtype)
    for group in range(first, first + n):
        start = group_start(layout, group)
        count = group_count(layout, group)
        i = group // layout.sharing % n_scales
        done = 0
        while done < count:
            part = min(<int64_t> TILE, count - done)
            y = <float*> values + start + done if dtype == FLOAT32 else staged
            dequantize_run(codes + start + done, part, is_signed, scales[i], zero_points[i], y)
            if dtype != FLOAT32:
                store_tile(staged, part, dtype, values + (start + done) * itemsize)
            done += part


cdef void columns_dequantize(
    const uint8_t* codes, int is_signed, int64_t n_rows, int64_t width, const float* scales, const int32_t* zero_points,
    uint8_t* values, int dtype,
) noexcept nogil:
    cdef float staged[TILE]
    cdef float* y
    cdef int64_t column, part, row, at, itemsize = size_of(dtype)
    for row in range(n_rows):
        column = 0
        while column < width:
            part = min(<int64_t> TILE, width - column)
            at = row * width + column
            y = <float*> values + at if dtype == FLOAT32 else staged
            dequantize_row(codes + at, part, is_signed, scales + column, zero_points + column, y)
            if dtype != FLOAT32:
                store_tile(staged, part, dtype, values + at * itemsize)
            column += part
