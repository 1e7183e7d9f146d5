# tq2_0.pxi: TQ2_0, 256 elements in 66 bytes: 2 * 32 bytes of codes, byte j of a half: its elements j, j + 32, j + 64
# and j + 96, the first lowest | fp16 d. x = (code - 1) * d; see ternary.pxd.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t

from quantcore._kernels.common.memory cimport prefetch_run
from quantcore._kernels.formats.scales cimport SCALES, load_scales, store_scale
from quantcore._kernels.formats.ternary cimport ternary_codes, ternary_scales
from quantcore._kernels.table cimport TileImportance

cdef extern from "levels.h":
    void quantcore_pairs16(const uint8_t* data, float scale, int stride, float* y) noexcept nogil

cdef enum:
    TQ2_0_BLOCK = 256
    TQ2_0_BYTES = 64 + 2
    TQ2_0_HALF = 128


cdef inline void tq2_0_store(int32_t* code, uint8_t* data) noexcept nogil:
    """The codes of a half."""
    cdef int j
    for j in range(32):
        code[j] = code[j] | code[j + 32] << 2 | code[j + 64] << 4 | code[j + 96] << 6
    quantcore_narrow(code, 32, data)


cdef int64_t tq2_0_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= SCALES blocks; the first block that cannot be coded (NaN, inf, too large), else -1."""
    cdef uint16_t d[SCALES]
    cdef float inverse[SCALES]
    cdef int32_t code[TQ2_0_HALF]
    cdef int64_t i, refused = ternary_scales(x, n, TQ2_0_BLOCK, d, inverse)
    cdef int half
    cdef uint8_t* block
    if refused >= 0:
        return refused
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        block = out + i * TQ2_0_BYTES
        for half in range(2):
            ternary_codes(x + i * TQ2_0_BLOCK + half * TQ2_0_HALF, TQ2_0_HALF, inverse[i], code)
            tq2_0_store(code, block + 32 * half)
        store_scale(block + 64, d[i])
    return -1


cdef int64_t tq2_0_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n <= SCALES blocks; the first block whose scale is not finite, else -1 (decoded all the same)."""
    cdef float d[SCALES]
    cdef int64_t i, bad = load_scales(data + 64, n, TQ2_0_BYTES, d)
    cdef int half
    cdef const uint8_t* block
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        block = data + i * TQ2_0_BYTES
        for half in range(2):
            quantcore_pairs16(block + 32 * half, d[i], 32, y)
            quantcore_pairs16(block + 32 * half + 16, d[i], 32, y + 16)
            y += TQ2_0_HALF
    return bad


cdef void tq2_0_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    cdef int half
    for half in range(2):
        tq2_0_store(parts.codes + half * TQ2_0_HALF, block + 32 * half)
    store_scale(block + 64, <uint16_t> parts.scales[0])


offer(35, TQ2_0_BLOCK, TQ2_0_BYTES, tq2_0_quantize_tile, tq2_0_dequantize_tile)
refine_scales(35, TQ2_0_BLOCK, &HALVES, quantcore_whole_levels(-1, 1), FirstScales(0.9, 0.1, 2), tq2_0_pack)
