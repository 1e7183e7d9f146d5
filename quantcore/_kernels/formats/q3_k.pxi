# q3_k.pxi: Q3_K, 256 elements in 110 bytes: 32 bytes of third bits | 64 bytes of lower bits | 12 bytes of scales
# (packing.h) | fp16 d. x = (code - 4) * (d * (scale - 32)), with a scale for each 16 elements.
# Without importance, scales come from scale_descent.h, and d makes the largest of them 0. With it, from scale_search.h,
# weighted by importance * sqrt(2 * mean(x * x) + x * x); so do d and the multiples of it, weighted by sums of weights.
# Where the sums of a search overflow, ggml writes scales of 0 or an infinite d; here the super-block is refused.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t
from libc.string cimport memset

from quantcore._kernels.common.floats cimport quantcore_narrow_floats, quantcore_widen_halves
from quantcore._kernels.common.memory cimport prefetch_run
from quantcore._kernels.formats.extremes cimport first_not_finite, first_of, first_overflow
from quantcore._kernels.formats.k_quants cimport (
    K_BLOCK,
    K_BLOCKS,
    K_SUB_BLOCK,
    K_SUB_BLOCKS,
    K_TILE_SUB_BLOCKS,
    largest_scale,
)
from quantcore._kernels.formats.scales cimport load_scales, store_scale
from quantcore._kernels.table cimport TileImportance

cdef extern from "narrow.h":
    void quantcore_narrow(const int32_t* codes, int n, uint8_t* data) noexcept nogil

cdef extern from "packing.h":
    void quantcore_pack_threes(const uint8_t* codes, uint8_t* upper, uint8_t* lower) noexcept nogil
    void quantcore_decode_threes(
        const uint8_t* upper, const uint8_t* lower, const float* scales, float* y
    ) noexcept nogil
    void quantcore_pack_multiples(const int32_t* multiples, uint8_t* out) noexcept nogil
    void quantcore_unpack_multiples(const uint8_t* packed, int32_t* multiples) noexcept nogil

cdef extern from "vectors.h":
    int32_t quantcore_nearest(float x) noexcept nogil

cdef extern from "scale_search.h":
    void quantcore_fit_scales(
        const float* x, const float* weights, const float* mean_squares, int size, int top, int64_t n, float* scale,
        float* inverse, float* weight_sums,
    ) noexcept nogil
    void quantcore_code_sub_block(
        const float* x, float factor, float divisor, bint is_zero, int size, int top, int32_t* codes
    ) noexcept nogil

cdef extern from "scale_descent.h":
    void quantcore_descend(
        const float* x, int64_t n, float* scale, float* inverse, int32_t* slot, float* codes
    ) noexcept nogil
    void quantcore_descended(const float* codes, int32_t slot, int32_t* out) noexcept nogil

cdef enum:
    Q3_K_BYTES = 32 + 64 + 12 + 2
    Q3_K_LOWER = 32
    Q3_K_SCALES = 96
    Q3_K_D = 108
    Q3_K_ROOM = 16  # numbers of super-blocks: whole vectors


cdef inline void q3_k_store(
    const int32_t* code, const int32_t* multiples, uint16_t d, uint8_t* block
) noexcept nogil:
    cdef uint8_t byte[K_BLOCK]
    quantcore_narrow(code, K_BLOCK, byte)
    quantcore_pack_threes(byte, block, block + Q3_K_LOWER)
    quantcore_pack_multiples(multiples, block + Q3_K_SCALES)
    store_scale(block + Q3_K_D, d)


cdef void q3_k_code(
    const float* x, int64_t n, const float* d, const int32_t* multiple, const float* inverse, const int32_t* slot,
    const float* codes, uint8_t* out, const uint8_t* ahead, int64_t stride,
) noexcept nogil:
    """Code n super-blocks, given their d and multiples.

    A sub-block whose scale vanishes has the codes of the search: those in its slot of `codes`, or if it has none (or
    `slot` is NULL), those of `inverse`.
    """
    cdef uint16_t half[K_BLOCKS]
    cdef float scale[K_BLOCKS]
    cdef int32_t code[K_BLOCK]
    cdef int64_t i, k
    cdef int j
    cdef float divisor
    cdef uint8_t* block
    quantcore_narrow_floats(d, n, half)
    quantcore_widen_halves(half, n, scale)
    for i in range(n):
        block = out + i * Q3_K_BYTES
        prefetch_run(ahead + i * stride, stride)
        for j in range(K_SUB_BLOCKS):
            k = i * K_SUB_BLOCKS + j
            divisor = scale[i] * <float> (multiple[k] - 32)
            if divisor != 0:
                quantcore_code_sub_block(x + k * K_SUB_BLOCK, 1, divisor, 0, K_SUB_BLOCK, 4, code + j * K_SUB_BLOCK)
            elif slot != NULL and slot[k] >= 0:
                quantcore_descended(codes, slot[k], code + j * K_SUB_BLOCK)
            else:
                quantcore_code_sub_block(
                    x + k * K_SUB_BLOCK, inverse[k], 1, inverse[k] == 0, K_SUB_BLOCK, 4, code + j * K_SUB_BLOCK
                )
        q3_k_store(code, multiple + i * K_SUB_BLOCKS, half[i], block)


