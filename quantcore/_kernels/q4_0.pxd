# q4_0.pxd: Q4_0, 32 elements in 18 bytes: fp16 d | 16 bytes of codes, byte j: element j low nibble, j + 16 high nibble.
# x = (code - 8) * d. d is the value of largest magnitude over -8, so that this value gets code 0 exactly.
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t

from quantcore._kernels.bits cimport MAGNITUDE, bits_of, f16_bits_of, float_of
from quantcore._kernels.scales cimport SCALES, inverse_of, load_scales

cdef enum:
    Q4_0_BLOCK = 32
    Q4_0_BYTES = 2 + 16
    Q4_0_LIMIT = 0x48FFF000  # bits of 524160: |d| would round to an infinite fp16


cdef inline float first_extreme(const float* x) noexcept nogil:
    """The first of the elements that share the largest magnitude (for the rare block that has it in both signs)."""
    cdef int j
    cdef float extreme = x[0]
    for j in range(1, Q4_0_BLOCK):
        if (bits_of(x[j]) & MAGNITUDE) > (bits_of(extreme) & MAGNITUDE):
            extreme = x[j]
    return extreme


cdef inline int64_t q4_0_quantize_tile(const float* x, int64_t n, uint8_t* out) noexcept nogil:
    """Code n <= SCALES blocks; the first block that cannot be coded (NaN, inf, too large), else -1."""
    cdef int32_t highest[SCALES]
    cdef uint32_t lowest[SCALES]
    cdef float d[SCALES]
    cdef float inverse[SCALES]
    cdef uint32_t scale[SCALES]
    cdef int32_t code[Q4_0_BLOCK]
    cdef int64_t i
    cdef int j
    cdef int32_t high
    cdef uint32_t low, positive, negative, worst = 0, is_tied = 0
    cdef float v, id
    cdef const float* xb
    cdef uint8_t* block

    # Extremes as integers: a signed maximum of the bits finds the largest positive value, an unsigned one the most
    # negative; NaN and inf come out above every limit.
    for i in range(n):
        xb = x + i * Q4_0_BLOCK
        high = 0
        low = 0
        for j in range(Q4_0_BLOCK):
            high = max(high, <int32_t> bits_of(xb[j]))
            low = max(low, bits_of(xb[j]))
        highest[i] = high
        lowest[i] = low

    for i in range(n):
        positive = <uint32_t> highest[i]
        negative = lowest[i] & MAGNITUDE if lowest[i] > <uint32_t> MAGNITUDE else 0
        worst = max(worst, max(positive, negative))
        is_tied |= (positive == negative) & (positive != 0)
        # Division by -8 is exact but for subnormals; +0.0 of a block of zeros gives d = -0.0.
        d[i] = float_of(positive if positive >= negative else negative | ~<uint32_t> MAGNITUDE) / <float> -8.0
        scale[i] = f16_bits_of(d[i])
        inverse[i] = inverse_of(d[i])

    if is_tied or worst >= <uint32_t> Q4_0_LIMIT:
        for i in range(n):
            positive = <uint32_t> highest[i]
            negative = lowest[i] & MAGNITUDE if lowest[i] > <uint32_t> MAGNITUDE else 0
            if max(positive, negative) >= <uint32_t> Q4_0_LIMIT:
                return i
            if positive == negative and positive != 0:
                d[i] = first_extreme(x + i * Q4_0_BLOCK) / <float> -8.0
                scale[i] = f16_bits_of(d[i])
                inverse[i] = inverse_of(d[i])

    for i in range(n):
        xb = x + i * Q4_0_BLOCK
        block = out + i * Q4_0_BYTES
        id = inverse[i]
        # Floats clamp as the integers of their bits, NaN included. Only the code 16 needs it; otherwise the clamp keeps
        # the cast defined if another thread writes to x.
        for j in range(Q4_0_BLOCK):
            v = xb[j] * id + <float> 8.5
            code[j] = <int32_t> float_of(max(0, min(<int32_t> bits_of(v), <int32_t> 0x41700000)))
        for j in range(16):
            code[j] = code[j] | code[j + 16] << 4
        block[0] = <uint8_t> scale[i]
        block[1] = <uint8_t> (scale[i] >> 8)
        for j in range(16):
            block[2 + j] = <uint8_t> code[j]
    return -1


cdef inline int64_t q4_0_dequantize_tile(const uint8_t* data, int64_t n, float* y) noexcept nogil:
    """Decode n <= SCALES blocks; the first block whose scale is not finite, else -1 (decoded all the same)."""
    cdef float d[SCALES]
    cdef int8_t low[16]
    cdef int8_t high[16]
    cdef int64_t i, bad = load_scales(data, n, Q4_0_BYTES, d)
    cdef int j
    cdef const uint8_t* block
    for i in range(n):
        block = data + i * Q4_0_BYTES
        for j in range(16):
            low[j] = <int8_t> ((block[2 + j] & 0x0F) - 8)
            high[j] = <int8_t> ((block[2 + j] >> 4) - 8)
        for j in range(16):
            y[i * Q4_0_BLOCK + j] = <float> low[j] * d[i]
        for j in range(16):
            y[i * Q4_0_BLOCK + 16 + j] = <float> high[j] * d[i]
    return bad
