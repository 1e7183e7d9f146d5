# selection.pxd: finding the k-th smallest value by the two halves of its key, a uint32 in the order of the float32.
# The first pass counts the upper halves of all keys, the second one the lower halves of the keys with the upper half in
# question.
from libc.stdint cimport int64_t, uint8_t, uint32_t

from quantcore._kernels.passes.affine cimport key_of
from quantcore._kernels.common.memory cimport __builtin_prefetch

cdef enum:
    N_HALVES = 1 << 16
    SCANNED = 64  # keys that are scanned together


cdef inline void keys_of(const float* x, int64_t n, uint32_t* keys) noexcept nogil:
    cdef int64_t j
    for j in range(n):
        keys[j] = <uint32_t> key_of(x[j]) ^ <uint32_t> 0x80000000


cdef inline void count_upper(
    const uint32_t* keys, int64_t n, const uint8_t* ahead, int64_t itemsize, uint32_t* counts
) noexcept nogil:
    """Count upper halves in two tables in turn, so that consecutive equal ones do not wait for each other.

    `ahead`: the next values, which are prefetched meanwhile.
    """
    cdef int64_t j, start, at
    for start in range(0, n & ~<int64_t> 15, 16):
        __builtin_prefetch(ahead + start * itemsize)
        for at in range(start, start + 16, 8):
            for j in range(at, at + 8, 2):  # short enough to be unrolled
                counts[keys[j] >> 16] += 1
                counts[N_HALVES + (keys[j + 1] >> 16)] += 1
    for j in range(n & ~<int64_t> 15, n):
        counts[keys[j] >> 16] += 1


cdef inline void count_matches(const uint32_t* keys, int64_t n, uint32_t lowest, uint32_t* counts) noexcept nogil:
    cdef int64_t j
    for j in range(n):
        if keys[j] - lowest < <uint32_t> N_HALVES:
            counts[keys[j] - lowest] += 1


cdef inline void count_lower(const uint32_t* keys, int64_t n, uint32_t upper, uint32_t* counts) noexcept nogil:
    """Count the lower halves of the keys with this upper half; most stretches contain none."""
    cdef int64_t start = 0, j
    cdef uint32_t nearest, lowest = upper << 16
    while start + SCANNED <= n:
        nearest = <uint32_t> 0xFFFFFFFF
        for j in range(SCANNED):
            nearest = min(nearest, keys[start + j] - lowest)
        if nearest < <uint32_t> N_HALVES:
            count_matches(keys + start, SCANNED, lowest, counts)
        start += SCANNED
    count_matches(keys + start, n - start, lowest, counts)
