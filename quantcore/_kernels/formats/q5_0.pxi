# q5_0.pxi: Q5_0, 32 elements in 22 bytes: fp16 d | 4 bytes of fifth bits, bit j: element j | 16 bytes of lower bits,
# byte j: element j low nibble, j + 16 high nibble. x = (code - 16) * d. d is the value of largest magnitude over -16,
# so that this value gets code 0 exactly. ggml's codes are undefined where 1/d is infinite (|d| up to 2^-128); here they
# are those of 0. With importance, d comes from scale_search.h.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from quantcore._kernels.common.bits cimport bits_of, float_of
from quantcore._kernels.common.memory cimport prefetch_run
from quantcore._kernels.formats.extremes cimport block_extremes
from quantcore._kernels.formats.scales cimport SCALES, code_scales, load_scales, store_scale
from quantcore._kernels.formats.weighing cimport weighed_codes, weighed_scales
from quantcore._kernels.table cimport NEEDS_ROW_MEAN, TileImportance

cdef extern from "narrow.h":
    void quantcore_narrow(const int32_t* codes, int n, uint8_t* data) noexcept nogil

cdef extern from "packing.h":
    void quantcore_pack_fives(const uint8_t* codes, uint8_t* data) noexcept nogil
    void quantcore_decode_fives(
        const uint8_t* data, uint8_t centre, float scale, int is_shifted, float shift, float* y
    ) noexcept nogil

cdef enum:
    Q5_0_BLOCK = 32
    Q5_0_BYTES = 2 + 4 + 16
    Q5_0_LIMIT = 0x497FF000  # bits of 1048320: |d| would round to an infinite fp16


cdef inline void q5_0_store(const int32_t* code, uint16_t d, uint8_t* block) noexcept nogil:
    cdef uint8_t byte[Q5_0_BLOCK]
    store_scale(block, d)
    quantcore_narrow(code, Q5_0_BLOCK, byte)
    quantcore_pack_fives(byte, block + 2)


cdef int64_t q5_0_quantize_weighed(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    cdef float inverse[SCALES]
    cdef uint16_t scale[SCALES]
    cdef int32_t code[Q5_0_BLOCK]
    cdef int64_t i, bad = weighed_scales(x, n, importance, 16, scale, inverse)
    cdef uint8_t* block
    if bad >= 0:
        return bad
    for i in range(n):
        block = out + i * Q5_0_BYTES
        prefetch_run(ahead + i * stride, stride)
        weighed_codes(x + i * Q5_0_BLOCK, inverse[i], 16, code)
        q5_0_store(code, scale[i], block)
    return -1


cdef int64_t q5_0_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= SCALES blocks; the first block that cannot be coded (NaN, inf, too large), else -1.

    While codes are computed in L1, memory is asked for the blocks `ahead`, `stride` bytes each.
    """
    cdef uint32_t positive[SCALES]
    cdef uint32_t negative[SCALES]
    cdef float d[SCALES]
    cdef float inverse[SCALES]
    cdef uint16_t scale[SCALES]
    cdef uint32_t clamped[Q5_0_BLOCK]
    cdef int32_t code[Q5_0_BLOCK]
    cdef int64_t i, bad
    cdef int j
    cdef float id
    cdef const float* xb
    cdef uint8_t* block
    if importance != NULL:
        return q5_0_quantize_weighed(x, n, importance, out, ahead, stride)

    bad = block_extremes(x, n, <uint32_t> Q5_0_LIMIT, positive, negative, d)
    if bad >= 0:
        return bad
    # Division by -16 is exact but for subnormals; +0.0 of a block of zeros gives d = -0.0.
    for i in range(n):
        d[i] = d[i] / <float> -16.0
    code_scales(d, n, scale, inverse)
    for i in range(n):
        xb = x + i * Q5_0_BLOCK
        block = out + i * Q5_0_BYTES
        id = inverse[i]
        prefetch_run(ahead + i * stride, stride)
        # v is from 0.4999 to 32.5, and only the code 32 needs the clamp. As an unsigned minimum of the bits it also
        # maps NaN and negative values to 31, so that the cast is defined even if another thread writes to x. In one
        # loop with the cast, gcc makes choices between casts of constants of it, four times as many instructions.
        for j in range(Q5_0_BLOCK):
            clamped[j] = min(bits_of(xb[j] * id + <float> 16.5), <uint32_t> 0x41F80000)
        for j in range(Q5_0_BLOCK):
            code[j] = <int32_t> float_of(clamped[j])
        q5_0_store(code, scale[i], block)
    return -1


cdef int64_t q5_0_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n <= SCALES blocks; the first block whose scale is not finite, else -1 (decoded all the same)."""
    cdef float d[SCALES]
    cdef int64_t i, bad = load_scales(data, n, Q5_0_BYTES, d)
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        quantcore_decode_fives(data + i * Q5_0_BYTES + 2, 16, d[i], 0, 0, y + i * Q5_0_BLOCK)
    return bad


cdef void q5_0_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    q5_0_store(parts.codes, <uint16_t> parts.scales[0], block)


offer(6, Q5_0_BLOCK, Q5_0_BYTES, q5_0_quantize_tile, q5_0_dequantize_tile, NEEDS_ROW_MEAN)
refine_scales(6, Q5_0_BLOCK, &HALVES, quantcore_whole_levels(-16, 15), FirstScales(12, 0.1, 4), q5_0_pack)
