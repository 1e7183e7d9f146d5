# q1_0.pxi: Q1_0, 128 elements in 18 bytes: fp16 d | 16 bytes of bits, byte j: elements 8j to 8j + 7, the first lowest.
# x = d for a 1, -d for a 0. d is the mean magnitude, its sum taken in float32 in the order of the elements.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from quantcore._kernels.common.bits cimport bits_of, float_of
from quantcore._kernels.common.floats cimport quantcore_narrow_floats
from quantcore._kernels.common.memory cimport prefetch_run
from quantcore._kernels.formats.extremes cimport first_overflow
from quantcore._kernels.formats.scales cimport SCALES, load_scales, store_scale
from quantcore._kernels.table cimport TileImportance

cdef extern from "signs.h":
    uint8_t quantcore_signs8(const float* x) noexcept nogil
    void quantcore_sum_magnitudes(const float* x, int64_t rows, int64_t n, float* sums) noexcept nogil

cdef signed char[2] Q1_0_LEVELS = [-1, 1]

cdef enum:
    Q1_0_BLOCK = 128
    Q1_0_BYTES = 2 + 16
    Q1_0_MOST = 16  # blocks in a tile


cdef int64_t q1_0_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= Q1_0_MOST blocks; the first block that cannot be coded (NaN, inf, too large), else -1."""
    cdef float d[Q1_0_MOST]
    cdef uint16_t half[Q1_0_MOST]
    cdef int64_t i, refused
    cdef int j
    quantcore_sum_magnitudes(x, n, Q1_0_BLOCK, d)
    for i in range(Q1_0_MOST):
        d[i] = d[i] / <float> Q1_0_BLOCK
    refused = first_overflow(d, n)
    if refused >= 0:
        return refused
    quantcore_narrow_floats(d, n, half)
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        store_scale(out + i * Q1_0_BYTES, half[i])
        for j in range(16):
            out[i * Q1_0_BYTES + 2 + j] = quantcore_signs8(x + i * Q1_0_BLOCK + 8 * j)
    return -1


cdef int64_t q1_0_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n <= SCALES blocks; the first block whose scale is not finite, else -1 (decoded all the same)."""
    cdef float d[SCALES]
    cdef int64_t i, bad = load_scales(data, n, Q1_0_BYTES, d)
    cdef uint32_t bits, magnitude
    cdef int j, k
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        magnitude = bits_of(d[i])
        for j in range(16):
            bits = ~<uint32_t> data[i * Q1_0_BYTES + 2 + j]
            for k in range(8):
                y[k] = float_of(magnitude ^ (bits >> k) << 31)
            y += 8
    return bad


cdef void q1_0_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    cdef uint32_t bits
    cdef int j, k
    store_scale(block, <uint16_t> parts.scales[0])
    for j in range(16):
        bits = 0
        for k in range(8):
            bits |= <uint32_t> parts.codes[8 * j + k] << k
        block[2 + j] = <uint8_t> bits


offer(41, Q1_0_BLOCK, Q1_0_BYTES, q1_0_quantize_tile, q1_0_dequantize_tile)
refine_scales(41, Q1_0_BLOCK, &HALVES, quantcore_uneven_levels(Q1_0_LEVELS, 2), FirstScales(1, 0.1, 1), q1_0_pack)
