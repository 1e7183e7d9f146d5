# q4_0.pxd: Q4_0, 32 elements in 18 bytes: fp16 d | 16 bytes of codes, byte j: element j low nibble, j + 16 high nibble.
# x = (code - 8) * d. d is the value of largest magnitude over -8, so that this value gets code 0 exactly.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from quantcore._kernels.bits cimport MAGNITUDE, bits_of, float_of
from quantcore._kernels.memory cimport prefetch_run
from quantcore._kernels.scales cimport SCALES, code_scales, load_scales, store_scale

cdef extern from "narrow.h":
    void quantcore_narrow(const int32_t* codes, int n, uint8_t* data) noexcept nogil

cdef extern from "nibbles.h":
    void quantcore_centred32(const uint8_t* data, float scale, float* y) noexcept nogil

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


cdef inline int64_t q4_0_quantize_tile(
    const float* x, int64_t n, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= SCALES blocks; the first block that cannot be coded (NaN, inf, too large), else -1.

    While codes are computed in L1, memory is asked for the blocks `ahead`, `stride` bytes each.
    """
    cdef uint32_t positive[SCALES]
    cdef uint32_t negative[SCALES]
    cdef float d[SCALES]
    cdef float inverse[SCALES]
    cdef uint16_t scale[SCALES]
    cdef uint32_t clamped[Q4_0_BLOCK]
    cdef int32_t code[Q4_0_BLOCK]
    cdef int64_t i
    cdef int j
    cdef int32_t high
    cdef uint32_t low, bits, worst = 0, tied = 0
    cdef float id
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
        # Division by -8 is exact but for subnormals; +0.0 of a block of zeros gives d = -0.0.
        bits = positive[i] if positive[i] >= negative[i] else negative[i] | ~<uint32_t> MAGNITUDE
        d[i] = float_of(bits) / <float> -8.0

    if tied or worst >= <uint32_t> Q4_0_LIMIT:
        for i in range(n):
            if max(positive[i], negative[i]) >= <uint32_t> Q4_0_LIMIT:
                return i
            if positive[i] == negative[i] and positive[i] != 0:
                d[i] = first_extreme(x + i * Q4_0_BLOCK) / <float> -8.0

    code_scales(d, n, scale, inverse)
    for i in range(n):
        xb = x + i * Q4_0_BLOCK
        block = out + i * Q4_0_BYTES
        id = inverse[i]
        prefetch_run(ahead + i * stride, stride)
        # v is from 0.4999 to 16.5, and only the code 16 needs the clamp. As an unsigned minimum of the bits it also
        # maps NaN and negative values to 15, so that the cast is defined even if another thread writes to x. In one
        # loop with the cast, gcc makes choices between casts of constants of it, four times as many instructions.
        for j in range(Q4_0_BLOCK):
            clamped[j] = min(bits_of(xb[j] * id + <float> 8.5), <uint32_t> 0x41700000)
        for j in range(Q4_0_BLOCK):
            code[j] = <int32_t> float_of(clamped[j])
        for j in range(16):
            code[j] = code[j] | code[j + 16] << 4
        store_scale(block, scale[i])
        quantcore_narrow(code, 16, block + 2)
    return -1


cdef inline int64_t q4_0_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n <= SCALES blocks; the first block whose scale is not finite, else -1 (decoded all the same)."""
    cdef float d[SCALES]
    cdef int64_t i, bad = load_scales(data, n, Q4_0_BYTES, d)
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        quantcore_centred32(data + i * Q4_0_BYTES + 2, d[i], y + i * Q4_0_BLOCK)
    return bad
