# q6_k.pxi: Q6_K, 256 elements in 210 bytes: 128 bytes of lower bits | 64 bytes of upper bits (packing.h) | 16 int8
# scales | fp16 d. x = (code - 32) * (d * scale), with a scale for each 16 elements.
# Scales come from scale_search.h, weighted by x * x or by the importance; d makes the largest of them -128. Where the
# sums of the search overflow, ggml writes scales of 0 or an infinite d; here the super-block is refused.
from libc.math cimport fabsf
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t

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
    void quantcore_pack_sixes(const uint8_t* codes, uint8_t* lower, uint8_t* upper) noexcept nogil
    void quantcore_decode_sixes(
        const uint8_t* lower, const uint8_t* upper, const float* scales, float* y
    ) noexcept nogil

cdef extern from "scale_search.h":
    const float QUANTCORE_ALL_ZERO
    void quantcore_fit_scales(
        const float* x, const float* weights, const float* mean_squares, int size, int top, int64_t n, float* scale,
        float* inverse, float* weight_sums,
    ) noexcept nogil
    void quantcore_code_sub_block(
        const float* x, float factor, float divisor, bint is_zero, int size, int top, int32_t* codes
    ) noexcept nogil

cdef extern from "vectors.h":
    int32_t quantcore_nearest(float x) noexcept nogil

cdef enum:
    Q6_K_BYTES = 128 + 64 + 16 + 2
    Q6_K_UPPER = 128
    Q6_K_SCALES = 192
    Q6_K_D = 208


cdef inline void q6_k_store(const int32_t* code, uint16_t d, uint8_t* block) noexcept nogil:
    """Everything in a block but the scales of its runs."""
    cdef uint8_t byte[K_BLOCK]
    quantcore_narrow(code, K_BLOCK, byte)
    quantcore_pack_sixes(byte, block, block + Q6_K_UPPER)
    store_scale(block + Q6_K_D, d)


cdef int64_t q6_k_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= K_BLOCKS super-blocks; the first that cannot be coded (NaN, inf, d too large), else -1."""
    cdef float scale[K_TILE_SUB_BLOCKS]
    cdef float inverse[K_TILE_SUB_BLOCKS]
    cdef float divisor[K_TILE_SUB_BLOCKS]
    cdef float d[K_BLOCKS]
    cdef float super_inverse[K_BLOCKS]
    cdef uint16_t half[K_BLOCKS]
    cdef int32_t code[K_BLOCK]
    cdef int64_t i, bad
    cdef int j, k
    cdef bint is_zero
    cdef int32_t multiple
    cdef float largest
    cdef uint8_t* block

    bad = first_not_finite(x, n, K_BLOCK)
    quantcore_fit_scales(
        x, importance.weights if importance != NULL else NULL, NULL, K_SUB_BLOCK, 32, n * K_SUB_BLOCKS, scale, inverse,
        NULL,
    )
    bad = first_of(bad, first_not_finite(scale, n, K_SUB_BLOCKS))
    for i in range(n):
        largest = largest_scale(scale + i * K_SUB_BLOCKS)
        super_inverse[i] = <float> -128.0 / largest if fabsf(largest) >= QUANTCORE_ALL_ZERO else 0
        d[i] = <float> 1.0 / super_inverse[i] if super_inverse[i] != 0 else 0
    bad = first_of(bad, first_overflow(d, n))
    if bad >= 0:
        return bad

    quantcore_narrow_floats(d, n, half)
    quantcore_widen_halves(half, n, d)
    for i in range(n):
        block = out + i * Q6_K_BYTES
        prefetch_run(ahead + i * stride, stride)
        for j in range(K_SUB_BLOCKS):
            k = <int> i * K_SUB_BLOCKS + j
            multiple = min(quantcore_nearest(super_inverse[i] * scale[k]), <int32_t> 127)
            block[Q6_K_SCALES + j] = <uint8_t> multiple
            divisor[k] = d[i] * <float> multiple
            # A sub-block whose scale vanishes keeps the codes of the search.
            is_zero = inverse[k] == 0 or super_inverse[i] == 0
            if divisor[k] != 0:
                inverse[k] = 1
            else:
                divisor[k] = 1
            quantcore_code_sub_block(
                x + k * K_SUB_BLOCK, inverse[k], divisor[k], is_zero, K_SUB_BLOCK, 32, code + j * K_SUB_BLOCK
            )
        q6_k_store(code, half[i], block)
    return -1


cdef int64_t q6_k_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n <= K_BLOCKS super-blocks; the first whose d is not finite, else -1 (decoded all the same)."""
    cdef float d[K_BLOCKS]
    cdef float scale[K_SUB_BLOCKS]
    cdef int64_t i, bad = load_scales(data + Q6_K_D, n, Q6_K_BYTES, d)
    cdef int j
    cdef const uint8_t* block
    for i in range(n):
        block = data + i * Q6_K_BYTES
        prefetch_run(ahead + i * stride, stride)
        for j in range(K_SUB_BLOCKS):
            scale[j] = d[i] * <float> (<const int8_t*> block)[Q6_K_SCALES + j]
        quantcore_decode_sixes(block, block + Q6_K_UPPER, scale, y + i * K_BLOCK)
    return bad


cdef void q6_k_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    cdef int j
    for j in range(K_SUB_BLOCKS):
        block[Q6_K_SCALES + j] = <uint8_t> parts.scales[j]
    q6_k_store(parts.codes, <uint16_t> parts.d, block)


offer(14, K_BLOCK, Q6_K_BYTES, q6_k_quantize_tile, q6_k_dequantize_tile)
refine_multiples(
    14, K_SUB_BLOCK, quantcore_whole_levels(-32, 31), FirstScales(27, 0.2, 2), -128, 127, Q6_K_D, q6_k_pack
)
