# iq4.pxd: what IQ4_NL and IQ4_XS share: the levels of the codes 0 to 15, which are -127 -104 -83 -65 -49 -35 -22 -10 1
# 13 25 38 53 69 89 113, the search for the scale of a run of 32 (iq4_search.h), and its codes.
from libc.stdint cimport int32_t, int64_t, uint8_t

from quantcore._kernels.formats.extremes cimport first_not_finite, first_of, first_overflow

cdef extern from "levels.h":
    const signed char* QUANTCORE_IQ4_LEVELS
    void quantcore_levels32(const uint8_t* data, const signed char* levels, float scale, float* y) noexcept nogil

cdef extern from "iq4_search.h":
    void quantcore_iq4_scales(
        const float* x, const float* importance, int runs, int64_t n, float* scales
    ) noexcept nogil

cdef extern from "narrow.h":
    void quantcore_narrow(const int32_t* codes, int n, uint8_t* data) noexcept nogil

cdef enum:
    IQ4_RUN = 32


cdef inline int64_t iq4_first_refused(const float* x, int64_t n, int64_t block_size, const float* d) noexcept nogil:
    """The first of n blocks that has a value that is not finite, or a d too large for fp16; else -1."""
    return first_of(first_not_finite(x, n, block_size), first_overflow(d, n))


cdef inline int32_t iq4_code(float v) noexcept nogil:
    """The code of the nearest level, of two equally near the upper one; 15 for NaN."""
    return 15 - (
        (v < <float> -115.5) + (v < <float> -93.5) + (v < <float> -74) + (v < <float> -57) + (v < <float> -42)
        + (v < <float> -28.5) + (v < <float> -16) + (v < <float> -4.5) + (v < <float> 7) + (v < <float> 19)
        + (v < <float> 31.5) + (v < <float> 45.5) + (v < <float> 61) + (v < <float> 79) + (v < <float> 101)
    )


cdef inline void iq4_store(int32_t* code, uint8_t* data) noexcept nogil:
    """The codes of a run: element j in the low nibble of byte j, j + 16 in the high one."""
    cdef int j
    for j in range(16):
        code[j] = code[j] | code[j + 16] << 4
    quantcore_narrow(code, 16, data)


cdef inline void iq4_codes(const float* x, float inverse, uint8_t* data) noexcept nogil:
    """Find and store the codes of a run."""
    cdef int32_t code[IQ4_RUN]
    cdef int j
    for j in range(IQ4_RUN):
        code[j] = iq4_code(x[j] * inverse)
    iq4_store(code, data)
