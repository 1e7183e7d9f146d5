# iq4_nl.pxi: IQ4_NL, 32 elements in 18 bytes: fp16 d | 16 bytes of codes, byte j: element j low nibble, j + 16 high.
# x = level of the code (iq4.pxd) * d. Codes are those of the d before it is rounded to fp16.
from libc.stdint cimport int64_t, uint8_t, uint16_t

from quantcore._kernels.common.floats cimport quantcore_narrow_floats
from quantcore._kernels.common.memory cimport prefetch_run
from quantcore._kernels.formats.iq4 cimport (
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
    IQ4_NL_BLOCK = 32
    IQ4_NL_BYTES = 2 + 16


cdef int64_t iq4_nl_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= SCALES blocks; the first block that cannot be coded (NaN, inf, d too large), else -1."""
    cdef float d[SCALES]
    cdef uint16_t half[SCALES]
    cdef int64_t i, refused
    cdef float inverse
    quantcore_iq4_scales(x, importance.weights if importance != NULL else NULL, 1, n, d)
    refused = iq4_first_refused(x, n, IQ4_NL_BLOCK, d)
    if refused >= 0:
        return refused
    quantcore_narrow_floats(d, n, half)
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        inverse = <float> 1 / d[i] if d[i] != 0 else <float> 0
        store_scale(out + i * IQ4_NL_BYTES, half[i])
        iq4_codes(x + i * IQ4_NL_BLOCK, inverse, out + i * IQ4_NL_BYTES + 2)
    return -1


cdef int64_t iq4_nl_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n <= SCALES blocks; the first block whose scale is not finite, else -1 (decoded all the same)."""
    cdef float d[SCALES]
    cdef int64_t i, bad = load_scales(data, n, IQ4_NL_BYTES, d)
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        quantcore_levels32(data + i * IQ4_NL_BYTES + 2, QUANTCORE_IQ4_LEVELS, d[i], y + i * IQ4_NL_BLOCK)
    return bad


cdef void iq4_nl_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    store_scale(block, <uint16_t> parts.scales[0])
    iq4_store(parts.codes, block + 2)


offer(20, IQ4_NL_BLOCK, IQ4_NL_BYTES, iq4_nl_quantize_tile, iq4_nl_dequantize_tile)
refine_scales(
    20, IQ4_NL_BLOCK, &HALVES, quantcore_uneven_levels(QUANTCORE_IQ4_LEVELS, 16), FirstScales(105, 1.5, 4), iq4_nl_pack
)
