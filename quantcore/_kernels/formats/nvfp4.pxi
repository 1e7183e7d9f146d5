# nvfp4.pxi: NVFP4, 64 elements in 36 bytes: 4 scales, one for each sub-block of 16 | 32 bytes of codes, 8 for each
# sub-block, byte j: element j low nibble, j + 8 high. x = E2M1 value of the code (e2m1.pxd) * scale. Scales are E4M3
# without a sign: absmax / 6, rounded half up; from 248 on it is 448. d is half a scale, since the values are doubled.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from quantcore._kernels.common.bits cimport INFINITE, MAGNITUDE, bits_of, float_of
from quantcore._kernels.common.floats cimport quantcore_widen_halves
from quantcore._kernels.common.memory cimport prefetch_run
from quantcore._kernels.formats.e2m1 cimport (
    QUANTCORE_E2M1_ASCENDING,
    QUANTCORE_E2M1_LEVELS,
    e2m1_code_of,
    e2m1_codes,
    quantcore_levels16_twice,
)
from quantcore._kernels.table cimport TileImportance

cdef enum:
    NVFP4_BLOCK = 64
    NVFP4_BYTES = 4 + 32
    NVFP4_PAIRS = 32
    NVFP4_SUB_BLOCK = 16
    NVFP4_SCALES = 4
    NVFP4_MOST = 128  # sub-blocks in a tile
    NVFP4_LARGEST = 0x7E  # 448
    NVFP4_NAN = 0x7F  # not a number in E4M3; ggml decodes it as 0
    NVFP4_FAR = 0x49800000  # bits of 2**20: from here on, distances from the values are rounded


cdef inline int32_t nvfp4_scale(uint32_t absmax) noexcept nogil:
    """The code of the scale for a finite absmax, given as its bits."""
    cdef float scale = float_of(absmax) / <float> 6
    cdef uint32_t bits = min(bits_of(scale), <uint32_t> 0x43E00000)
    # Normal scales: re-bias the exponent by 120 and round 20 bits of the mantissa away. Below: multiples of 2**-9.
    cdef int32_t normal = <int32_t> (bits + 0x80000 >> 20) - (120 << 3)
    cdef int32_t subnormal = min(<int32_t> (float_of(bits) * <float> 512 + <float> 0.5), 7)
    cdef int32_t code = normal if bits >= <uint32_t> 0x3C800000 else subnormal
    return code if code < (15 << 3) else NVFP4_LARGEST


cdef inline void nvfp4_halved_scales(const int32_t* code, int64_t n, float* d) noexcept nogil:
    """Half of each scale. Shifted to the left by 7, a code is the fp16 of its 2**-8th."""
    cdef uint16_t half[NVFP4_MOST]
    cdef int64_t i
    for i in range(n):
        half[i] = <uint16_t> ((code[i] & 0x7F) << 7 if (code[i] & 0xFF) != NVFP4_NAN else 0)
    quantcore_widen_halves(half, n, d)
    for i in range(n):
        d[i] = d[i] * <float> 128


cdef inline void nvfp4_far_codes(const float* x, float d, int32_t* code) noexcept nogil:
    """The codes of a sub-block with values that are so large that several codes are equally far, and the first wins."""
    cdef float distance, smallest
    cdef int j, k
    for j in range(NVFP4_SUB_BLOCK):
        code[j] = 0
        smallest = float_of(bits_of(x[j]) & MAGNITUDE)
        for k in range(1, 16):
            distance = float_of(bits_of(<float> QUANTCORE_E2M1_LEVELS[k] * d - x[j]) & MAGNITUDE)
            if distance < smallest:
                smallest = distance
                code[j] = k


cdef inline void nvfp4_store(const int32_t* code, uint8_t* block) noexcept nogil:
    """Everything in a block but its scales."""
    cdef int32_t pairs[NVFP4_PAIRS]
    cdef int j, k
    for k in range(NVFP4_SCALES):
        for j in range(8):
            pairs[8 * k + j] = code[16 * k + j] | code[16 * k + 8 + j] << 4
    quantcore_narrow(pairs, NVFP4_PAIRS, block + NVFP4_SCALES)


