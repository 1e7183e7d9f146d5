# floor_codes.pxi: codes of vectors whose columns have a range each, rounded down: the distance of a value from the
# column's `low` over its `width`, clipped between 0 and `most`, times `factor`. Scalar quantizers of vector databases
# are defined so, while affine codes (affine.pxi) are rounded to nearest.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from quantcore._kernels.common.bits cimport INFINITE, MAGNITUDE, bits_of
from quantcore._kernels.common.floats cimport TILE, loaded, size_of
from quantcore._kernels.common.memory cimport PART, prefetch_run
from quantcore._kernels.common.walks cimport walk_columns
from quantcore._kernels.passes.affine cimport LANES, STAGE, folded_lanes, quantcore_narrow, raise_lanes
from quantcore._kernels.table cimport FloorCoding

ctypedef struct FloorJob:
    const uint8_t* values
    int dtype
    const FloorCoding* coding
    uint8_t* out


cdef inline int32_t floor_code(
    float x, float low, float width, float most, float factor, bint is_wide
) noexcept nogil:
    """One code. NaN becomes 0. `is_wide` is a constant where this is inlined."""
    cdef float v = (x - low) / width
    v = v if v > <float> 0 else <float> 0
    v = v if v < most else most
    return <int32_t> (<double> v * <double> factor) if is_wide else <int32_t> (v * factor)


cdef inline void floor_stage(
    const float* x, const float* low, const float* width, const FloorCoding* coding, bint is_wide, uint32_t* worst,
    uint8_t* out,
) noexcept nogil:
    """Codes of STAGE elements."""
    cdef int32_t word[STAGE]
    cdef float most = coding.most, factor = coding.factor
    cdef int j
    raise_lanes(worst, x)
    for j in range(STAGE):
        word[j] = floor_code(x[j], low[j], width[j], most, factor, is_wide)
    quantcore_narrow(word, STAGE, out)


cdef inline uint32_t floor_row(
    const float* x, int64_t n, const float* low, const float* width, const FloorCoding* coding, bint is_wide,
    uint8_t* out,
) noexcept nogil:
    """Codes of n columns of a row. Returns the largest magnitude's bits."""
    cdef uint32_t worst[LANES]
    cdef int64_t start = 0, j
    cdef uint32_t largest = 0
    if n < STAGE:
        for j in range(n):
            largest = max(largest, bits_of(x[j]) & MAGNITUDE)
            out[j] = <uint8_t> floor_code(x[j], low[j], width[j], coding.most, coding.factor, is_wide)
        return largest
    for j in range(LANES):
        worst[j] = 0
    while start < n:
        start = min(start, n - STAGE)
        floor_stage(x + start, low + start, width + start, coding, is_wide, worst, out + start)
        start += STAGE
    return folded_lanes(worst)


cdef bint piece_floor(
    const void* job, int64_t at, int64_t n, int64_t i, int64_t slot, int64_t ahead
) noexcept nogil:
    cdef float staged[TILE]
    cdef const FloorJob* p = <const FloorJob*> job
    cdef const FloorCoding* coding = p.coding
    cdef const float* x = loaded(p.values, p.dtype, at, n, staged)
    cdef const float* low = coding.lows + i
    cdef const float* width = coding.widths + i
    cdef uint32_t largest = 0, found
    cdef int64_t done = 0, part, itemsize = size_of(p.dtype)
    while done < n:
        part = min(<int64_t> PART, n - done)
        prefetch_run(p.values + (ahead + done) * itemsize, part * itemsize)
        prefetch_run(p.out + ahead + done, part)
        if coding.is_wide:
            found = floor_row(x + done, part, low + done, width + done, coding, True, p.out + at + done)
        else:
            found = floor_row(x + done, part, low + done, width + done, coding, False, p.out + at + done)
        largest = max(largest, found)
        done += part
    return largest < <uint32_t> INFINITE


cdef int64_t columns_floor(
    const uint8_t* values, int dtype, int64_t n_rows, int64_t width, const FloorCoding* coding, uint8_t* out
) noexcept nogil:
    cdef FloorJob job = FloorJob(values, dtype, coding, out)
    return walk_columns(&job, width, 0, n_rows, piece_floor)
