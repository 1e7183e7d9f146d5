# q4_1.pxi: Q4_1, 32 elements in 20 bytes: fp16 d | fp16 m | 16 bytes of codes, byte j: element j low nibble, j + 16
# high nibble. x = code * d + m. m is the least value, d the range over 15; codes are computed from d before it is
# rounded. ggml's codes are undefined where 1/d is infinite (a range below 15 * 2^-128); here they are 0.
# With importance, d and m come from range_search.h.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from quantcore._kernels.common.bits cimport bits_of, float_of
from quantcore._kernels.common.floats cimport quantcore_narrow_floats
from quantcore._kernels.common.memory cimport prefetch_run
from quantcore._kernels.formats.extremes cimport block_ranges, first_of, first_overflow
from quantcore._kernels.formats.scales cimport SCALES, code_scales, load_scales, store_scale
from quantcore._kernels.formats.weighing cimport quantcore_code_range, weighed_ranges
from quantcore._kernels.table cimport NEEDS_ROW_MEAN, TileImportance

cdef extern from "narrow.h":
    void quantcore_narrow(const int32_t* codes, int n, uint8_t* data) noexcept nogil

cdef extern from "packing.h":
    void quantcore_decode_nibbles(const uint8_t* nibbles, float scale, float shift, float* y) noexcept nogil

cdef enum:
    Q4_1_BLOCK = 32
    Q4_1_BYTES = 2 + 2 + 16


cdef inline void q4_1_store(int32_t* code, uint16_t d, uint16_t m, uint8_t* block) noexcept nogil:
    cdef int j
    for j in range(16):
        code[j] = code[j] | code[j + 16] << 4
    store_scale(block, d)
    store_scale(block + 2, m)
    quantcore_narrow(code, 16, block + 4)


cdef int64_t q4_1_quantize_weighed(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    cdef float inverse[SCALES]
    cdef float start[SCALES]
    cdef uint16_t scale[SCALES]
    cdef uint16_t minimum[SCALES]
    cdef int32_t code[Q4_1_BLOCK]
    cdef int64_t i, bad = weighed_ranges(x, n, importance, 15, scale, minimum, inverse, start)
    cdef uint8_t* block
    if bad >= 0:
        return bad
    for i in range(n):
        block = out + i * Q4_1_BYTES
        prefetch_run(ahead + i * stride, stride)
        quantcore_code_range(x + i * Q4_1_BLOCK, inverse[i], start[i], 15, code)
        q4_1_store(code, scale[i], minimum[i], block)
    return -1


cdef int64_t q4_1_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= SCALES blocks; the first block that cannot be coded (NaN, inf, too large), else -1.

    While codes are computed in L1, memory is asked for the blocks `ahead`, `stride` bytes each.
    """
    cdef uint32_t smallest[SCALES]
    cdef uint32_t largest[SCALES]
    cdef float low[SCALES]
    cdef float d[SCALES]
    cdef float inverse[SCALES]
    cdef uint16_t scale[SCALES]
    cdef uint16_t minimum[SCALES]
    cdef uint32_t clamped[Q4_1_BLOCK]
    cdef int32_t code[Q4_1_BLOCK]
    cdef int64_t i, bad
    cdef int j
    cdef float id, lowest
    cdef const float* xb
    cdef uint8_t* block
    if importance != NULL:
        return q4_1_quantize_weighed(x, n, importance, out, ahead, stride)

    block_ranges(x, n, smallest, largest, low, d)
    for i in range(n):
        d[i] = (d[i] - low[i]) / <float> 15.0
    bad = first_of(first_overflow(low, n), first_overflow(d, n))
    if bad >= 0:
        return bad

    code_scales(d, n, scale, inverse)
    quantcore_narrow_floats(low, n, minimum)
    for i in range(n):
        xb = x + i * Q4_1_BLOCK
        block = out + i * Q4_1_BYTES
        id = inverse[i]
        lowest = low[i]
        prefetch_run(ahead + i * stride, stride)
        # v is from 0.5 to 15.6: the clamp (as in q4_0.pxi) only acts if another thread writes to x.
        for j in range(Q4_1_BLOCK):
            clamped[j] = min(bits_of((xb[j] - lowest) * id + <float> 0.5), <uint32_t> 0x41700000)
        for j in range(Q4_1_BLOCK):
            code[j] = <int32_t> float_of(clamped[j])
        q4_1_store(code, scale[i], minimum[i], block)
    return -1


cdef int64_t q4_1_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n <= SCALES blocks; the first block whose d or m is not finite, else -1 (decoded all the same)."""
    cdef float d[SCALES]
    cdef float m[SCALES]
    cdef int64_t i
    cdef int64_t bad = first_of(
        load_scales(data, n, Q4_1_BYTES, d), load_scales(data + 2, n, Q4_1_BYTES, m)
    )
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        quantcore_decode_nibbles(data + i * Q4_1_BYTES + 4, d[i], m[i], y + i * Q4_1_BLOCK)
    return bad


cdef void q4_1_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    q4_1_store(parts.codes, <uint16_t> parts.scales[0], <uint16_t> parts.minima[0], block)


offer(3, Q4_1_BLOCK, Q4_1_BYTES, q4_1_quantize_tile, q4_1_dequantize_tile, NEEDS_ROW_MEAN)
refine_ranges(3, Q4_1_BLOCK, 15, q4_1_pack)
