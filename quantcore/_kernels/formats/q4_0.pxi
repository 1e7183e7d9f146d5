# q4_0.pxi: Q4_0, 32 elements in 18 bytes: fp16 d | 16 bytes of codes, byte j: element j low nibble, j + 16 high nibble.
# x = (code - 8) * d. d is the value of largest magnitude over -8, so that this value gets code 0 exactly. ggml's codes
# are undefined where 1/d is infinite (|d| up to 2^-128); here they are those of 0. With importance, d comes from
# scale_search.h.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from quantcore._kernels.common.bits cimport bits_of, float_of
from quantcore._kernels.common.memory cimport prefetch_run
from quantcore._kernels.formats.extremes cimport block_extremes
from quantcore._kernels.formats.scales cimport SCALES, code_scales, load_scales, store_scale
from quantcore._kernels.formats.weighing cimport weighed_codes, weighed_scales
from quantcore._kernels.table cimport NEEDS_ROW_MEAN, TileImportance

cdef extern from "narrow.h":
    void quantcore_narrow(const int32_t* codes, int n, uint8_t* data) noexcept nogil

cdef extern from "nibbles.h":
    void quantcore_centred32(const uint8_t* data, float scale, float* y) noexcept nogil

cdef enum:
    Q4_0_BLOCK = 32
    Q4_0_BYTES = 2 + 16
    Q4_0_LIMIT = 0x48FFF000  # bits of 524160: |d| would round to an infinite fp16


cdef inline void q4_0_store(int32_t* code, uint16_t d, uint8_t* block) noexcept nogil:
    cdef int j
    for j in range(16):
        code[j] = code[j] | code[j + 16] << 4
    store_scale(block, d)
    quantcore_narrow(code, 16, block + 2)


cdef int64_t q4_0_quantize_weighed(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    cdef float inverse[SCALES]
    cdef uint16_t scale[SCALES]
    cdef int32_t code[Q4_0_BLOCK]
    cdef int64_t i, bad = weighed_scales(x, n, importance, 8, scale, inverse)
    cdef uint8_t* block
    if bad >= 0:
        return bad
    for i in range(n):
        block = out + i * Q4_0_BYTES
        prefetch_run(ahead + i * stride, stride)
        weighed_codes(x + i * Q4_0_BLOCK, inverse[i], 8, code)
        q4_0_store(code, scale[i], block)
    return -1


cdef int64_t q4_0_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= SCALES blocks; returns the first block that cannot be coded (NaN, inf, too large), or -1.

    While codes are computed in L1, the blocks at `ahead` are prefetched, `stride` bytes each.
    """
    cdef uint32_t positive[SCALES]
    cdef uint32_t negative[SCALES]
    cdef float d[SCALES]
    cdef float inverse[SCALES]
    cdef uint16_t scale[SCALES]
    cdef uint32_t clamped[Q4_0_BLOCK]
    cdef int32_t code[Q4_0_BLOCK]
    cdef int64_t i, bad
    cdef int j
    cdef float id
    cdef const float* xb
    cdef uint8_t* block
    if importance != NULL:
        return q4_0_quantize_weighed(x, n, importance, out, ahead, stride)

    bad = block_extremes(x, n, <uint32_t> Q4_0_LIMIT, positive, negative, d)
    if bad >= 0:
        return bad
    # Division by -8 is exact but for subnormals; +0.0 of a block of zeros gives d = -0.0.
    for i in range(n):
        d[i] = d[i] / <float> -8.0
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
        q4_0_store(code, scale[i], block)
    return -1


cdef int64_t q4_0_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n <= SCALES blocks; returns the first block whose scale is not finite (it is decoded as well), or -1."""
    cdef float d[SCALES]
    cdef int64_t i, bad = load_scales(data, n, Q4_0_BYTES, d)
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        quantcore_centred32(data + i * Q4_0_BYTES + 2, d[i], y + i * Q4_0_BLOCK)
    return bad


cdef void q4_0_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    q4_0_store(parts.codes, <uint16_t> parts.scales[0], block)


offer(2, Q4_0_BLOCK, Q4_0_BYTES, q4_0_quantize_tile, q4_0_dequantize_tile, NEEDS_ROW_MEAN)
refine_scales(2, Q4_0_BLOCK, &HALVES, quantcore_whole_levels(-8, 7), FirstScales(6.6, 0.1, 4), q4_0_pack)
