# q2_k.pxi: Q2_K, 256 elements in 84 bytes: 16 bytes of scales (low nibble) and minima | 64 bytes of codes, byte
# 32 * h + i: elements 128 * h + i, + 32, + 64 and + 96, the first one lowest | fp16 d | fp16 dmin.
# x = d * scale * code - dmin * minimum in sub-blocks of 16.
from libc.math cimport fabsf
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t

from quantcore._kernels.common.memory cimport prefetch_run
from quantcore._kernels.formats.scales cimport store_scale
from quantcore._kernels.table cimport TileImportance

cdef extern from "narrow.h":
    void quantcore_narrow(const int32_t* codes, int n, uint8_t* data) noexcept nogil

cdef enum:
    Q2_K_SUBS = 16
    Q2_K_CODES = 64
    Q2_K_BYTES = Q2_K_SUBS + Q2_K_CODES + 2 + 2

cdef quantcore_candidates Q2_K_PLAIN = quantcore_candidates(3, -0.5, 0.1, 15)
cdef quantcore_candidates Q2_K_WEIGHTED = quantcore_candidates(3, -0.9, 0.05, 36)


cdef int64_t search_q2_k_scales(
    ScaleMinTile* tile, const float* x, int64_t n, const TileImportance* importance, int32_t* packed
) noexcept nogil:
    """Scales and minima of n super-blocks; returns the first one whose d or dmin is too large, or -1."""
    cdef int64_t bad
    cdef int i
    load_lanes(x, n, 16, tile.fit.x)
    if importance == NULL:
        for i in range(SUPER_BLOCKS * SUPER_BLOCK):
            tile.fit.weights[i] = fabsf(tile.fit.x[i])
        quantcore_fit16_absolute(&tile.fit, &Q2_K_PLAIN)
        code_plainly(tile.fit.scale, Q2_K_SUBS, 15, False, 1, tile.scale_codes, tile.d)
        code_plainly(tile.fit.minimum, Q2_K_SUBS, 15, False, -1, tile.minimum_codes, tile.dmin)
    else:
        weigh_by_importance(tile.fit.x, importance.weights, n, 16, 1, tile.fit.weights)
        quantcore_fit16_weighted(&tile.fit, &Q2_K_WEIGHTED)
        code_weighted(tile, Q2_K_SUBS, 16, 15)
    # A scale that wrapped around reaches into the nibble of the minimum.
    for i in range(Q2_K_SUBS * SUPER_BLOCKS):
        packed[i] = (tile.scale_codes[i] | tile.minimum_codes[i] << 4) & 255
        tile.scale_codes[i] = packed[i] & 15
        tile.minimum_codes[i] = packed[i] >> 4
    bad = halve_scales(tile, n)
    spread_scales(tile, Q2_K_SUBS)
    return bad


cdef inline void q2_k_store(int32_t* code, uint16_t d, uint16_t dmin, uint8_t* block) noexcept nogil:
    """Everything in a block but the scales and minima of its runs."""
    cdef int32_t* half
    cdef int h, i
    for h in range(2):
        half = code + 128 * h
        for i in range(32):
            code[32 * h + i] = half[i] | half[32 + i] << 2 | half[64 + i] << 4 | half[96 + i] << 6
    quantcore_narrow(code, Q2_K_CODES, block + Q2_K_SUBS)
    store_scale(block + Q2_K_SUBS + Q2_K_CODES, d)
    store_scale(block + Q2_K_SUBS + Q2_K_CODES + 2, dmin)


cdef int64_t q2_k_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= SUPER_BLOCKS super-blocks; the first one that cannot be coded (NaN, inf, too large), else -1."""
    cdef ScaleMinTile tile
    cdef int32_t packed[Q2_K_SUBS * SUPER_BLOCKS]
    cdef int32_t code[SUPER_BLOCK]
    cdef int64_t b, good = n_finite(x, n)
    cdef int64_t bad = search_q2_k_scales(&tile, x, good, importance, packed)
    cdef uint8_t* block
    cdef int i
    if bad >= 0:
        return bad
    for b in range(good):
        block = out + b * Q2_K_BYTES
        prefetch_run(ahead + b * stride, stride)
        for i in range(Q2_K_SUBS):
            block[i] = <uint8_t> packed[i * SUPER_BLOCKS + b]
        code_elements(&tile, x, b, 16, 3, importance != NULL, code)
        q2_k_store(code, tile.half_d[b], tile.half_dmin[b], block)
    return good if good < n else -1


cdef int64_t q2_k_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n <= SUPER_BLOCKS super-blocks; the first one whose scales are not finite, else -1."""
    cdef float halves[2 * SUPER_BLOCKS]
    cdef float d[Q2_K_SUBS]
    cdef float dmin[Q2_K_SUBS]
    cdef int64_t b, bad = load_two_scales(data + Q2_K_SUBS + Q2_K_CODES, n, Q2_K_BYTES, halves)
    cdef const uint8_t* block
    cdef const uint8_t* codes
    cdef uint8_t code[SUPER_BLOCK]
    cdef float* to
    cdef int h, i, j
    for b in range(n):
        block = data + b * Q2_K_BYTES
        to = y + b * SUPER_BLOCK
        prefetch_run(ahead + b * stride, stride)
        for j in range(Q2_K_SUBS):
            d[j] = halves[b] * <float> (block[j] & 15)
            dmin[j] = halves[SUPER_BLOCKS + b] * <float> (block[j] >> 4)
        for h in range(2):
            codes = block + Q2_K_SUBS + 32 * h
            for i in range(32):
                code[128 * h + i] = codes[i] & 3
            for i in range(32):
                code[128 * h + 32 + i] = codes[i] >> 2 & 3
            for i in range(32):
                code[128 * h + 64 + i] = codes[i] >> 4 & 3
            for i in range(32):
                code[128 * h + 96 + i] = codes[i] >> 6
        for j in range(Q2_K_SUBS):
            quantcore_scale_bytes(code + 16 * j, 16, d[j], dmin[j], to + 16 * j)
    return bad


cdef void q2_k_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    cdef int i
    for i in range(Q2_K_SUBS):
        block[i] = <uint8_t> (parts.scales[i] | parts.minima[i] << 4)
    q2_k_store(parts.codes, <uint16_t> parts.d, <uint16_t> parts.dmin, block)


offer(10, SUPER_BLOCK, Q2_K_BYTES, q2_k_quantize_tile, q2_k_dequantize_tile)
refine_two_multiples(10, 16, 3, 15, Q2_K_SUBS + Q2_K_CODES, q2_k_pack)
