# q5_k.pxi: Q5_K, 256 elements in 176 bytes: the head of k_scales.pxi | 32 bytes of fifth bits: bit 2 * k of byte i is
# that of element 64 * k + i, bit 2 * k + 1 that of element 64 * k + 32 + i | 128 bytes of the lower four bits, byte
# 32 * k + i: the same two elements, low and high nibble. x = d * scale * code - dmin * minimum in sub-blocks of 32.
from libc.stdint cimport int32_t, int64_t, uint8_t

from quantcore._kernels.common.memory cimport prefetch_run
from quantcore._kernels.table cimport TileImportance

cdef extern from "narrow.h":
    void quantcore_narrow(const int32_t* codes, int n, uint8_t* data) noexcept nogil

cdef enum:
    Q5_K_BYTES = K_HEAD + 32 + 128

cdef quantcore_candidates Q5_K_PLAIN = quantcore_candidates(31, -0.5, 0.1, 15)
cdef quantcore_candidates Q5_K_WEIGHTED = quantcore_candidates(31, -0.9, 0.05, 36)


cdef inline void q5_k_store(int32_t* code, uint8_t* block) noexcept nogil:
    """Everything in a block but its head."""
    cdef int32_t fifth[32]
    cdef int k, i
    for i in range(32):
        fifth[i] = 0
    for k in range(4):
        for i in range(32):
            fifth[i] |= (code[64 * k + i] >> 4 | (code[64 * k + 32 + i] >> 4) << 1) << 2 * k
        for i in range(32):
            code[32 * k + i] = (code[64 * k + i] & 15) | code[64 * k + 32 + i] << 4
    quantcore_narrow(fifth, 32, block + K_HEAD)
    quantcore_narrow(code, 128, block + K_HEAD + 32)


cdef int64_t q5_k_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= SUPER_BLOCKS super-blocks; the first one that cannot be coded (NaN, inf, too large), else -1."""
    cdef ScaleMinTile tile
    cdef int32_t packed[K_PACKED]
    cdef int32_t code[SUPER_BLOCK]
    cdef int64_t b, good = n_finite(x, n)
    cdef int64_t bad = search_k_scales(&tile, x, good, importance, &Q5_K_PLAIN, &Q5_K_WEIGHTED, True, packed)
    cdef uint8_t* block
    if bad >= 0:
        return bad
    for b in range(good):
        block = out + b * Q5_K_BYTES
        prefetch_run(ahead + b * stride, stride)
        store_k_head(&tile, packed, b, block)
        code_elements(&tile, x, b, 32, 31, importance != NULL, code)
        q5_k_store(code, block)
    return good if good < n else -1


cdef int64_t q5_k_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n <= SUPER_BLOCKS super-blocks; the first one whose scales are not finite, else -1."""
    cdef float d[8 * SUPER_BLOCKS]
    cdef float dmin[8 * SUPER_BLOCKS]
    cdef int64_t b, bad = load_k_heads(data, n, Q5_K_BYTES, d, dmin)
    cdef const uint8_t* codes
    cdef uint8_t fifth[32]
    cdef uint8_t code[SUPER_BLOCK]
    cdef int k, i
    for b in range(n):
        prefetch_run(ahead + b * stride, stride)
        codes = data + b * Q5_K_BYTES + K_HEAD
        for i in range(32):
            fifth[i] = codes[i]
        for k in range(4):
            codes += 32
            for i in range(32):
                code[64 * k + i] = (codes[i] & 15) | (fifth[i] & 1) << 4
            for i in range(32):
                code[64 * k + 32 + i] = codes[i] >> 4 | (fifth[i] & 2) << 3
            for i in range(32):
                fifth[i] = fifth[i] >> 2
        for k in range(8):
            quantcore_scale_bytes(code + 32 * k, 32, d[8 * k + b], dmin[8 * k + b], y + b * SUPER_BLOCK + 32 * k)
    return bad


cdef void q5_k_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    pack_k_head(parts, block)
    q5_k_store(parts.codes, block)


offer(13, SUPER_BLOCK, Q5_K_BYTES, q5_k_quantize_tile, q5_k_dequantize_tile)
refine_two_multiples(13, 32, 31, 63, 0, q5_k_pack)
