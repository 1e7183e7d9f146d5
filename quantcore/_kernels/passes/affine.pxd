# affine.pxd: affine codes q = clip(rint(x * (1 / scale)) + zero_point, qmin, qmax), x = (q - zero_point) * scale, and
# the extremes that scales are made from. Codes of data have an offset, which is subtracted from x first and added last.
# Elements lie in runs that share a scale, or in rows with one scale per column. `low` and `high` are qmin and qmax
# minus the zero point: clipped between them, rint(x / scale) is the code minus the zero point.
from libc.stdint cimport INT32_MAX, INT32_MIN, int8_t, int32_t, int64_t, uint8_t, uint32_t

from quantcore._kernels.common.bits cimport MAGNITUDE, bits_of, float_of

cdef extern from "narrow.h":
    void quantcore_narrow(const int32_t* codes, int n, uint8_t* data) noexcept nogil

cdef enum:
    STAGE = 32  # codes that are narrowed to bytes together
    LANES = 16  # maxima that are folded only at the end of a run: folding at each step would take longer than the rest
    ROUNDER = 12582912  # 1.5 * 2**23: a float near it is an integer


cdef inline int32_t key_of(float x) noexcept nogil:
    """An integer key in the order of the floats; only NaN is beyond +-inf. It is its own inverse (on the bits)."""
    cdef int32_t bits = <int32_t> bits_of(x)
    return bits ^ ((bits >> 31) & MAGNITUDE)


cdef inline void lower_and_raise(
    int32_t least, int32_t most, uint32_t furthest, int32_t* lowest, int32_t* highest
) noexcept nogil:
    """Update the keys of the extremes from the signed minimum and maximum and the unsigned maximum of the bits.

    The signed order of the bits is that of the floats from 0 upwards; among negative floats, the one nearest to zero is
    the least. The unsigned maximum of the bits is the float furthest below 0. That is three instructions per vector;
    computing a key per element would take five.
    """
    lowest[0] = min(lowest[0], key_of(float_of(furthest if <int32_t> furthest < 0 else <uint32_t> least)))
    highest[0] = max(highest[0], key_of(float_of(<uint32_t> (most if most >= 0 else least))))


cdef inline void extremes_of_short_run(const float* x, int64_t n, int32_t* lowest, int32_t* highest) noexcept nogil:
    """As extremes_of_run, but by keys, which leave two vectors to fold at the end instead of three."""
    cdef int64_t j
    cdef int32_t low = lowest[0], high = highest[0], key
    for j in range(n):
        key = key_of(x[j])
        low = min(low, key)
        high = max(high, key)
    lowest[0] = low
    highest[0] = high


cdef inline void extremes_of_run(const float* x, int64_t n, int32_t* lowest, int32_t* highest) noexcept nogil:
    """Update the keys of the extremes with n > 0 elements."""
    cdef int64_t j
    cdef int32_t least = INT32_MAX, most = INT32_MIN
    cdef uint32_t furthest = 0
    for j in range(n):
        least = min(least, <int32_t> bits_of(x[j]))
        most = max(most, <int32_t> bits_of(x[j]))
        furthest = max(furthest, bits_of(x[j]))
    lower_and_raise(least, most, furthest, lowest, highest)


cdef inline void extremes_of_row(
    const float* x, int64_t n, int32_t* least, int32_t* most, uint32_t* furthest
) noexcept nogil:
    """Update the extremes of each column's bits (see lower_and_raise)."""
    cdef int64_t j
    for j in range(n):
        least[j] = min(least[j], <int32_t> bits_of(x[j]))
        most[j] = max(most[j], <int32_t> bits_of(x[j]))
        furthest[j] = max(furthest[j], bits_of(x[j]))


cdef inline void extremes_of_four_rows(
    const float* a, const float* b, const float* c, const float* d, int64_t n, int32_t* least, int32_t* most,
    uint32_t* furthest,
) noexcept nogil:
    """As extremes_of_row, for four rows: the extremes of a column are loaded and stored once."""
    cdef int64_t j
    cdef uint32_t p, q, r, s
    for j in range(n):
        p = bits_of(a[j])
        q = bits_of(b[j])
        r = bits_of(c[j])
        s = bits_of(d[j])
        least[j] = min(least[j], min(min(<int32_t> p, <int32_t> q), min(<int32_t> r, <int32_t> s)))
        most[j] = max(most[j], max(max(<int32_t> p, <int32_t> q), max(<int32_t> r, <int32_t> s)))
        furthest[j] = max(furthest[j], max(max(p, q), max(r, s)))


cdef inline float shifted_steps_of(float x, float inverse, float low, float high) noexcept nogil:
    """The code minus the zero point, plus ROUNDER. NaN becomes `low`."""
    cdef float v = x * inverse
    v = v if v > low else low
    v = v if v < high else high
    # Rounded half to even by the addition, which takes a third of the time of an instruction that rounds.
    return v + <float> ROUNDER


cdef inline float steps_of(float x, float inverse, float low, float high) noexcept nogil:
    """The code minus the zero point, never -0. NaN becomes `low`."""
    return shifted_steps_of(x, inverse, low, high) - <float> ROUNDER


cdef inline int32_t word_of(float x, float inverse, float zero_point, float low, float high) noexcept nogil:
    """The code is the lowest byte."""
    return <int32_t> bits_of(shifted_steps_of(x, inverse, low, high) + zero_point)


