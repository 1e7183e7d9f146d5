# tq1_0.pxi: TQ1_0, 256 elements in 54 bytes, five codes to a byte, the first of them the highest digit to base 3:
# 32 bytes for 160 elements (j, j + 32, ..., j + 128) | 16 bytes for 80 (j, j + 16, ..., j + 64) | 4 bytes for 16, with
# four codes (j, j + 4, j + 8, j + 12) and a 0 | fp16 d. A byte holds ceil(number * 256 / 243), of which the digits come
# out by multiplying by 3 and taking what exceeds a byte. x = (code - 1) * d; see ternary.pxd.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t
from libc.string cimport memcpy

from quantcore._kernels.common.memory cimport prefetch_run
from quantcore._kernels.formats.scales cimport SCALES, load_scales, store_scale
from quantcore._kernels.formats.ternary cimport ternary_codes, ternary_scales
from quantcore._kernels.table cimport TileImportance

cdef extern from "levels.h":
    void quantcore_fives16(const uint8_t* data, float scale, int stride, float* y) noexcept nogil
    void quantcore_fours4(const uint8_t* data, float scale, float* y) noexcept nogil

cdef enum:
    TQ1_0_BLOCK = 256
    TQ1_0_BYTES = 48 + 4 + 2
    TQ1_0_SECOND = 160  # elements before those of the second part
    TQ1_0_THIRD = 240


cdef inline void tq1_0_join(int32_t* code, int n) noexcept nogil:
    """Put n numbers of five codes each, n apart, in place of the first n."""
    cdef int32_t number
    cdef int j
    for j in range(n):
        number = (((code[j] * 3 + code[j + n]) * 3 + code[j + 2 * n]) * 3 + code[j + 3 * n]) * 3 + code[j + 4 * n]
        code[j] = number + ((number * 13 + 242) * 1079 >> 18)  # number + ceil(number * 13 / 243)


cdef inline void tq1_0_store(int32_t* code, uint16_t d, uint8_t* block) noexcept nogil:
    """`code` has room for four more than the block has."""
    cdef int j
    for j in range(4):
        code[TQ1_0_BLOCK + j] = 0
    tq1_0_join(code, 32)
    tq1_0_join(code + TQ1_0_SECOND, 16)
    tq1_0_join(code + TQ1_0_THIRD, 4)
    quantcore_narrow(code, 32, block)
    quantcore_narrow(code + TQ1_0_SECOND, 16, block + 32)
    for j in range(4):
        block[48 + j] = <uint8_t> code[TQ1_0_THIRD + j]
    store_scale(block + 52, d)


cdef int64_t tq1_0_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= SCALES blocks; the first block that cannot be coded (NaN, inf, too large), else -1."""
    cdef uint16_t d[SCALES]
    cdef float inverse[SCALES]
    cdef int32_t code[TQ1_0_BLOCK + 4]
    cdef int64_t i, refused = ternary_scales(x, n, TQ1_0_BLOCK, d, inverse)
    cdef uint8_t* block
    if refused >= 0:
        return refused
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        block = out + i * TQ1_0_BYTES
        ternary_codes(x + i * TQ1_0_BLOCK, TQ1_0_BLOCK, inverse[i], code)
        tq1_0_store(code, d[i], block)
    return -1


cdef int64_t tq1_0_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n <= SCALES blocks; the first block whose scale is not finite, else -1 (decoded all the same)."""
    cdef float d[SCALES]
    cdef int64_t i, bad = load_scales(data + 52, n, TQ1_0_BYTES, d)
    cdef const uint8_t* block
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        block = data + i * TQ1_0_BYTES
        quantcore_fives16(block, d[i], 32, y)
        quantcore_fives16(block + 16, d[i], 32, y + 16)
        quantcore_fives16(block + 32, d[i], 16, y + TQ1_0_SECOND)
        quantcore_fours4(block + 48, d[i], y + TQ1_0_THIRD)
        y += TQ1_0_BLOCK
    return bad


cdef void tq1_0_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    cdef int32_t code[TQ1_0_BLOCK + 4]
    memcpy(code, parts.codes, TQ1_0_BLOCK * sizeof(int32_t))
    tq1_0_store(code, <uint16_t> parts.scales[0], block)


offer(34, TQ1_0_BLOCK, TQ1_0_BYTES, tq1_0_quantize_tile, tq1_0_dequantize_tile)
refine_scales(34, TQ1_0_BLOCK, &HALVES, quantcore_whole_levels(-1, 1), FirstScales(0.9, 0.1, 2), tq1_0_pack)
