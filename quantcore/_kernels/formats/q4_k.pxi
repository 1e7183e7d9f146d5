# q4_k.pxi: Q4_K, 256 elements in 144 bytes: the head of k_scales.pxi | 128 bytes of codes, byte 32 * k + i: element
# 64 * k + i low nibble, 64 * k + 32 + i high nibble. x = d * scale * code - dmin * minimum in sub-blocks of 32.
from libc.stdint cimport int32_t, int64_t, uint8_t

from quantcore._kernels.common.memory cimport prefetch_run
from quantcore._kernels.table cimport TileImportance

cdef extern from "narrow.h":
    void quantcore_narrow(const int32_t* codes, int n, uint8_t* data) noexcept nogil

cdef enum:
    Q4_K_BYTES = K_HEAD + 128

cdef quantcore_candidates Q4_K_PLAIN = quantcore_candidates(15, -1, 0.1, 20)
cdef quantcore_candidates Q4_K_WEIGHTED = quantcore_candidates(15, -0.9, 0.05, 36)


cdef inline void q4_k_store(int32_t* code, uint8_t* block) noexcept nogil:
    """Everything in a block but its head."""
    cdef int k, i
    for k in range(4):
        for i in range(32):
            code[32 * k + i] = code[64 * k + i] | code[64 * k + 32 + i] << 4
    quantcore_narrow(code, 128, block + K_HEAD)


cdef int64_t q4_k_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= SUPER_BLOCKS super-blocks; the first one that cannot be coded (NaN, inf, too large), else -1."""
    cdef ScaleMinTile tile
    cdef int32_t packed[K_PACKED]
    cdef int32_t code[SUPER_BLOCK]
    cdef int64_t b, good = n_finite(x, n)
    cdef int64_t bad = search_k_scales(&tile, x, good, importance, &Q4_K_PLAIN, &Q4_K_WEIGHTED, False, packed)
    if bad >= 0:
        return bad
    for b in range(good):
        prefetch_run(ahead + b * stride, stride)
        store_k_head(&tile, packed, b, out + b * Q4_K_BYTES)
        code_elements(&tile, x, b, 32, 15, importance != NULL, code)
        q4_k_store(code, out + b * Q4_K_BYTES)
    return good if good < n else -1


cdef int64_t q4_k_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n <= SUPER_BLOCKS super-blocks; the first one whose scales are not finite, else -1."""
    cdef float d[8 * SUPER_BLOCKS]
    cdef float dmin[8 * SUPER_BLOCKS]
    cdef int64_t b, bad = load_k_heads(data, n, Q4_K_BYTES, d, dmin)
    cdef const uint8_t* codes
    cdef uint8_t code[SUPER_BLOCK]
    cdef int k, i
    for b in range(n):
        prefetch_run(ahead + b * stride, stride)
        for k in range(4):
            codes = data + b * Q4_K_BYTES + K_HEAD + 32 * k
            for i in range(32):
                code[64 * k + i] = codes[i] & 15
            for i in range(32):
                code[64 * k + 32 + i] = codes[i] >> 4
        for k in range(8):
            quantcore_scale_bytes(code + 32 * k, 32, d[8 * k + b], dmin[8 * k + b], y + b * SUPER_BLOCK + 32 * k)
    return bad


cdef void q4_k_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    pack_k_head(parts, block)
    q4_k_store(parts.codes, block)


offer(12, SUPER_BLOCK, Q4_K_BYTES, q4_k_quantize_tile, q4_k_dequantize_tile)
refine_two_multiples(12, 32, 15, 63, 0, q4_k_pack)
