# e2m1.pxd: the search of MXFP4 and NVFP4 for the nearest E2M1 value. Doubled, its magnitudes are 0 1 2 3 4 6 8 12
# (codes 0 to 7); the sign is 8, but 0 is always code 0. A magnitude halfway between two takes the lower code.
from libc.stdint cimport int32_t, uint32_t

from quantcore._kernels.common.bits cimport INFINITE, MAGNITUDE, bits_of

cdef extern from "levels.h":
    const signed char* QUANTCORE_E2M1_LEVELS
    const signed char* QUANTCORE_E2M1_ASCENDING
    void quantcore_levels32(const unsigned char* data, const signed char* levels, float scale, float* y) noexcept nogil
    void quantcore_levels16_twice(
        const unsigned char* data, const signed char* levels, const float* scales, float* y
    ) noexcept nogil


cdef inline int32_t e2m1_midpoint(float d, float midpoint) noexcept nogil:
    """The bits of a midpoint between two multiples of d; of d = 0, what no magnitude exceeds."""
    return <int32_t> (bits_of(d * midpoint) if d != 0 else <uint32_t> INFINITE)


cdef inline void e2m1_codes(const float* x, int n, float d, int32_t* code) noexcept nogil:
    """The codes of n (a constant) values, as multiples of d.

    Midpoints are exact, and so are a value's distances from the two multiples about it, so that counting the midpoints
    below a value is the same as looking for the smallest distance. Magnitudes compare as integers.
    """
    cdef int32_t m0 = e2m1_midpoint(d, <float> 0.5), m1 = e2m1_midpoint(d, <float> 1.5)
    cdef int32_t m2 = e2m1_midpoint(d, <float> 2.5), m3 = e2m1_midpoint(d, <float> 3.5)
    cdef int32_t m4 = e2m1_midpoint(d, <float> 5), m5 = e2m1_midpoint(d, <float> 7)
    cdef int32_t m6 = e2m1_midpoint(d, <float> 10)
    cdef int32_t magnitude, sign
    cdef int j
    for j in range(n):
        magnitude = <int32_t> (bits_of(x[j]) & MAGNITUDE)
        sign = <int32_t> (bits_of(x[j]) >> 28 & 8)
        code[j] = (
            (magnitude > m0) * (1 + sign) + (magnitude > m1) + (magnitude > m2) + (magnitude > m3)
            + (magnitude > m4) + (magnitude > m5) + (magnitude > m6)
        )


cdef inline int32_t e2m1_code_of(int32_t level) noexcept nogil:
    """The code of a value that is given by its place among the 15 there are, in ascending order."""
    return level - 7 if level >= 7 else 15 - level
