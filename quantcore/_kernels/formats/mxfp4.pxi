# mxfp4.pxi: MXFP4, 32 elements in 17 bytes: e (E8M0) | 16 bytes of codes, byte j: element j low nibble, j + 16 high.
# x = E2M1 value of the code (e2m1.pxd) * 2**(e - 127), e = floor(log2(absmax)) - 2. d is half of this power, since the
# values are doubled. ggml's result is undefined where e would be negative (absmax below 2**-125); here, e is 0 then.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from quantcore._kernels.common.bits cimport INFINITE, MAGNITUDE, bits_of, float_of
from quantcore._kernels.common.memory cimport prefetch_run
from quantcore._kernels.formats.e2m1 cimport (
    QUANTCORE_E2M1_ASCENDING,
    QUANTCORE_E2M1_LEVELS,
    e2m1_code_of,
    e2m1_codes,
    quantcore_levels32,
)
from quantcore._kernels.formats.scales cimport SCALES
from quantcore._kernels.table cimport TileImportance

cdef enum:
    MXFP4_BLOCK = 32
    MXFP4_BYTES = 1 + 16
    MXFP4_NAN = 255  # not a number in E8M0; ggml decodes it as the next power of two


cdef inline int32_t mxfp4_exponent(uint32_t absmax) noexcept nogil:
    """e of a finite absmax, given as its bits.

    ggml's logarithm is a float32, so that an absmax that lies just below 2**n counts as 2**n: by no more than
    log(2) * 2**p units in its last place, with 2**p the power of two at or below -n, or below n.
    """
    cdef int32_t n = <int32_t> (absmax >> 23) - 126
    cdef int32_t size = n - 1 if n > 0 else -n
    cdef int32_t units = (
        (size >= 2) + (size >= 4) + (size >= 8) * 3 + (size >= 16) * 6 + (size >= 32) * 11 + (size >= 64) * 22
    )
    return max((<int32_t> absmax + units >> 23) - 2, 0)


cdef inline float mxfp4_scale(int32_t e) noexcept nogil:
    """2**(e - 128), which is subnormal for the lowest two e."""
    return float_of(<uint32_t> (e - 1) << 23 if e >= 2 else <uint32_t> 0x00200000 << (e & 1))


cdef inline void mxfp4_store(int32_t* code, int32_t e, uint8_t* block) noexcept nogil:
    cdef int j
    for j in range(16):
        code[j] = code[j] | code[j + 16] << 4
    block[0] = <uint8_t> e
    quantcore_narrow(code, 16, block + 1)


cdef int64_t mxfp4_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= SCALES blocks; the first block that cannot be coded (NaN, inf), else -1."""
    cdef int32_t e[SCALES]
    cdef float d[SCALES]
    cdef int32_t code[MXFP4_BLOCK]
    cdef uint32_t absmax[SCALES]
    cdef uint32_t largest, worst = 0
    cdef int64_t i
    cdef int j
    cdef const float* xb
    for i in range(n):
        xb = x + i * MXFP4_BLOCK
        largest = 0
        for j in range(MXFP4_BLOCK):
            largest = max(largest, bits_of(xb[j]) & MAGNITUDE)
        absmax[i] = largest
    for i in range(n):
        worst = max(worst, absmax[i])
    if worst >= <uint32_t> INFINITE:
        for i in range(n):
            if absmax[i] >= <uint32_t> INFINITE:
                return i
    for i in range(n):
        e[i] = mxfp4_exponent(absmax[i])
        d[i] = mxfp4_scale(e[i])

    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        e2m1_codes(x + i * MXFP4_BLOCK, MXFP4_BLOCK, d[i], code)
        mxfp4_store(code, e[i], out + i * MXFP4_BYTES)
    return -1


cdef int64_t mxfp4_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n <= SCALES blocks; the first block whose scale is not a number, else -1 (decoded all the same)."""
    cdef int64_t i, bad = -1
    cdef const uint8_t* block
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        block = data + i * MXFP4_BYTES
        quantcore_levels32(block + 1, QUANTCORE_E2M1_LEVELS, mxfp4_scale(block[0]), y + i * MXFP4_BLOCK)
        if block[0] == MXFP4_NAN and bad < 0:
            bad = i
    return bad


cdef int32_t mxfp4_nearest(float magnitude) noexcept nogil:
    """e of the power of two at or below a magnitude, in units of doubled values."""
    return <int32_t> (bits_of(magnitude) >> 23) + 1


cdef void mxfp4_decode(const int32_t* codes, float* scales) noexcept nogil:
    cdef int i
    for i in range(CANDIDATES):
        scales[i] = mxfp4_scale(codes[i])


cdef void mxfp4_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    cdef int j
    for j in range(MXFP4_BLOCK):
        parts.codes[j] = e2m1_code_of(parts.codes[j])
    mxfp4_store(parts.codes, parts.scales[0], block)


cdef ScaleNumbers E8M0 = ScaleNumbers(MXFP4_NAN - 1, mxfp4_nearest, mxfp4_decode)

offer(39, MXFP4_BLOCK, MXFP4_BYTES, mxfp4_quantize_tile, mxfp4_dequantize_tile)
refine_scales(
    39, MXFP4_BLOCK, &E8M0, quantcore_uneven_levels(QUANTCORE_E2M1_ASCENDING, 15), FirstScales(9, 0.3, 2), mxfp4_pack
)
