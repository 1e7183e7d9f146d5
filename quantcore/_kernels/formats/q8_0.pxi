# q8_0.pxi: Q8_0, 32 elements in 34 bytes: fp16 d | int8 codes. x = code * d, d = absmax / 127; half away from zero.
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t

from quantcore._kernels.common.bits cimport MAGNITUDE, bits_of, float_of
from quantcore._kernels.common.memory cimport prefetch_run
from quantcore._kernels.formats.scales cimport SCALES, code_scales, load_scales, store_scale
from quantcore._kernels.table cimport TileImportance

cdef extern from "narrow.h":
    void quantcore_narrow(const int32_t* codes, int n, uint8_t* data) noexcept nogil

cdef enum:
    Q8_0_BLOCK = 32
    Q8_0_BYTES = 2 + 32
    Q8_0_LIMIT = 0x4AFDF020  # bits of 8321040: d would round to an infinite fp16


cdef int64_t q8_0_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= SCALES blocks; returns the first block that cannot be coded (NaN, inf, too large), or -1.

    While codes are computed in L1, the blocks at `ahead` are prefetched, `stride` bytes each.
    """
    cdef uint32_t absmax[SCALES]
    cdef float d[SCALES]
    cdef float inverse[SCALES]
    cdef uint16_t scale[SCALES]
    cdef int32_t code[Q8_0_BLOCK]
    cdef int64_t i
    cdef int j
    cdef uint32_t largest, bits, sign, worst = 0
    cdef float v, id
    cdef const float* xb
    cdef uint8_t* block

    # Magnitudes compare as integers; NaN and inf come out above every limit.
    for i in range(n):
        xb = x + i * Q8_0_BLOCK
        largest = 0
        for j in range(Q8_0_BLOCK):
            largest = max(largest, bits_of(xb[j]) & MAGNITUDE)
        absmax[i] = largest

    for i in range(n):
        worst = max(worst, absmax[i])
        d[i] = float_of(absmax[i]) / <float> 127.0
    if worst >= <uint32_t> Q8_0_LIMIT:
        for i in range(n):
            if absmax[i] >= <uint32_t> Q8_0_LIMIT:
                return i
    code_scales(d, n, scale, inverse)

    for i in range(n):
        xb = x + i * Q8_0_BLOCK
        block = out + i * Q8_0_BYTES
        id = inverse[i]
        prefetch_run(ahead + i * stride, stride)
        # Adding the float below one half, with the sign of v, and truncating rounds half away from zero exactly.
        # The clamp (on the bits of the magnitude, NaN included) never acts unless another thread writes to x; then it
        # keeps the cast defined.
        for j in range(Q8_0_BLOCK):
            bits = bits_of(xb[j] * id)
            sign = bits & ~<uint32_t> MAGNITUDE
            v = float_of(min(bits & MAGNITUDE, <uint32_t> 0x42FE0000) | sign)
            code[j] = <int32_t> (v + float_of(<uint32_t> 0x3EFFFFFF | sign))
        store_scale(block, scale[i])
        quantcore_narrow(code, 32, block + 2)
    return -1


cdef int64_t q8_0_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n <= SCALES blocks; returns the first block whose scale is not finite (it is decoded as well), or -1."""
    cdef float d[SCALES]
    cdef int64_t i, bad = load_scales(data, n, Q8_0_BYTES, d)
    cdef int j
    cdef const int8_t* block
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        block = <const int8_t*> (data + i * Q8_0_BYTES)
        for j in range(Q8_0_BLOCK):
            y[i * Q8_0_BLOCK + j] = <float> block[2 + j] * d[i]
    return bad


cdef void q8_0_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    cdef int j
    for j in range(Q8_0_BLOCK):
        parts.codes[j] = parts.codes[j] - 127
    store_scale(block, <uint16_t> parts.scales[0])
    quantcore_narrow(parts.codes, Q8_0_BLOCK, block + 2)


offer(8, Q8_0_BLOCK, Q8_0_BYTES, q8_0_quantize_tile, q8_0_dequantize_tile)
refine_scales(8, Q8_0_BLOCK, &HALVES, quantcore_whole_levels(-127, 127), FirstScales(112, 0.15, 8), q8_0_pack)