cdef inline void raise_lanes(uint32_t* worst, const float* x) noexcept nogil:
    """Raise LANES maxima to the magnitudes of STAGE elements."""
    cdef int j
    cdef uint32_t first, second
    for j in range(LANES):
        first = bits_of(x[j]) & MAGNITUDE
        second = bits_of(x[LANES + j]) & MAGNITUDE
        first = max(first, second)
        worst[j] = max(worst[j], first)


cdef inline uint32_t folded_lanes(const uint32_t* worst) noexcept nogil:
    cdef int j
    cdef uint32_t largest = 0
    for j in range(LANES):
        largest = max(largest, worst[j])
    return largest


cdef inline void quantize_stage(
    const float* x, bint has_offset, float offset, float inverse, float zero_point, float low, float high,
    uint32_t* worst, uint8_t* out,
) noexcept nogil:
    """Codes of STAGE elements."""
    cdef int32_t word[STAGE]
    cdef int j
    raise_lanes(worst, x)
    for j in range(STAGE):
        word[j] = word_of(x[j] - offset if has_offset else x[j], inverse, zero_point, low, high)
    quantcore_narrow(word, STAGE, out)


cdef inline uint32_t quantize_run(
    const float* x, int64_t n, bint has_offset, float offset, float inverse, float zero_point, float low, float high,
    uint8_t* out,
) noexcept nogil:
    """Codes of n elements. Returns the largest magnitude's bits. `has_offset` is a constant where this is inlined."""
    cdef uint32_t worst[LANES]
    cdef int64_t start = 0, j
    cdef uint32_t largest = 0
    if n < STAGE:
        for j in range(n):
            largest = max(largest, bits_of(x[j]) & MAGNITUDE)
            out[j] = <uint8_t> word_of(x[j] - offset if has_offset else x[j], inverse, zero_point, low, high)
        return largest
    for j in range(LANES):
        worst[j] = 0
    while start < n:
        start = min(start, n - STAGE)  # some elements a second time, which is faster than one by one
        quantize_stage(x + start, has_offset, offset, inverse, zero_point, low, high, worst, out + start)
        start += STAGE
    return folded_lanes(worst)


cdef inline int32_t word_of_column(
    int64_t j, const float* x, bint has_offset, bint is_shared, const float* offset, const float* inverse,
    const float* zero_point, const float* low, const float* high,
) noexcept nogil:
    """As word_of, of column j; `is_shared`: all columns have the zero point and limits of the first."""
    cdef int64_t i = 0 if is_shared else j
    return word_of(x[j] - offset[j] if has_offset else x[j], inverse[j], zero_point[i], low[i], high[i])


cdef inline void quantize_stage_of_row(
    const float* x, bint has_offset, bint is_shared, const float* offset, const float* inverse,
    const float* zero_point, const float* low, const float* high, uint32_t* worst, uint8_t* out,
) noexcept nogil:
    cdef int32_t word[STAGE]
    cdef int j
    raise_lanes(worst, x)
    for j in range(STAGE):
        word[j] = word_of_column(j, x, has_offset, is_shared, offset, inverse, zero_point, low, high)
    quantcore_narrow(word, STAGE, out)


cdef inline uint32_t quantize_row(
    const float* x, int64_t n, bint has_offset, bint is_shared, const float* offset, const float* inverse,
    const float* zero_point, const float* low, const float* high, uint8_t* out,
) noexcept nogil:
    """As quantize_run, with one scale per column. `is_shared` is a constant where this is inlined, too."""
    cdef uint32_t worst[LANES]
    cdef int64_t start = 0, j
    cdef uint32_t largest = 0
    if n < STAGE:
        for j in range(n):
            largest = max(largest, bits_of(x[j]) & MAGNITUDE)
            out[j] = <uint8_t> word_of_column(j, x, has_offset, is_shared, offset, inverse, zero_point, low, high)
        return largest
    for j in range(LANES):
        worst[j] = 0
    while start < n:
        start = min(start, n - STAGE)
        quantize_stage_of_row(
            x + start, has_offset, is_shared, offset + start if has_offset else NULL, inverse + start,
            zero_point + start, low + start, high + start, worst, out + start,
        )
        start += STAGE
    return folded_lanes(worst)


cdef inline float value_of(int32_t code, float zero_point, float scale) noexcept nogil:
    return (<float> code - zero_point) * scale


cdef inline void dequantize_run(
    const uint8_t* codes, int64_t n, int is_signed, bint has_offset, float offset, float scale, float zero_point,
    float* y,
) noexcept nogil:
    cdef int64_t j
    if has_offset:  # of unsigned codes
        for j in range(n):
            y[j] = value_of(codes[j], zero_point, scale) + offset
    elif is_signed:
        for j in range(n):
            y[j] = value_of((<const int8_t*> codes)[j], zero_point, scale)
    else:
        for j in range(n):
            y[j] = value_of(codes[j], zero_point, scale)


cdef inline void dequantize_row(
    const uint8_t* codes, int64_t n, int is_signed, const float* offset, const float* scale, const float* zero_point,
    float* y,
) noexcept nogil:
    """As dequantize_run, with one scale per column; `offset` may be NULL."""
    cdef int64_t j
    if offset != NULL:
        for j in range(n):
            y[j] = value_of(codes[j], zero_point[j], scale[j]) + offset[j]
    elif is_signed:
        for j in range(n):
            y[j] = value_of((<const int8_t*> codes)[j], zero_point[j], scale[j])
    else:
        for j in range(n):
            y[j] = value_of(codes[j], zero_point[j], scale[j])