cdef int64_t nvfp4_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code blocks, at most a tile of them; the first block that cannot be coded (NaN, inf), else -1."""
    cdef uint32_t absmax[NVFP4_MOST]
    cdef int32_t scale[NVFP4_MOST]
    cdef float d[NVFP4_MOST]
    cdef int32_t code[NVFP4_BLOCK]
    cdef uint32_t largest, worst = 0
    cdef int64_t i, n_scales = n * NVFP4_SCALES
    cdef int j, k
    cdef const float* xb
    cdef uint8_t* block
    for i in range(n_scales):
        xb = x + i * NVFP4_SUB_BLOCK
        largest = 0
        for j in range(NVFP4_SUB_BLOCK):
            largest = max(largest, bits_of(xb[j]) & MAGNITUDE)
        absmax[i] = largest
    for i in range(n_scales):
        worst = max(worst, absmax[i])
    if worst >= <uint32_t> INFINITE:
        for i in range(n_scales):
            if absmax[i] >= <uint32_t> INFINITE:
                return i // NVFP4_SCALES
    for i in range(n_scales):
        scale[i] = nvfp4_scale(absmax[i])
    nvfp4_halved_scales(scale, n_scales, d)

    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        block = out + i * NVFP4_BYTES
        for k in range(NVFP4_SCALES):
            j = i * NVFP4_SCALES + k
            xb = x + j * NVFP4_SUB_BLOCK
            if absmax[j] < <uint32_t> NVFP4_FAR:
                e2m1_codes(xb, NVFP4_SUB_BLOCK, d[j], code + k * NVFP4_SUB_BLOCK)
            else:
                nvfp4_far_codes(xb, d[j], code + k * NVFP4_SUB_BLOCK)
            block[k] = <uint8_t> scale[j]
        nvfp4_store(code, block)
    return -1


cdef int64_t nvfp4_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode blocks, at most a tile of them; the first one with a scale that is not a number, else -1."""
    cdef int32_t scale[NVFP4_MOST]
    cdef float d[NVFP4_MOST]
    cdef int64_t i, k, bad = -1
    cdef const uint8_t* block
    for i in range(n):
        for k in range(NVFP4_SCALES):
            scale[i * NVFP4_SCALES + k] = data[i * NVFP4_BYTES + k]
    nvfp4_halved_scales(scale, n * NVFP4_SCALES, d)
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        block = data + i * NVFP4_BYTES
        for k in range(0, NVFP4_SCALES, 2):
            quantcore_levels16_twice(
                block + NVFP4_SCALES + 8 * k, QUANTCORE_E2M1_LEVELS, d + i * NVFP4_SCALES + k,
                y + i * NVFP4_BLOCK + k * NVFP4_SUB_BLOCK,
            )
        for k in range(NVFP4_SCALES):
            if block[k] == NVFP4_NAN and bad < 0:
                bad = i
    return bad


cdef int32_t nvfp4_nearest(float magnitude) noexcept nogil:
    """The code of the scale whose half is near a magnitude: an fp16 of its 2**-7th, rounded to 4 bits of mantissa."""
    return <int32_t> (quantcore_half_of_float(magnitude * <float> 0.0078125) + 64 >> 7)


cdef void nvfp4_decode(const int32_t* codes, float* scales) noexcept nogil:
    nvfp4_halved_scales(codes, CANDIDATES, scales)


cdef void nvfp4_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    cdef int j
    for j in range(NVFP4_BLOCK):
        parts.codes[j] = e2m1_code_of(parts.codes[j])
    for j in range(NVFP4_SCALES):
        block[j] = <uint8_t> parts.scales[j]
    nvfp4_store(parts.codes, block)


cdef ScaleNumbers E4M3 = ScaleNumbers(NVFP4_LARGEST, nvfp4_nearest, nvfp4_decode)

offer(40, NVFP4_BLOCK, NVFP4_BYTES, nvfp4_quantize_tile, nvfp4_dequantize_tile)
refine_scales(
    40, NVFP4_SUB_BLOCK, &E4M3, quantcore_uneven_levels(QUANTCORE_E2M1_ASCENDING, 15), FirstScales(9, 0.3, 2),
    nvfp4_pack,
)
