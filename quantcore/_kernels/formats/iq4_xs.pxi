# iq4_xs.pxi: IQ4_XS, 256 elements in 136 bytes: fp16 d | the upper 2 bits of 8 sub-blocks' scales, uint16, the first
# one lowest | their lower 4 bits, 4 bytes, the first of two low | 16 bytes of codes for each sub-block of 32, byte j:
# element j low nibble, j + 16 high. x = level of the code (iq4.pxd) * (d * (scale - 32)). d is the sub-block scale of
# largest magnitude over -32; codes are those of the d before it is rounded to fp16. Where values are so large (beyond
# 10**15) that a sub-block's sums are not finite, ggml may store zeros; such a block is refused.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from quantcore._kernels.common.bits cimport MAGNITUDE, bits_of
from quantcore._kernels.common.floats cimport quantcore_narrow_floats
from quantcore._kernels.common.memory cimport prefetch_run
from quantcore._kernels.formats.iq4 cimport (
    IQ4_RUN,
    QUANTCORE_IQ4_LEVELS,
    iq4_codes,
    iq4_first_refused,
    iq4_store,
    quantcore_iq4_scales,
    quantcore_levels32,
)
from quantcore._kernels.formats.scales cimport SCALES, load_scales, store_scale
from quantcore._kernels.table cimport TileImportance

cdef enum:
    IQ4_XS_BLOCK = 256
    IQ4_XS_BYTES = 2 + 2 + 4 + 128
    IQ4_XS_RUNS = 8
    IQ4_XS_MOST = 8  # blocks in a tile


cdef inline int32_t iq4_xs_nearest(float v) noexcept nogil:
    """The nearest whole number (to even), -32 to 31. As in ggml, it is what the bits of v + 1.5 * 2**23 say."""
    cdef int32_t nearest = <int32_t> (bits_of(v + <float> 12582912) & 0x7FFFFF) - 0x400000
    return max(min(nearest, 31), -32)


cdef inline void iq4_xs_store_scales(const int32_t* codes, uint8_t* block) noexcept nogil:
    """Scales of runs, -32 to 31."""
    cdef uint32_t upper = 0, lower = 0
    cdef int k
    for k in range(IQ4_XS_RUNS):
        lower |= <uint32_t> (codes[k] + 32 & 15) << 4 * k
        upper |= <uint32_t> (codes[k] + 32 >> 4) << 2 * k
    for k in range(2):
        block[2 + k] = <uint8_t> (upper >> 8 * k)
    for k in range(4):
        block[4 + k] = <uint8_t> (lower >> 8 * k)


cdef inline void iq4_xs_code_block(const float* x, const float* scales, float d, uint8_t* block) noexcept nogil:
    """Everything in a block but its fp16."""
    cdef float inverse = <float> 1 / d if d != 0 else <float> 0
    cdef float scale
    cdef int32_t codes[IQ4_XS_RUNS]
    cdef int k
    for k in range(IQ4_XS_RUNS):
        codes[k] = iq4_xs_nearest(inverse * scales[k])
        scale = d * <float> codes[k]
        iq4_codes(x + k * IQ4_RUN, <float> 1 / scale if scale != 0 else <float> 0, block + 8 + 16 * k)
    iq4_xs_store_scales(codes, block)


cdef int64_t iq4_xs_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= IQ4_XS_MOST blocks; the first block that cannot be coded (NaN, inf, d too large), else -1."""
    cdef float scales[SCALES]
    cdef float d[IQ4_XS_MOST]
    cdef uint16_t half[IQ4_XS_MOST]
    cdef int64_t i, k, refused
    cdef float extreme
    quantcore_iq4_scales(x, importance.weights if importance != NULL else NULL, IQ4_XS_RUNS, n * IQ4_XS_RUNS, scales)
    for i in range(n):
        # As bits, a scale that is not finite (its values are too large for its sums) comes out as the extreme, too.
        extreme = 0
        for k in range(i * IQ4_XS_RUNS, (i + 1) * IQ4_XS_RUNS):
            if (bits_of(scales[k]) & MAGNITUDE) > (bits_of(extreme) & MAGNITUDE):
                extreme = scales[k]
        d[i] = -extreme / <float> 32
    refused = iq4_first_refused(x, n, IQ4_XS_BLOCK, d)
    if refused >= 0:
        return refused
    quantcore_narrow_floats(d, n, half)
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        store_scale(out + i * IQ4_XS_BYTES, half[i])
        iq4_xs_code_block(x + i * IQ4_XS_BLOCK, scales + i * IQ4_XS_RUNS, d[i], out + i * IQ4_XS_BYTES)
    return -1


cdef int64_t iq4_xs_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n <= IQ4_XS_MOST blocks; the first block whose d is not finite, else -1 (decoded all the same)."""
    cdef float d[SCALES]
    cdef float scale[IQ4_XS_RUNS]
    cdef int64_t i, k, bad = load_scales(data, n, IQ4_XS_BYTES, d)
    cdef uint32_t upper, lower
    cdef const uint8_t* block
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        block = data + i * IQ4_XS_BYTES
        upper = block[2] | <uint32_t> block[3] << 8
        lower = block[4] | <uint32_t> block[5] << 8 | <uint32_t> block[6] << 16 | <uint32_t> block[7] << 24
        for k in range(IQ4_XS_RUNS):
            scale[k] = d[i] * <float> (<int32_t> (lower >> 4 * k & 15 | (upper >> 2 * k & 3) << 4) - 32)
        for k in range(IQ4_XS_RUNS):
            quantcore_levels32(
                block + 8 + 16 * k, QUANTCORE_IQ4_LEVELS, scale[k], y + i * IQ4_XS_BLOCK + k * IQ4_RUN
            )
    return bad


cdef void iq4_xs_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    cdef int k
    store_scale(block, <uint16_t> parts.d)
    iq4_xs_store_scales(parts.scales, block)
    for k in range(IQ4_XS_RUNS):
        iq4_store(parts.codes + k * IQ4_RUN, block + 8 + 16 * k)


offer(23, IQ4_XS_BLOCK, IQ4_XS_BYTES, iq4_xs_quantize_tile, iq4_xs_dequantize_tile)
refine_multiples(
    23, IQ4_RUN, quantcore_uneven_levels(QUANTCORE_IQ4_LEVELS, 16), FirstScales(105, 3, 2), -32, 31, 0, iq4_xs_pack
)
