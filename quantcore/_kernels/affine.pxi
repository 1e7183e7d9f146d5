# affine.pxi: extremes and affine codes over an array's groups (runs that share a scale) or rows (each column has its
# own), piece by piece (walks.pxd): a piece of another type than float32 is converted in L1.
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
from quantcore._kernels.floats cimport TILE, size_of
from quantcore._kernels.scales cimport PART, prefetch_run
from quantcore._kernels.table cimport GroupLayout
from quantcore._kernels.walks cimport keep, loaded, place, walk_columns, walk_groups

ctypedef struct ExtremesJob:
    bint in_columns
    const uint8_t* values
    int dtype
    int32_t* lowest
    int32_t* highest

ctypedef struct QuantizeJob:
    bint in_columns
    const uint8_t* values
    int dtype
    const float* inverses
    const int32_t* zero_points
    int32_t qmin
    int32_t qmax
    uint8_t* out

ctypedef struct DequantizeJob:
    bint in_columns
    const uint8_t* codes
    bint is_signed
    const float* scales
    const int32_t* zero_points
    uint8_t* values
    int dtype


cdef bint piece_extremes(const void* job, int64_t at, int64_t n, int64_t i, int64_t slot) noexcept nogil:
    cdef float staged[TILE]
    cdef const ExtremesJob* p = <const ExtremesJob*> job
    cdef const float* x = loaded(p.values, p.dtype, at, n, staged)
    if p.in_columns:
        extremes_of_row(x, n, p.lowest + slot, p.highest + slot)
    else:
        extremes_of_run(x, n, p.lowest + slot, p.highest + slot)
    return True


cdef bint piece_quantize(const void* job, int64_t at, int64_t n, int64_t i, int64_t slot) noexcept nogil:
    cdef float staged[TILE]
    cdef const QuantizeJob* p = <const QuantizeJob*> job
    cdef const float* x = loaded(p.values, p.dtype, at, n, staged)
    cdef uint32_t largest = 0, found
    cdef int64_t done = 0, part, itemsize = size_of(p.dtype)
    while done < n:
        part = min(<int64_t> PART, n - done)
        prefetch_run(p.values + (at + done + TILE) * itemsize, part * itemsize)
        prefetch_run(p.out + at + done + TILE, part)
        if p.in_columns:
            found = quantize_row(
                x + done, part, p.inverses + i + done, p.zero_points + i + done, p.qmin, p.qmax, p.out + at + done
            )
        else:
            found = quantize_run(
                x + done, part, p.inverses[i], p.zero_points[i], <float> (p.qmin - p.zero_points[i]),
                <float> (p.qmax - p.zero_points[i]), p.out + at + done,
            )
        largest = max(largest, found)
        done += part
    return largest < <uint32_t> INFINITE


cdef bint piece_dequantize(const void* job, int64_t at, int64_t n, int64_t i, int64_t slot) noexcept nogil:
    cdef float staged[TILE]
    cdef const DequantizeJob* p = <const DequantizeJob*> job
    cdef float* y = place(p.values, p.dtype, at, staged)
    cdef int64_t done = 0, part, itemsize = size_of(p.dtype)
    while done < n:
        part = min(<int64_t> PART, n - done)
        prefetch_run(p.values + (at + done + TILE) * itemsize, part * itemsize)
        if p.in_columns:
            dequantize_row(
                p.codes + at + done, part, p.is_signed, p.scales + i + done, p.zero_points + i + done, y + done
            )
        else:
            dequantize_run(p.codes + at + done, part, p.is_signed, p.scales[i], p.zero_points[i], y + done)
        done += part
    keep(y, n, p.values, p.dtype, at)
    return True


cdef void groups_extremes(
    const uint8_t* values, int dtype, const GroupLayout* layout, int64_t first, int64_t n, int32_t* lowest,
    int32_t* highest,
) noexcept nogil:
    cdef ExtremesJob job = ExtremesJob(False, values, dtype, lowest, highest)
    cdef int64_t group
    for group in range(first, first + n):
        lowest[group] = INT32_MAX
        highest[group] = INT32_MIN
    walk_groups(&job, layout, 1, first, n, piece_extremes)


cdef void columns_extremes(
    const uint8_t* values, int dtype, int64_t n_rows, int64_t width, int32_t* lowest, int32_t* highest
) noexcept nogil:
    cdef ExtremesJob job = ExtremesJob(True, values, dtype, lowest, highest)
    cdef int64_t column
    for column in range(width):
        lowest[column] = INT32_MAX
        highest[column] = INT32_MIN
    walk_columns(&job, width, 0, n_rows, piece_extremes)


cdef int64_t groups_quantize(
    const uint8_t* values, int dtype, const GroupLayout* layout, int64_t first, int64_t n, const float* inverses,
    const int32_t* zero_points, int64_t n_scales, int32_t qmin, int32_t qmax, uint8_t* out,
) noexcept nogil:
    cdef QuantizeJob job = QuantizeJob(False, values, dtype, inverses, zero_points, qmin, qmax, out)
    return walk_groups(&job, layout, n_scales, first, n, piece_quantize)


cdef int64_t columns_quantize(
    const uint8_t* values, int dtype, int64_t n_rows, int64_t width, const float* inverses, const int32_t* zero_points,
    int32_t qmin, int32_t qmax, uint8_t* out,
) noexcept nogil:
    cdef QuantizeJob job = QuantizeJob(True, values, dtype, inverses, zero_points, qmin, qmax, out)
    return walk_columns(&job, width, 0, n_rows, piece_quantize)


cdef void groups_dequantize(
    const uint8_t* codes, int is_signed, const GroupLayout* layout, int64_t first, int64_t n, const float* scales,
    const int32_t* zero_points, int64_t n_scales, uint8_t* values, int dtype,
) noexcept nogil:
    cdef DequantizeJob job = DequantizeJob(False, codes, is_signed, scales, zero_points, values, dtype)
    walk_groups(&job, layout, n_scales, first, n, piece_dequantize)


cdef void columns_dequantize(
    const uint8_t* codes, int is_signed, int64_t n_rows, int64_t width, const float* scales, const int32_t* zero_points,
    uint8_t* values, int dtype,
) noexcept nogil:
    cdef DequantizeJob job = DequantizeJob(True, codes, is_signed, scales, zero_points, values, dtype)
    walk_columns(&job, width, 0, n_rows, piece_dequantize)
