# extremes.pxd: the extremes of each block of 32, as integers, which compare without -ffast-math and tell NaN and inf.
from libc.stdint cimport int32_t, int64_t, uint32_t

from quantcore._kernels.common.bits cimport INFINITE, MAGNITUDE, bits_of, float_of
from quantcore._kernels.common.floats cimport first_from

cdef enum:
    EXTREMES_BLOCK = 32
    NEGATIVE_ZERO = 0x80000000
    F16_OVERFLOW = 0x477FF000  # bits of 65520: magnitudes from here on round to an infinite fp16; NaN is beyond too


cdef inline float first_extreme(const float* x) noexcept nogil:
    """The first of the elements that share the largest magnitude (for the rare block that has it in both signs)."""
    cdef int j
    cdef float extreme = x[0]
    for j in range(1, EXTREMES_BLOCK):
        if (bits_of(x[j]) & MAGNITUDE) > (bits_of(extreme) & MAGNITUDE):
            extreme = x[j]
    return extreme


cdef inline int64_t block_extremes(
    const float* x, int64_t n, uint32_t limit, uint32_t* positive, uint32_t* negative, float* extreme
) noexcept nogil:
    """The value of largest magnitude of n blocks, the first of equals, and +0.0 if all are zeros.

    Returns the first block whose extreme's magnitude has bits from `limit` on (so have NaN and inf), else -1.
    `positive` and `negative` are room for n numbers.
    """
    cdef int64_t i
    cdef int j
    cdef int32_t high
    cdef uint32_t low, bits, worst = 0, tied = 0
    cdef const float* xb
    # A signed maximum of the bits finds the largest positive value, an unsigned one the most negative; NaN and inf
    # come out above every limit.
    for i in range(n):
        xb = x + i * EXTREMES_BLOCK
        high = 0
        low = 0
        for j in range(EXTREMES_BLOCK):
            high = max(high, <int32_t> bits_of(xb[j]))
            low = max(low, bits_of(xb[j]))
        positive[i] = <uint32_t> high
        negative[i] = low

    # One choice a loop: several comparisons of the same two values in one body keep gcc from vectorising it.
    for i in range(n):
        negative[i] = negative[i] & MAGNITUDE if negative[i] > <uint32_t> MAGNITUDE else 0
    for i in range(n):
        worst = max(worst, positive[i])
    for i in range(n):
        worst = max(worst, negative[i])
    for i in range(n):
        tied |= positive[i] if positive[i] == negative[i] else 0
    for i in range(n):
        bits = positive[i] if positive[i] >= negative[i] else negative[i] | ~<uint32_t> MAGNITUDE
        extreme[i] = float_of(bits)

    if tied or worst >= limit:
        for i in range(n):
            if max(positive[i], negative[i]) >= limit:
                return i
            if positive[i] == negative[i] and positive[i] != 0:
                extreme[i] = first_extreme(x + i * EXTREMES_BLOCK)
    return -1


cdef inline float first_zero(const float* x) noexcept nogil:
    """The first zero of a block that has one."""
    cdef int j
    for j in range(EXTREMES_BLOCK - 1):
        if x[j] == 0:
            return x[j]
    return x[EXTREMES_BLOCK - 1]


cdef inline void block_ranges(
    const float* x, int64_t n, uint32_t* smallest, uint32_t* largest, float* low, float* high
) noexcept nogil:
    """The least and the greatest value of n blocks; of zeros, `low` is the first. The integers are room for n numbers.

    A NaN or inf makes one of both, or their difference, NaN or inf.
    """
    cdef int64_t i
    cdef int j
    cdef int32_t signed_low, signed_high
    cdef uint32_t unsigned_high, zeros = 0
    cdef const float* xb
    # Signed integers order positive floats, and unsigned ones the magnitudes of the negative floats above those.
    for i in range(n):
        xb = x + i * EXTREMES_BLOCK
        signed_low = <int32_t> 0x7FFFFFFF
        signed_high = -<int32_t> 0x7FFFFFFF - 1
        unsigned_high = 0
        for j in range(EXTREMES_BLOCK):
            signed_low = min(signed_low, <int32_t> bits_of(xb[j]))
            signed_high = max(signed_high, <int32_t> bits_of(xb[j]))
            unsigned_high = max(unsigned_high, bits_of(xb[j]))
        smallest[i] = <uint32_t> signed_low
        largest[i] = <uint32_t> signed_high
        low[i] = float_of(unsigned_high)
    # Only negative values: the signed least is the one closest to zero. No negative value: it is the least.
    for i in range(n):
        largest[i] = largest[i] if <int32_t> largest[i] >= 0 else smallest[i]
    for i in range(n):
        high[i] = float_of(largest[i])
    for i in range(n):
        zeros |= 1 if bits_of(low[i]) == <uint32_t> NEGATIVE_ZERO else 0
    for i in range(n):
        smallest[i] = bits_of(low[i]) if bits_of(low[i]) > <uint32_t> MAGNITUDE else smallest[i]
    for i in range(n):
        low[i] = float_of(smallest[i])
    if zeros:
        for i in range(n):
            if bits_of(low[i]) == <uint32_t> NEGATIVE_ZERO:
                low[i] = first_zero(x + i * EXTREMES_BLOCK)


cdef inline int64_t first_overflow(const float* x, int64_t n) noexcept nogil:
    """The first of n numbers whose fp16 is not finite, else -1."""
    return first_from(x, n, <uint32_t> F16_OVERFLOW)


cdef inline int64_t first_not_finite(const float* x, int64_t n, int64_t size) noexcept nogil:
    """The first of n runs of `size` numbers with a NaN or inf among them, else -1."""
    cdef int64_t bad = first_from(x, n * size, <uint32_t> INFINITE)
    return bad // size if bad >= 0 else -1


cdef inline int64_t first_of(int64_t a, int64_t b) noexcept nogil:
    """The lower of two indices, of which -1 is none."""
    return b if a < 0 or 0 <= b < a else a
