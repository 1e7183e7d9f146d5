# k_scales.pxi: the head of Q4_K and Q5_K, 16 bytes: fp16 d | fp16 dmin | 12 bytes of eight 6-bit scales and minima.
# Of these, byte j (j < 4) has scale j, byte 4 + j minimum j, both in the lower 6 bits; byte 8 + j the lower 4 bits of
# scale 4 + j and (high nibble) of minimum 4 + j, whose upper 2 bits are the upper ones of bytes j and 4 + j.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memset

cdef enum:
    K_HEAD = 2 + 2 + 12
    K_PACKED = 12 * SUPER_BLOCKS


cdef inline void pack_scales(const int32_t* scales, const int32_t* minima, int32_t* packed) noexcept nogil:
    """Rows of 8 super-blocks: 8 rows of scales and of minima to 12 rows of bytes."""
    cdef int i
    for i in range(32):
        packed[i] = (scales[i] | (scales[32 + i] >> 4) << 6) & 255
        packed[32 + i] = (minima[i] | (minima[32 + i] >> 4) << 6) & 255
        packed[64 + i] = (scales[32 + i] & 15) | (minima[32 + i] & 15) << 4


cdef inline void unpack_scales(const int32_t* packed, int32_t* scales, int32_t* minima) noexcept nogil:
    cdef int i
    for i in range(32):
        scales[i] = packed[i] & 63
        minima[i] = packed[32 + i] & 63
        scales[32 + i] = (packed[64 + i] & 15) | (packed[i] >> 6) << 4
        minima[32 + i] = packed[64 + i] >> 4 | (packed[32 + i] >> 6) << 4


cdef int64_t search_k_scales(
    ScaleMinTile* tile, const float* x, int64_t n, const TileImportance* importance,
    const quantcore_candidates* plain, const quantcore_candidates* weighted, bint is_clamped, int32_t* packed,
) noexcept nogil:
    """Scales and minima of n super-blocks; returns the first one whose d or dmin is too large, or -1.

    `is_clamped`: ggml clamps the weighted codes of Q5_K once more, not those of Q4_K, which may have wrapped around.
    """
    cdef int64_t bad
    cdef int i
    load_lanes(x, n, 32, tile.fit.x)
    if importance == NULL:
        weigh_by_magnitude32(tile.fit.x, tile.fit.weights)
        quantcore_fit32(&tile.fit, plain)
        code_plainly(tile.fit.scale, 8, 63, True, 1, tile.scale_codes, tile.d)
        code_plainly(tile.fit.minimum, 8, 63, True, -1, tile.minimum_codes, tile.dmin)
    else:
        weigh_by_importance(tile.fit.x, importance.weights, n, 32, 2, tile.fit.weights)
        quantcore_fit32_weighted(&tile.fit, weighted)
        code_weighted(tile, 8, 32, 63)
        if is_clamped:
            for i in range(64):
                tile.scale_codes[i] = min(tile.scale_codes[i], 63)
            for i in range(64):
                tile.minimum_codes[i] = min(tile.minimum_codes[i], 63)
    pack_scales(tile.scale_codes, tile.minimum_codes, packed)
    unpack_scales(packed, tile.scale_codes, tile.minimum_codes)
    bad = halve_scales(tile, n)
    spread_scales(tile, 8)
    return bad


cdef inline void store_k_head(
    const ScaleMinTile* tile, const int32_t* packed, int64_t b, uint8_t* block
) noexcept nogil:
    cdef int i
    store_scale(block, tile.half_d[b])
    store_scale(block + 2, tile.half_dmin[b])
    for i in range(12):
        block[4 + i] = <uint8_t> packed[i * SUPER_BLOCKS + b]


cdef inline void pack_k_head(const BlockParts* parts, uint8_t* block) noexcept nogil:
    """The head of one super-block, put together as that of the first of 8."""
    cdef int32_t scales[8 * SUPER_BLOCKS]
    cdef int32_t minima[8 * SUPER_BLOCKS]
    cdef int32_t packed[K_PACKED]
    cdef int i
    memset(scales, 0, sizeof(scales))
    memset(minima, 0, sizeof(minima))
    for i in range(8):
        scales[i * SUPER_BLOCKS], minima[i * SUPER_BLOCKS] = parts.scales[i], parts.minima[i]
    pack_scales(scales, minima, packed)
    store_scale(block, <uint16_t> parts.d)
    store_scale(block + 2, <uint16_t> parts.dmin)
    for i in range(12):
        block[4 + i] = <uint8_t> packed[i * SUPER_BLOCKS]


cdef inline int64_t load_k_heads(
    const uint8_t* data, int64_t n, int bytes_per_block, float* d, float* dmin
) noexcept nogil:
    """The scales and minima of n super-blocks' sub-blocks, in rows of 8 super-blocks; the first bad one, or -1."""
    cdef int32_t packed[K_PACKED]
    cdef int32_t scales[64]
    cdef int32_t minima[64]
    cdef float halves[2 * SUPER_BLOCKS]
    cdef int64_t b, bad
    cdef int i
    for i in range(K_PACKED):
        packed[i] = 0
    for b in range(n):
        for i in range(12):
            packed[i * SUPER_BLOCKS + b] = data[b * bytes_per_block + 4 + i]
    bad = load_two_scales(data, n, bytes_per_block, halves)
    unpack_scales(packed, scales, minima)
    for i in range(8):
        for b in range(SUPER_BLOCKS):
            d[i * SUPER_BLOCKS + b] = halves[b] * <float> scales[i * SUPER_BLOCKS + b]
            dmin[i * SUPER_BLOCKS + b] = halves[SUPER_BLOCKS + b] * <float> minima[i * SUPER_BLOCKS + b]
    return bad
