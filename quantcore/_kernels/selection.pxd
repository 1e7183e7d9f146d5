# selection.pxd: finding the k-th smallest value digit by digit. A float32 becomes a uint32 that orders as it does; a pass
# counts one digit of those keys whose higher digits are known already.
from libc.stdint cimport int64_t, uint32_t

from quantcore._kernels.affine cimport key_of
from quantcore._kernels.floats cimport TILE

cdef enum:
    N_DIGITS = 4096  # of the first pass; the others have fewer
    FIRST_SHIFT = 20
    LATER_BITS = 10
    MOST_PREFIXES = 8
    SCANNED = 64  # keys that are looked through together

ctypedef struct Digits:
    uint32_t counts[MOST_PREFIXES][N_DIGITS]


cdef inline void keys_of(const float* x, int64_t n, uint32_t* keys) noexcept nogil:
    cdef int64_t j
    for j in range(n):
        keys[j] = <uint32_t> key_of(x[j]) ^ <uint32_t> 0x80000000


cdef inline void count_first(const uint32_t* keys, int64_t n, Digits* digits) noexcept nogil:
    """Count the first digits, in four tables by turns, so that equal ones in succession do not wait for each other."""
    cdef int64_t j
    for j in range(0, n & ~<int64_t> 3, 4):
        digits.counts[0][keys[j] >> FIRST_SHIFT] += 1
        digits.counts[1][keys[j + 1] >> FIRST_SHIFT] += 1
        digits.counts[2][keys[j + 2] >> FIRST_SHIFT] += 1
        digits.counts[3][keys[j + 3] >> FIRST_SHIFT] += 1
    for j in range(n & ~<int64_t> 3, n):
        digits.counts[0][keys[j] >> FIRST_SHIFT] += 1


cdef inline void count_matches(
    const uint32_t* keys, int64_t n, uint32_t lowest, uint32_t width, int shift, uint32_t* counts
) noexcept nogil:
    cdef int64_t j
    cdef uint32_t above
    for j in range(n):
        above = keys[j] - lowest
        if above < width:
            counts[above >> shift] += 1


cdef inline void count_later(
    const uint32_t* keys, int64_t n, uint32_t prefix, int shift, uint32_t* counts
) noexcept nogil:
    """Count the digit at `shift` of the keys that begin with `prefix`; most stretches have none of them."""
    cdef int64_t start = 0, j
    cdef uint32_t nearest
    cdef uint32_t lowest = prefix << (shift + LATER_BITS), width = <uint32_t> 1 << (shift + LATER_BITS)
    while start + SCANNED <= n:
        nearest = <uint32_t> 0xFFFFFFFF
        for j in range(SCANNED):
            nearest = min(nearest, keys[start + j] - lowest)
        if nearest < width:
            count_matches(keys + start, SCANNED, lowest, width, shift, counts)
        start += SCANNED
    count_matches(keys + start, n - start, lowest, width, shift, counts)
