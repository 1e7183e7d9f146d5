# bits.pxd: float32 seen as its bits, and the two 16-bit floats as integers.
# Integer arithmetic instead of hardware conversions: it vectorises at every CPU level and rounds the same everywhere.
from libc.stdint cimport uint32_t

cdef union Float32:
    float value
    uint32_t bits

cdef enum:
    MAGNITUDE = 0x7FFFFFFF  # every bit of a float32 but the sign
    INFINITE = 0x7F800000  # magnitudes from here on are inf or NaN


cdef inline uint32_t bits_of(float x) noexcept nogil:
    cdef Float32 pun
    pun.value = x
    return pun.bits


cdef inline float float_of(uint32_t bits) noexcept nogil:
    cdef Float32 pun
    pun.bits = bits
    return pun.value


cdef inline uint32_t f16_bits_of(float x) noexcept nogil:
    """The IEEE half nearest to x, ties to even; inf from 65520 on, subnormals and NaN kept."""
    cdef uint32_t bits = bits_of(x)
    cdef uint32_t magnitude = bits & MAGNITUDE
    # Normal halves: re-bias the exponent by 112 and round away 13 mantissa bits (a carry walks into the exponent).
    cdef uint32_t normal = (magnitude - <uint32_t> 0x38000000 + <uint32_t> 0xFFF + ((magnitude >> 13) & 1)) >> 13
    # Below 2^-14: adding 0.5 lines the value up with the half's last bit, and the addition rounds.
    cdef uint32_t subnormal = bits_of(float_of(magnitude) + <float> 0.5) - <uint32_t> 0x3F000000
    cdef uint32_t half = normal if magnitude >= <uint32_t> 0x38800000 else subnormal
    half = <uint32_t> 0x7C00 if magnitude >= <uint32_t> 0x477FF000 else half
    # The top bit of the difference is set for NaN alone, and becomes the half's quiet bit.
    half = half | (<uint32_t> INFINITE - magnitude) >> 31 << 9
    return half | ((bits >> 16) & <uint32_t> 0x8000)


cdef inline float f32_of_f16(uint32_t half) noexcept nogil:
    """The float32 of an IEEE half, exactly; inf and NaN kept."""
    cdef uint32_t shifted = (half & <uint32_t> 0x7FFF) << 13
    cdef uint32_t normal = shifted + <uint32_t> 0x38000000
    # A half subnormal is a multiple of 2^-24: borrow the exponent of 2^-14 and take 2^-14 off again.
    cdef uint32_t subnormal = bits_of(float_of(shifted + <uint32_t> 0x38800000) - float_of(<uint32_t> 0x38800000))
    cdef uint32_t magnitude = normal if shifted >= <uint32_t> 0x00800000 else subnormal
    magnitude = shifted + <uint32_t> 0x70000000 if shifted >= <uint32_t> 0x0F800000 else magnitude
    return float_of(magnitude | ((half & <uint32_t> 0x8000) << 16))


cdef inline uint32_t bf16_bits_of(float x) noexcept nogil:
    """The bfloat16 nearest to x, ties to even; NaN kept."""
    cdef uint32_t bits = bits_of(x)
    cdef uint32_t rounded = (bits + <uint32_t> 0x7FFF + ((bits >> 16) & 1)) >> 16
    return (bits >> 16) | <uint32_t> 0x40 if (bits & MAGNITUDE) > <uint32_t> INFINITE else rounded


cdef inline float f32_of_bf16(uint32_t half) noexcept nogil:
    """The float32 of a bfloat16, exactly."""
    return float_of(half << 16)
