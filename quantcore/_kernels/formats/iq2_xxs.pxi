# iq2_xxs.pxi: IQ2_XXS, 256 elements in 66 bytes: fp16 d | for each 32 elements four point indices of 8 bits, and 32
# bits: four codes of 7 signs (the number of negative ones is even), then the scale's 4 bits.
# x = sign * value * d * (0.5 + scale) / 4; a point is 8 values of 8, 25 or 43.
from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from quantcore._kernels.formats.grid_fit cimport (
    QUANTCORE_REFIT_ALL,
    WeighedBlock,
    index_of,
    is_usable,
    largest_of,
    positive_scale,
    quantcore_fit_points,
    scale_code,
    set_magnitudes,
    set_weights,
    store_finite,
    sum_squares,
)
from quantcore._kernels.formats.grids cimport (
    GRID_BLOCK,
    GRID_TILE,
    load32,
    load64,
    points_of,
    scale_runs,
    search_of,
    store32,
    store_signed,
)
from quantcore._kernels.formats.scales cimport SCALES, load_scales
from quantcore._kernels.table cimport GRID_IQ2_XXS, GridPoints, GridSearch, TileImportance

cdef enum:
    IQ2_XXS_BYTES = 2 + 64


cdef int64_t iq2_xxs_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n super-blocks; the first one that cannot be coded, else -1."""
    cdef WeighedBlock weighed
    cdef float sums[GRID_TILE]
    cdef float scales[8]
    cdef uint32_t signs[8]
    cdef uint16_t codes[4]
    cdef const GridSearch* grid = search_of(TABLE.grids, GRID_IQ2_XXS)
    cdef int64_t i
    cdef int part, k, at, failed = 0
    cdef uint32_t flipped
    cdef float largest, scale, largest_scale, d, inverse
    cdef uint8_t* block
    sum_squares(x, n, sums)
    for i in range(n):
        block = out + i * IQ2_XXS_BYTES
        memset(block, 0, IQ2_XXS_BYTES)
        if not is_usable(x + i * GRID_BLOCK, sums[i]):
            return i
        set_weights(x + i * GRID_BLOCK, importance.weights + i * GRID_BLOCK, sums[i] / <float> 256, &weighed)
        set_magnitudes(x + i * GRID_BLOCK, True, &weighed)
        largest_scale = 0
        for part in range(8):
            at = 32 * part
            scales[part] = 0
            signs[part] = 0
            largest = largest_of(weighed.x + at, 32)
            if largest < <float> 1e-15:
                continue
            scale = positive_scale(weighed.x + at, weighed.weights + at, largest)
            if 3 * scale <= 0:
                continue
            scale = quantcore_fit_points(
                weighed.x + at, weighed.weights + at, weighed.roots + at, 32, 8, grid.places, grid.near, 13,
                <float> 0.1, 3 * scale, scale, QUANTCORE_REFIT_ALL, codes, &failed,
            )
            flipped = 127 if scale < 0 else 0
            if flipped:
                scale = -scale
            if failed or not scale >= 0:
                return i
            for k in range(4):
                block[2 + 8 * part + k] = <uint8_t> index_of(codes[k], 8, grid.places)
                signs[part] |= ((weighed.signs[4 * part + k] ^ flipped) & 127) << 7 * k
            scales[part] = scale
            largest_scale = max(largest_scale, scale)
        if largest_scale == 0:
            memset(block, 0, IQ2_XXS_BYTES)
            continue
        d = largest_scale / <float> 31
        if not store_finite(block, d):
            return i
        inverse = <float> 1 / d
        for part in range(8):
            store32(block + 6 + 8 * part, signs[part] | scale_code(scales[part], inverse, 15) << 28)
    return -1


cdef int64_t iq2_xxs_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n super-blocks; the first one whose scale is not finite, else -1 (decoded all the same)."""
    cdef float d[SCALES]
    cdef float scales[GRID_TILE * 8]
    cdef int8_t staged[GRID_TILE * GRID_BLOCK]
    cdef const GridPoints* grid = points_of(TABLE.grids, GRID_IQ2_XXS)
    cdef int64_t i, bad = load_scales(data, n, IQ2_XXS_BYTES, d)
    cdef int part, k
    cdef uint32_t indices, rest
    for i in range(n):
        for part in range(8):
            indices = load32(data + i * IQ2_XXS_BYTES + 2 + 8 * part)
            rest = load32(data + i * IQ2_XXS_BYTES + 6 + 8 * part)
            scales[8 * i + part] = d[i] * (<float> 0.5 + <float> (rest >> 28)) * <float> 0.25
            for k in range(4):
                store_signed(
                    load64(grid.values + 8 * (indices >> 8 * k & 255)), grid.signs[rest >> 7 * k & 127],
                    staged + i * GRID_BLOCK + 32 * part + 8 * k,
                )
    scale_runs(staged, 0, scales, 32, n, y, ahead, stride)
    return bad


cdef void iq2_xxs_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    pack_points(16, parts, block)


offer(16, GRID_BLOCK, IQ2_XXS_BYTES, iq2_xxs_quantize_tile, iq2_xxs_dequantize_tile, 0, GRID_IQ2_XXS)
refine_points(16, 32, 8 * 6 + 28, 64, 4, iq2_xxs_pack)
