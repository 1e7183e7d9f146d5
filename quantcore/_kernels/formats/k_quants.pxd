# k_quants.pxd: super-blocks of 16 sub-blocks of 16, whose scales are multiples of the super-block's d.
from libc.stdint cimport uint32_t

from quantcore._kernels.common.bits cimport MAGNITUDE, bits_of

cdef enum:
    K_BLOCK = 256
    K_SUB_BLOCK = 16
    K_SUB_BLOCKS = 16  # a super-block
    K_BLOCKS = 8  # most a tile
    K_TILE_SUB_BLOCKS = K_BLOCKS * K_SUB_BLOCKS


cdef inline float largest_scale(const float* scale) noexcept nogil:
    """The scale of largest magnitude of a super-block, the first of equals."""
    cdef int j
    cdef uint32_t largest = 0
    for j in range(K_SUB_BLOCKS):
        largest = max(largest, bits_of(scale[j]) & MAGNITUDE)
    for j in range(K_SUB_BLOCKS - 1):
        if bits_of(scale[j]) & MAGNITUDE == largest:
            return scale[j]
    return scale[K_SUB_BLOCKS - 1]
