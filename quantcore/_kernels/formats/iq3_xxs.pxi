# iq3_xxs.pxi: IQ3_XXS, 256 elements in 98 bytes: fp16 d | for each 4 elements a point's index of 8 bits | for each 32
# elements 32 bits: four codes of 7 signs (the number of negative ones among 8 is even), then the scale's 4 bits.
# x = sign * value * d * (0.5 + scale) / 2; a point is 4 values of 4, 12, 20, 28, 36, 44, 52 or 62.
from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from quantcore._kernels.formats.grid_fit cimport (
    QUANTCORE_REFIT_OFF_GRID,
    WeighedBlock,
    index_of,
    is_usable,
    largest_of,
    quantcore_fit_points,
    scale_code,
    set_magnitudes,
    set_square_weights,
    set_weights,
    store_finite,
    sum_squares,
)
from quantcore._kernels.formats.grids cimport (
    GRID_BLOCK,
    GRID_TILE,
    load32,
    points_of,
    scale_runs,
    search_of,
    store32,
    store_signed,
)
from quantcore._kernels.formats.scales cimport SCALES, load_scales
from quantcore._kernels.table cimport GRID_IQ3_XXS, GridPoints, GridSearch, TileImportance

cdef enum:
    IQ3_XXS_BYTES = 2 + 64 + 32


cdef int64_t iq3_xxs_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n super-blocks; the first one that cannot be coded, else -1."""
    cdef WeighedBlock weighed
    cdef float sums[GRID_TILE]
    cdef float scales[8]
    cdef uint32_t signs[8]
    cdef uint16_t codes[8]
    cdef const GridSearch* grid = search_of(TABLE.grids, GRID_IQ3_XXS)
    cdef int64_t i
    cdef int part, k, at, failed = 0
    cdef uint32_t flipped
    cdef float largest, largest_scale, d, inverse
    cdef uint8_t* block
    sum_squares(x, n, sums)
    for i in range(n):
        block = out + i * IQ3_XXS_BYTES
        memset(block, 0, IQ3_XXS_BYTES)
        if not is_usable(x + i * GRID_BLOCK, sums[i]):
            return i
        if importance != NULL:
            set_weights(
                x + i * GRID_BLOCK, importance.weights + i * GRID_BLOCK, 2 * sums[i] / <float> 256, &weighed
            )
        else:
            set_square_weights(x + i * GRID_BLOCK, 0, &weighed)
        set_magnitudes(x + i * GRID_BLOCK, True, &weighed)
        largest_scale = 0
        for part in range(8):
            at = 32 * part
            scales[part] = 0
            signs[part] = 0
            largest = largest_of(weighed.x + at, 32)
            if largest < <float> 1e-8:
                continue
            scales[part] = quantcore_fit_points(
                weighed.x + at, weighed.weights + at, weighed.roots + at, 32, 4, grid.places, grid.near, 31,
                <float> 0.2, largest, largest / <float> 15, QUANTCORE_REFIT_OFF_GRID, codes, &failed,
            )
            flipped = 127 if scales[part] < 0 else 0
            if flipped:
                scales[part] = -scales[part]
            if failed or not scales[part] >= 0:
                return i
            for k in range(8):
                block[2 + 8 * part + k] = <uint8_t> index_of(codes[k], 4, grid.places)
            for k in range(4):
                signs[part] |= ((weighed.signs[4 * part + k] ^ flipped) & 127) << 7 * k
            largest_scale = max(largest_scale, scales[part])
        if largest_scale == 0:
            memset(block, 0, IQ3_XXS_BYTES)
            continue
        d = largest_scale / <float> 31
        if not store_finite(block, d * <float> 1.0125):
            return i
        inverse = <float> 1 / d
        for part in range(8):
            store32(block + 66 + 4 * part, signs[part] | scale_code(scales[part], inverse, 15) << 28)
    return -1


cdef int64_t iq3_xxs_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n super-blocks; the first one whose scale is not finite, else -1 (decoded all the same)."""
    cdef float d[SCALES]
    cdef float scales[GRID_TILE * 8]
    cdef int8_t staged[GRID_TILE * GRID_BLOCK]
    cdef const GridPoints* grid = points_of(TABLE.grids, GRID_IQ3_XXS)
    cdef int64_t i, bad = load_scales(data, n, IQ3_XXS_BYTES, d)
    cdef int part, k
    cdef uint32_t rest
    cdef uint64_t first, second
    cdef const uint8_t* indices
    for i in range(n):
        for part in range(8):
            indices = data + i * IQ3_XXS_BYTES + 2 + 8 * part
            rest = load32(data + i * IQ3_XXS_BYTES + 66 + 4 * part)
            scales[8 * i + part] = d[i] * (<float> 0.5 + <float> (rest >> 28)) * <float> 0.5
            for k in range(4):
                first = load32(grid.values + 4 * indices[2 * k])
                second = load32(grid.values + 4 * indices[2 * k + 1])
                store_signed(
                    first | second << 32, grid.signs[rest >> 7 * k & 127],
                    staged + i * GRID_BLOCK + 32 * part + 8 * k,
                )
    scale_runs(staged, 0, scales, 32, n, y, ahead, stride)
    return bad


cdef void iq3_xxs_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    pack_points(18, parts, block)


offer(18, GRID_BLOCK, IQ3_XXS_BYTES, iq3_xxs_quantize_tile, iq3_xxs_dequantize_tile, 0, GRID_IQ3_XXS)
refine_points(18, 32, 8 * 66 + 28, 32, 4, iq3_xxs_pack)
