# affine.pxd: affine codes q = clip(rint(x * (1 / scale)) + zero_point, qmin, qmax), x = (q - zero_point) * scale, and
# the extremes that scales are made from. A run of elements that share a scale, or a row of which each column has its
# own.
from libc.math cimport rintf
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t

from quantcore._kernels.bits cimport MAGNITUDE, bits_of, float_of

cdef extern from "narrow.h":
    void quantcore_narrow(const int32_t* codes, int n, uint8_t* data) noexcept nogil

cdef enum:
    STAGE = 64  # codes that are narrowed to bytes together
    LANES = 16  # maxima that are folded at the end of a run: at each step, that would take longer than the rest


cdef inline int32_t key_of(float x) noexcept nogil:
    """An integer that orders as the floats do: beyond +-inf only NaN. It is its own inverse (on the bits)."""
    cdef int32_t bits = <int32_t> bits_of(x)
    return bits ^ ((bits >> 31) & MAGNITUDE)


cdef inline void extremes_of_run(const float* x, int64_t n, int32_t* lowest, int32_t* highest) noexcept nogil:
    """Lower and raise the keys of the extremes."""
    cdef int64_t j
    cdef int32_t low = lowest[0], high = highest[0], key
    for j in range(n):
        key = key_of(x[j])
        low = min(low, key)
        high = max(high, key)
    lowest[0] = low
    highest[0] = high


cdef inline void extremes_of_row(const float* x, int64_t n, int32_t* lowest, int32_t* highest) noexcept nogil:
    """Lower and raise the keys of each column's extremes."""
    cdef int64_t j
    cdef int32_t key
    for j in range(n):
        key = key_of(x[j])
        lowest[j] = min(lowest[j], key)
        highest[j] = max(highest[j], key)


cdef inline float steps_of(float x, float inverse, float low, float high) noexcept nogil:
    """The code less the zero point; `low`, `high`: qmin and qmax less the zero point. NaN becomes `low`."""
    cdef float v = x * inverse
    v = v if v > low else low
    v = v if v < high else high
    return rintf(v)


cdef inline void raise_lanes(uint32_t* worst, const float* x) noexcept nogil:
    """Raise LANES maxima to the magnitudes of STAGE elements."""
    cdef int j
    cdef uint32_t first, second, third, fourth
    for j in range(LANES):
        first = bits_of(x[j]) & MAGNITUDE
        second = bits_of(x[LANES + j]) & MAGNITUDE
        third = bits_of(x[2 * LANES + j]) & MAGNITUDE
        fourth = bits_of(x[3 * LANES + j]) & MAGNITUDE
        first = max(first, second)
        third = max(third, fourth)
        first = max(first, third)
        worst[j] = max(worst[j], first)


cdef inline uint32_t quantize_run(
    const float* x, int64_t n, float inverse, int32_t zero_point, float low, float high, uint8_t* out
) noexcept nogil:
    """Codes of n elements (`low`, `high` as for steps_of). Returns the largest magnitude's bits."""
    cdef int32_t code[STAGE]
    cdef uint32_t worst[LANES]
    cdef int64_t start = 0, j
    cdef uint32_t largest = 0
    for j in range(LANES):
        worst[j] = 0
    while start + STAGE <= n:
        raise_lanes(worst, x + start)
        for j in range(STAGE):
            code[j] = <int32_t> steps_of(x[start + j], inverse, low, high) + zero_point
        quantcore_narrow(code, STAGE, out + start)
        start += STAGE
    for j in range(LANES):
        largest = max(largest, worst[j])
    for j in range(start, n):
        largest = max(largest, bits_of(x[j]) & MAGNITUDE)
        out[j] = <uint8_t> (<int32_t> steps_of(x[j], inverse, low, high) + zero_point)
    return largest


cdef inline uint32_t quantize_row(
    const float* x, int64_t n, const float* inverse, const int32_t* zero_point, int32_t qmin, int32_t qmax, uint8_t* out
) noexcept nogil:
    """As quantize_run, with a scale for each column."""
    cdef int32_t code[STAGE]
    cdef int64_t start = 0, count, j
    cdef uint32_t largest = 0
    cdef float low, high
    while start < n:
        count = min(<int64_t> STAGE, n - start)
        for j in range(count):
            largest = max(largest, bits_of(x[start + j]) & MAGNITUDE)
        for j in range(count):
            low = <float> (qmin - zero_point[start + j])
            high = <float> (qmax - zero_point[start + j])
            code[j] = <int32_t> steps_of(x[start + j], inverse[start + j], low, high) + zero_point[start + j]
        for j in range(count):
            out[start + j] = <uint8_t> code[j]
        start += count
    return largest


cdef inline void dequantize_run(
    const uint8_t* codes, int64_t n, int is_signed, float scale, int32_t zero_point, float* y
) noexcept nogil:
    cdef int64_t j
    if is_signed:
        for j in range(n):
            y[j] = <float> (<int32_t> (<const int8_t*> codes)[j] - zero_point) * scale
    else:
        for j in range(n):
            y[j] = <float> (<int32_t> codes[j] - zero_point) * scale


cdef inline void dequantize_row(
    const uint8_t* codes, int64_t n, int is_signed, const float* scale, const int32_t* zero_point, float* y
) noexcept nogil:
    cdef int64_t j
    if is_signed:
        for j in range(n):
            y[j] = <float> (<int32_t> (<const int8_t*> codes)[j] - zero_point[j]) * scale[j]
    else:
        for j in range(n):
            y[j] = <float> (<int32_t> codes[j] - zero_point[j]) * scale[j]
