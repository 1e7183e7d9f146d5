# q2_0.pxi: Q2_0, 64 elements in 18 bytes: fp16 d | 16 bytes of codes, byte j: elements 4j to 4j + 3, the first
# lowest. x = (code - 1) * d. Coding gives 0 to 2 only (ternary.pxd); code 3 stands for 2 * d.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from quantcore._kernels.common.memory cimport prefetch_run
from quantcore._kernels.formats.scales cimport SCALES, load_scales, store_scale
from quantcore._kernels.formats.ternary cimport ternary_codes, ternary_scales
from quantcore._kernels.table cimport TileImportance

cdef extern from "levels.h":
    void quantcore_pairs64(const uint8_t* data, float scale, float* y) noexcept nogil

cdef enum:
    Q2_0_BLOCK = 64
    Q2_0_BYTES = 2 + 16


cdef inline void q2_0_store(int32_t* code, uint16_t d, uint8_t* block) noexcept nogil:
    cdef uint32_t four[16]
    cdef uint8_t narrow[Q2_0_BLOCK]
    cdef int j
    quantcore_narrow(code, Q2_0_BLOCK, narrow)
    # Four codes, a byte each in a word, come together in its lowest byte.
    memcpy(four, narrow, Q2_0_BLOCK)
    for j in range(16):
        code[j] = <int32_t> (four[j] | four[j] >> 6 | four[j] >> 12 | four[j] >> 18)
    store_scale(block, d)
    quantcore_narrow(code, 16, block + 2)


cdef int64_t q2_0_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= SCALES blocks; the first block that cannot be coded (NaN, inf, too large), else -1."""
    cdef uint16_t d[SCALES]
    cdef float inverse[SCALES]
    cdef int32_t code[Q2_0_BLOCK]
    cdef int64_t i, refused = ternary_scales(x, n, Q2_0_BLOCK, d, inverse)
    if refused >= 0:
        return refused
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        ternary_codes(x + i * Q2_0_BLOCK, Q2_0_BLOCK, inverse[i], code)
        q2_0_store(code, d[i], out + i * Q2_0_BYTES)
    return -1


cdef int64_t q2_0_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n <= SCALES blocks; the first block whose scale is not finite, else -1 (decoded all the same)."""
    cdef float d[SCALES]
    cdef int64_t i, bad = load_scales(data, n, Q2_0_BYTES, d)
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        quantcore_pairs64(data + i * Q2_0_BYTES + 2, d[i], y + i * Q2_0_BLOCK)
    return bad


cdef void q2_0_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    q2_0_store(parts.codes, <uint16_t> parts.scales[0], block)


offer(42, Q2_0_BLOCK, Q2_0_BYTES, q2_0_quantize_tile, q2_0_dequantize_tile)
refine_scales(42, Q2_0_BLOCK, &HALVES, quantcore_whole_levels(-1, 2), FirstScales(0.8, 0.12, 2), q2_0_pack)
