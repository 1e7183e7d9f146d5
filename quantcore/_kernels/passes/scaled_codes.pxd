# scaled_codes.pxd: codes of 8 or 4 bits, each of them a value of a table, times a scale that a rectangle of a matrix
# shares: x = table[code] * scale, rounded once to the type of the result. Values of a table have 8 significant bits at
# most.
from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from quantcore._kernels.common.bits cimport MAGNITUDE, bits_of, float_of
from quantcore._kernels.common.floats cimport FLOAT16, TILE

cdef extern from "halves.h":
    enum:
        QUANTCORE_WIDENS_HALVES
    void quantcore_widen_halves(const uint16_t* half, int64_t n, float* x) noexcept nogil

cdef union FloatPair:
    float values[2]
    uint64_t bits

cdef union Float64:
    double value
    uint64_t bits

cdef enum:
    SHORT_BITS = 16  # significant bits of a scale whose products with values of a table are exact in float32
    SHORT_EXPONENT = 100  # and the largest magnitude of its exponent: no product is a subnormal


cdef inline bint is_short(double scale) noexcept nogil:
    cdef Float64 pun
    cdef int64_t exponent
    pun.value = scale
    exponent = <int64_t> (pun.bits >> 52 & 0x7FF) - 1023
    return pun.bits << (11 + SHORT_BITS) == 0 and -SHORT_EXPONENT <= exponent <= SHORT_EXPONENT


# How bytes become values without a look-up each, where the table is that of these.
cdef enum Widening:
    BY_TABLE = 0
    AS_E4M3 = 1
    AS_E5M2 = 2
    AS_INTEGERS = 3


cdef inline void widen_small_floats(
    const uint8_t* codes, int64_t n, int shift, uint16_t largest, float factor, float* x
) noexcept nogil:
    """Up to TILE values of a sign, an exponent and a mantissa, by way of halves.

    `shift` moves a magnitude to where a half has it, `factor` makes up for the other bias. Magnitudes above `largest`
    are NaN.
    """
    cdef uint16_t halves[TILE]
    cdef uint16_t magnitude
    cdef int64_t j
    for j in range(n):
        magnitude = codes[j] & 0x7F
        halves[j] = <uint16_t> (0x7E00 if magnitude > largest else (codes[j] & 0x80) << 8 | magnitude << shift)
    quantcore_widen_halves(halves, n, x)
    if factor != 1:
        for j in range(n):
            x[j] *= factor


cdef inline void widen_bytes(
    const uint8_t* codes, int64_t n, int widening, const float* table, float* x
) noexcept nogil:
    """Up to TILE values of codes of 8 bits."""
    cdef int64_t j
    if widening == AS_INTEGERS:
        for j in range(n):
            x[j] = <int8_t> codes[j]
    elif widening == AS_E4M3 and QUANTCORE_WIDENS_HALVES:
        widen_small_floats(codes, n, 7, 0x7E, 256, x)
    elif widening == AS_E5M2 and QUANTCORE_WIDENS_HALVES:
        widen_small_floats(codes, n, 8, 0x7C, 1, x)
    else:
        for j in range(n):
            x[j] = table[codes[j]]


cdef inline void look_up_nibbles(const uint8_t* codes, int64_t n, const uint64_t* pairs, float* x) noexcept nogil:
    """n values, an even number; `pairs` has both values of each byte."""
    cdef uint64_t* x_pairs = <uint64_t*> x
    cdef int64_t j
    for j in range(n // 2):
        x_pairs[j] = pairs[codes[j]]


cdef inline void scale_some(const float* x, int64_t n, double scale, float* y) noexcept nogil:
    cdef int64_t j
    cdef float narrow = <float> scale
    if <double> narrow == scale:
        for j in range(n):
            y[j] = x[j] * narrow
    else:
        for j in range(n):
            y[j] = <float> (<double> x[j] * scale)


cdef inline void scale_run(const float* x, int64_t n, double scale, float* y) noexcept nogil:
    """y = x * scale, rounded once to float32. The usual short runs have loops of a known length."""
    if n == 16:
        scale_some(x, 16, scale, y)
    elif n == 32:
        scale_some(x, 32, scale, y)
    else:
        scale_some(x, n, scale, y)


cdef inline void scale_run_to_odd(const float* x, int64_t n, double scale, float* y) noexcept nogil:
    """y = x * scale, rounded to odd: towards zero, with the last bit set if that is inexact.

    Rounding y to fewer bits then gives what rounding x * scale does.
    """
    cdef int64_t j
    cdef double product, nearest
    cdef float rounded
    cdef uint32_t is_inexact, is_beyond
    for j in range(n):
        product = <double> x[j] * scale
        rounded = <float> product
        nearest = <double> rounded
        is_inexact = nearest != product and product == product
        is_beyond = (nearest > product) if product > 0 else (nearest < product)
        y[j] = float_of((bits_of(rounded) - is_beyond) | is_inexact)


cdef inline bint may_be_ties(const float* y, int64_t n, int dtype) noexcept nogil:
    """Whether one of the values lies halfway between two float16 or bfloat16, so that rounding it is rounding twice."""
    cdef int64_t j
    cdef uint32_t found = 0, bits
    if dtype == FLOAT16:
        for j in range(n):
            bits = bits_of(y[j])
            found |= (bits & 0xFFF) == 0 and (bits & MAGNITUDE) != 0  # of a subnormal, another bit is the half
    else:
        for j in range(n):
            found |= (bits_of(y[j]) & 0xFFFF) == 0x8000
    return found != 0
