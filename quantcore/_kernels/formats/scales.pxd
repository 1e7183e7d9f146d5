# scales.pxd: the fp16 scale at the head of a block, for a whole tile at once: conversions vectorise over blocks.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from quantcore._kernels.common.bits cimport MAGNITUDE, bits_of
from quantcore._kernels.common.floats cimport quantcore_narrow_floats, quantcore_widen_halves

cdef enum:
    SCALES = 64  # the most blocks per tile: 64 blocks of 32 floats (8 KiB) and their scales stay in L1


cdef inline float inverse_of(float d) noexcept nogil:
    """1/d, or 0 where that would overflow (|d| up to 2^-128, whose fp16 is 0: the block decodes to zeros) or d is 0."""
    return <float> 1.0 / d if (bits_of(d) & MAGNITUDE) > <uint32_t> 0x00200000 else <float> 0.0


cdef inline void store_scale(uint8_t* block, uint16_t half) noexcept nogil:
    block[0] = <uint8_t> half
    block[1] = <uint8_t> (half >> 8)


cdef inline void code_scales(const float* d, int64_t n, uint16_t* half, float* inverse) noexcept nogil:
    """The fp16 bits of n scales and their inverses."""
    cdef int64_t i
    quantcore_narrow_floats(d, n, half)
    for i in range(n):
        inverse[i] = inverse_of(d[i])


cdef inline int64_t load_scales(const uint8_t* blocks, int64_t n, int bytes_per_block, float* d) noexcept nogil:
    """The scales of n <= SCALES blocks as float32; returns the first block whose scale is inf or NaN, else -1."""
    cdef uint16_t half[SCALES]
    cdef uint32_t largest = 0
    cdef int64_t i
    for i in range(n):
        memcpy(half + i, blocks + i * bytes_per_block, 2)
    for i in range(n):
        largest = max(largest, half[i] & <uint32_t> 0x7C00)
    quantcore_widen_halves(half, n, d)
    if largest == <uint32_t> 0x7C00:
        for i in range(n):
            if (half[i] & <uint32_t> 0x7C00) == <uint32_t> 0x7C00:
                return i
    return -1
