# bits.pxd: the bits of float32, and bfloat16 as their upper half (halves.h has IEEE float16).
from libc.stdint cimport uint32_t

cdef union Float32:
    float value
    uint32_t bits

cdef enum:
    MAGNITUDE = 0x7FFFFFFF  # every bit of a float32 except the sign
    INFINITE = 0x7F800000  # magnitudes from here on are inf or NaN


cdef inline uint32_t bits_of(float x) noexcept nogil:
    cdef Float32 pun
    pun.value = x
    return pun.bits


cdef inline float float_of(uint32_t bits) noexcept nogil:
    cdef Float32 pun
    pun.bits = bits
    return pun.value


cdef inline uint32_t bf16_bits_of(float x) noexcept nogil:
    """The bfloat16 nearest to x, ties to even; NaN kept."""
    cdef uint32_t bits = bits_of(x)
    cdef uint32_t rounded = (bits + <uint32_t> 0x7FFF + ((bits >> 16) & 1)) >> 16
    return (bits >> 16) | <uint32_t> 0x40 if (bits & MAGNITUDE) > <uint32_t> INFINITE else rounded


cdef inline float f32_of_bf16(uint32_t half) noexcept nogil:
    """The float32 of a bfloat16, exactly."""
    return float_of(half << 16)
