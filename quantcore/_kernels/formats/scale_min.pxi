# scale_min.pxi: what Q2_K, Q4_K and Q5_K share: super-blocks of 256 elements whose sub-blocks have a scale and a
# minimum each, x = scale * code - minimum. These are codes in turn, multiples of the fp16 `d` and `dmin` of the
# super-block, which is refused if one of the two is NaN or would round to inf, from 65520 on.
#
# A tile has 8 super-blocks. Lane 8 * j + b is sub-block j of super-block b; scales and minima are rows of 8 lanes, one
# row for each j, so that the super-blocks side by side are vectors too. No float that could overflow is cast: codes
# come from the bits of sums, as ggml's do, so that the bytes are the same even where it wraps around.
from libc.math cimport fabsf, sqrtf
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from quantcore._kernels.common.bits cimport INFINITE, bits_of, float_of
from quantcore._kernels.common.floats cimport first_from, quantcore_narrow_floats, quantcore_widen_halves
from quantcore._kernels.formats.scales cimport store_scale
from quantcore._kernels.table cimport TileImportance

cdef extern from "scale_min_search.h":
    ctypedef struct quantcore_fit:
        float x[2048]
        float weights[2048]
        float scale[128]
        float minimum[128]
        float code_scale[128]
        float code_minimum[128]

    ctypedef struct quantcore_candidates:
        float most
        float first
        float step
        int n_steps

    void quantcore_turn(const float* x, int n, float* rows) noexcept nogil
    void quantcore_fit32(quantcore_fit* fit, const quantcore_candidates* candidates) noexcept nogil
    void quantcore_fit16_absolute(quantcore_fit* fit, const quantcore_candidates* candidates) noexcept nogil
    void quantcore_fit32_weighted(quantcore_fit* fit, const quantcore_candidates* candidates) noexcept nogil
    void quantcore_fit16_weighted(quantcore_fit* fit, const quantcore_candidates* candidates) noexcept nogil

cdef extern from "scale_codes.h":
    ctypedef struct quantcore_scales:
        float values[256]
        float weights[256]
        float codes[256]
        float scales[16]

    void quantcore_code_scales(quantcore_scales* scales, int n, float most) noexcept nogil

cdef extern from "scaled_bytes.h":
    void quantcore_scale_bytes(const uint8_t* codes, int n, float scale, float minimum, float* y) noexcept nogil

cdef enum:
    SUPER_BLOCK = 256
    SUPER_BLOCKS = 8  # in a tile

# A tile while it is coded: codes of scales and minima by lane, d and dmin by super-block (float32 and fp16), and what
# each lane is decoded with.
cdef struct ScaleMinTile:
    quantcore_fit fit
    int32_t scale_codes[128]
    int32_t minimum_codes[128]
    float d[SUPER_BLOCKS]
    float dmin[SUPER_BLOCKS]
    uint16_t half_d[SUPER_BLOCKS]
    uint16_t half_dmin[SUPER_BLOCKS]
    float lane_d[128]
    float lane_dmin[128]


cdef inline int32_t nearest(float v) noexcept nogil:
    """v rounded to the nearest even, by ggml's trick, whose overflow is part of its bytes: beyond 2**22 it wraps."""
    return <int32_t> (bits_of(v + <float> 12582912.0) & 0x7FFFFF) - 0x400000


cdef inline void load_lanes(const float* x, int64_t n, int size, float* rows) noexcept nogil:
    """n super-blocks in sub-blocks of `size` elements as rows of lanes, the rest of the tile zeros."""
    cdef float padded[SUPER_BLOCKS * SUPER_BLOCK]
    if n == SUPER_BLOCKS:
        quantcore_turn(x, size, rows)
    else:
        memcpy(padded, x, n * SUPER_BLOCK * sizeof(float))
        memset(padded + n * SUPER_BLOCK, 0, (SUPER_BLOCKS - n) * SUPER_BLOCK * sizeof(float))
        quantcore_turn(padded, size, rows)


