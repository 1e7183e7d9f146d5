# ternary.pxd: what TQ1_0, TQ2_0 and Q2_0 share: d = absmax, and codes 0, 1 and 2 for -d, 0 and d, rounded half away
# from zero. Where 1/d is infinite (absmax up to 2**-128), ggml's codes are undefined; all of them are 1 then.
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t

from quantcore._kernels.common.bits cimport MAGNITUDE, bits_of, float_of
from quantcore._kernels.formats.extremes cimport first_overflow
from quantcore._kernels.formats.scales cimport SCALES, code_scales


cdef inline int64_t ternary_scales(
    const float* x, int64_t n, int64_t block_size, uint16_t* half, float* inverse
) noexcept nogil:
    """The fp16 bits of d and its inverse, for n <= SCALES blocks; the first one that cannot be coded, else -1."""
    cdef float d[SCALES]
    cdef uint32_t largest
    cdef int64_t i, j
    cdef const float* xb
    for i in range(n):
        xb = x + i * block_size
        largest = 0
        for j in range(block_size):
            largest = max(largest, bits_of(xb[j]) & MAGNITUDE)
        d[i] = float_of(largest)
    code_scales(d, n, half, inverse)
    return first_overflow(d, n)


cdef inline void ternary_codes(const float* x, int n, float inverse, int32_t* code) noexcept nogil:
    """The codes of n (a constant) values."""
    cdef float v
    cdef int j
    for j in range(n):
        v = x[j] * inverse
        code[j] = 1 + (v >= <float> 0.5) - (v <= <float> -0.5)