cdef int64_t q3_k_quantize_weighed(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    cdef float scale[K_TILE_SUB_BLOCKS]
    cdef float inverse[K_TILE_SUB_BLOCKS]
    cdef float weight_sum[K_TILE_SUB_BLOCKS]
    cdef float mean_square[K_TILE_SUB_BLOCKS]
    cdef int32_t multiple[K_TILE_SUB_BLOCKS]
    cdef float d[Q3_K_ROOM]
    cdef float super_inverse[Q3_K_ROOM]
    cdef float squares[SQUARED_ROWS]
    cdef int64_t i, bad
    cdef int j
    memset(squares, 0, sizeof(squares))
    quantcore_add_squares(x, K_BLOCK, n, K_BLOCK, squares)
    for i in range(n):
        for j in range(K_SUB_BLOCKS):
            mean_square[i * K_SUB_BLOCKS + j] = <float> 2.0 * squares[i] / <float> K_BLOCK
    quantcore_fit_scales(
        x, importance.weights, mean_square, K_SUB_BLOCK, 4, n * K_SUB_BLOCKS, scale, inverse, weight_sum
    )
    quantcore_fit_scales(scale, weight_sum, NULL, K_SUB_BLOCKS, 32, n, d, super_inverse, NULL)
    bad = first_of(first_not_finite(x, n, K_BLOCK), first_not_finite(scale, n, K_SUB_BLOCKS))
    bad = first_of(bad, first_overflow(d, n))
    if bad >= 0:
        return bad
    for i in range(n):
        quantcore_code_sub_block(
            scale + i * K_SUB_BLOCKS, super_inverse[i], 1, super_inverse[i] == 0, K_SUB_BLOCKS, 32,
            multiple + i * K_SUB_BLOCKS,
        )
    q3_k_code(x, n, d, multiple, inverse, NULL, NULL, out, ahead, stride)
    return -1


cdef int64_t q3_k_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= K_BLOCKS super-blocks; the first that cannot be coded (NaN, inf, d too large), else -1."""
    cdef float scale[K_TILE_SUB_BLOCKS]
    cdef float inverse[K_TILE_SUB_BLOCKS]
    cdef int32_t slot[K_TILE_SUB_BLOCKS]
    cdef float codes[K_TILE_SUB_BLOCKS * K_SUB_BLOCK]
    cdef int32_t multiple[K_TILE_SUB_BLOCKS]
    cdef float d[K_BLOCKS]
    cdef float super_inverse[K_BLOCKS]
    cdef int64_t i, k, bad
    cdef int j
    cdef float largest
    if importance != NULL:
        return q3_k_quantize_weighed(x, n, importance, out, ahead, stride)

    quantcore_descend(x, n * K_SUB_BLOCKS, scale, inverse, slot, codes)
    bad = first_of(first_not_finite(x, n, K_BLOCK), first_not_finite(scale, n, K_SUB_BLOCKS))
    for i in range(n):
        largest = largest_scale(scale + i * K_SUB_BLOCKS)
        super_inverse[i] = <float> -32.0 / largest if largest != 0 else 0
        d[i] = <float> 1.0 / super_inverse[i] if largest != 0 else 0
    bad = first_of(bad, first_overflow(d, n))
    if bad >= 0:
        return bad
    for i in range(n):
        for j in range(K_SUB_BLOCKS):
            k = i * K_SUB_BLOCKS + j
            multiple[k] = min(max(quantcore_nearest(super_inverse[i] * scale[k]), -32), 31) + 32
        if super_inverse[i] == 0:
            for j in range(K_SUB_BLOCKS):
                multiple[i * K_SUB_BLOCKS + j] = 0
    q3_k_code(x, n, d, multiple, inverse, slot, codes, out, ahead, stride)
    return -1


cdef int64_t q3_k_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n <= K_BLOCKS super-blocks; the first whose d is not finite, else -1 (decoded all the same)."""
    cdef float d[K_BLOCKS]
    cdef float scale[K_SUB_BLOCKS]
    cdef int32_t multiple[K_SUB_BLOCKS]
    cdef int64_t i, bad = load_scales(data + Q3_K_D, n, Q3_K_BYTES, d)
    cdef int j
    cdef const uint8_t* block
    for i in range(n):
        block = data + i * Q3_K_BYTES
        prefetch_run(ahead + i * stride, stride)
        quantcore_unpack_multiples(block + Q3_K_SCALES, multiple)
        for j in range(K_SUB_BLOCKS):
            scale[j] = d[i] * <float> (multiple[j] - 32)
        quantcore_decode_threes(block, block + Q3_K_LOWER, scale, y + i * K_BLOCK)
    return bad


cdef void q3_k_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    cdef int j
    for j in range(K_SUB_BLOCKS):
        parts.scales[j] = parts.scales[j] + 32
    q3_k_store(parts.codes, parts.scales, <uint16_t> parts.d, block)


offer(11, K_BLOCK, Q3_K_BYTES, q3_k_quantize_tile, q3_k_dequantize_tile)
refine_multiples(11, K_SUB_BLOCK, quantcore_whole_levels(-4, 3), FirstScales(2.8, 0.16, 2), -32, 31, Q3_K_D, q3_k_pack)