cdef inline void weigh_by_importance(
    const float* x, const float* importance, int64_t n, int size, float multiple, float* weights
) noexcept nogil:
    """weights = importance * sqrt(mean + x * x); `mean` is that of the super-block's squares, times `multiple`."""
    cdef float mean[SUPER_BLOCKS]
    cdef int i, j, b, lane, stride = 2048 // size
    for b in range(SUPER_BLOCKS):
        mean[b] = 0
    for j in range(SUPER_BLOCK // size):
        for i in range(size):
            for b in range(SUPER_BLOCKS):
                lane = i * stride + j * SUPER_BLOCKS + b
                mean[b] += x[lane] * x[lane]
    for b in range(SUPER_BLOCKS):
        mean[b] = multiple * mean[b] / <float> SUPER_BLOCK
    load_lanes(importance, n, size, weights)
    for i in range(256):
        for b in range(SUPER_BLOCKS):
            lane = i * SUPER_BLOCKS + b
            weights[lane] *= sqrtf(mean[b] + x[lane] * x[lane])


cdef inline void weigh_by_magnitude32(const float* x, float* weights) noexcept nogil:
    """weights = root mean square of the sub-block + |x|."""
    cdef float mean[64]
    cdef int i, lane
    for lane in range(64):
        mean[lane] = 0
    for i in range(32):
        for lane in range(64):
            mean[lane] += x[i * 64 + lane] * x[i * 64 + lane]
    for lane in range(64):
        mean[lane] = sqrtf(mean[lane] / <float> 32)
    for i in range(32):
        for lane in range(64):
            weights[i * 64 + lane] = mean[lane] + fabsf(x[i * 64 + lane])


cdef inline void code_plainly(
    const float* values, int n, float most, bint is_clamped, float sign, int32_t* codes, float* d
) noexcept nogil:
    """Codes of n rows of 8 lanes as multiples of d, the largest of them over `most`."""
    cdef float highest[SUPER_BLOCKS]
    cdef float inverse[SUPER_BLOCKS]
    cdef float v
    cdef int32_t code
    cdef int j, b
    for b in range(SUPER_BLOCKS):
        highest[b] = 0
    for j in range(n):
        for b in range(SUPER_BLOCKS):
            v = sign * values[j * SUPER_BLOCKS + b]
            highest[b] = v if v > highest[b] else highest[b]
    for b in range(SUPER_BLOCKS):
        inverse[b] = most / highest[b] if highest[b] > 0 else <float> 0
        d[b] = highest[b] / most
    for j in range(n):
        for b in range(SUPER_BLOCKS):
            # A negative scale wraps around as ggml's byte does.
            code = nearest(inverse[b] * (sign * values[j * SUPER_BLOCKS + b])) & 255
            codes[j * SUPER_BLOCKS + b] = min(code, <int32_t> most) if is_clamped else code


cdef inline void code_weighted(ScaleMinTile* tile, int n, int size, float most) noexcept nogil:
    """Codes of n rows of scales and minima as multiples of d and dmin, weighted by the sub-blocks' sums of weights."""
    cdef quantcore_scales scales
    cdef float sums[128]
    cdef int i, j, b, stride = 2048 // size
    for j in range(stride):
        sums[j] = 0
    for i in range(size):
        for j in range(stride):
            sums[j] += tile.fit.weights[i * stride + j]
    for j in range(n):
        for b in range(SUPER_BLOCKS):
            scales.values[16 * j + b] = tile.fit.scale[SUPER_BLOCKS * j + b]
            scales.values[16 * j + 8 + b] = -tile.fit.minimum[SUPER_BLOCKS * j + b]
            scales.weights[16 * j + b] = sums[SUPER_BLOCKS * j + b]
            scales.weights[16 * j + 8 + b] = sums[SUPER_BLOCKS * j + b]
    quantcore_code_scales(&scales, n, most)
    for j in range(n):
        for b in range(SUPER_BLOCKS):
            tile.scale_codes[SUPER_BLOCKS * j + b] = <int32_t> scales.codes[16 * j + b]
            tile.minimum_codes[SUPER_BLOCKS * j + b] = <int32_t> scales.codes[16 * j + 8 + b]
    for b in range(SUPER_BLOCKS):
        tile.d[b] = scales.scales[b]
        tile.dmin[b] = scales.scales[8 + b]


cdef inline int64_t halve_scales(ScaleMinTile* tile, int64_t n) noexcept nogil:
    """d and dmin as fp16, and back; the first of n super-blocks where that is inf or NaN, else -1."""
    cdef int64_t b
    cdef uint32_t largest
    quantcore_narrow_floats(tile.d, SUPER_BLOCKS, tile.half_d)
    quantcore_narrow_floats(tile.dmin, SUPER_BLOCKS, tile.half_dmin)
    quantcore_widen_halves(tile.half_d, SUPER_BLOCKS, tile.d)
    quantcore_widen_halves(tile.half_dmin, SUPER_BLOCKS, tile.dmin)
    for b in range(n):
        largest = max(tile.half_d[b] & <uint32_t> 0x7C00, tile.half_dmin[b] & <uint32_t> 0x7C00)
        if largest == <uint32_t> 0x7C00:
            return b
    return -1


cdef inline void spread_scales(ScaleMinTile* tile, int n) noexcept nogil:
    """The scale and minimum that each sub-block will be decoded with."""
    cdef int j, b
    for j in range(n):
        for b in range(SUPER_BLOCKS):
            tile.lane_d[j * SUPER_BLOCKS + b] = tile.d[b] * <float> tile.scale_codes[j * SUPER_BLOCKS + b]
            tile.lane_dmin[j * SUPER_BLOCKS + b] = tile.dmin[b] * <float> tile.minimum_codes[j * SUPER_BLOCKS + b]


cdef inline void code_elements(
    const ScaleMinTile* tile, const float* x, int64_t b, int size, int32_t most, bint is_guarded, int32_t* codes
) noexcept nogil:
    """Codes of super-block b by its scales and minima as they are decoded; where the scale is 0, those of the search.

    `is_guarded`: the search clamps before it rounds.
    """
    cdef const float* xb
    cdef int32_t* code
    cdef float clipped[32]
    cdef float d, m, v, limit = <float> most
    cdef int i, j
    cdef int64_t lane
    for j in range(SUPER_BLOCK // size):
        lane = j * SUPER_BLOCKS + b
        xb = x + b * SUPER_BLOCK + j * size
        code = codes + j * size
        d, m = tile.lane_d[lane], tile.lane_dmin[lane]
        if d != 0:
            for i in range(size):
                code[i] = min(max(nearest((xb[i] + m) / d), 0), most)
        else:
            d, m = tile.fit.code_scale[lane], tile.fit.code_minimum[lane]
            for i in range(size):
                v = d * (xb[i] - m)
                if is_guarded:
                    v = v if v > 0 else <float> 0
                    v = v if v < limit else limit
                clipped[i] = v
            for i in range(size):
                code[i] = min(max(nearest(clipped[i]), 0), most)


cdef inline int64_t n_finite(const float* x, int64_t n) noexcept nogil:
    """How many of n super-blocks come before the first NaN or inf."""
    cdef int64_t bad = first_from(x, n * SUPER_BLOCK, INFINITE)
    return n if bad < 0 else bad // SUPER_BLOCK


cdef inline int64_t load_two_scales(const uint8_t* heads, int64_t n, int bytes_per_block, float* d) noexcept nogil:
    """d and dmin, which lie together, of n super-blocks: a row of each; the first one that has inf or NaN, else -1."""
    cdef uint16_t half[2 * SUPER_BLOCKS]
    cdef int64_t b
    cdef const uint8_t* head
    for b in range(2 * SUPER_BLOCKS):
        half[b] = 0
    for b in range(n):
        head = heads + b * bytes_per_block
        half[b] = <uint16_t> (head[0] | <uint32_t> head[1] << 8)
        half[SUPER_BLOCKS + b] = <uint16_t> (head[2] | <uint32_t> head[3] << 8)
    quantcore_widen_halves(half, 2 * SUPER_BLOCKS, d)
    for b in range(n):
        if (half[b] & 0x7C00) == 0x7C00 or (half[SUPER_BLOCKS + b] & 0x7C00) == 0x7C00:
            return b
    return -1
