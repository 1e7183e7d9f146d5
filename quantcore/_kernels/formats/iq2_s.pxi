# iq2_s.pxi: IQ2_S, 256 elements in 82 bytes: fp16 d | for each 8 elements the lower 8 bits of a point's index | for
# each 8 elements 8 signs | for each 32 elements the upper 2 bits of four indices | for each 16 elements the scale's 4
# bits.
# x = sign * value * d * (0.5 + scale) / 4; a point is 8 values of 8, 25 or 43.
from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t
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
    load64,
    points_of,
    scale_runs,
    search_of,
    store_signed,
)
from quantcore._kernels.formats.scales cimport SCALES, load_scales
from quantcore._kernels.table cimport GRID_IQ2_S, GridPoints, GridSearch, TileImportance

cdef enum:
    IQ2_S_BYTES = 2 + 32 + 32 + 8 + 8


cdef int64_t iq2_s_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n super-blocks; the first one that cannot be coded, else -1."""
    cdef WeighedBlock weighed
    cdef float sums[GRID_TILE]
    cdef float scales[16]
    cdef uint16_t codes[2]
    cdef const GridSearch* grid = search_of(TABLE.grids, GRID_IQ2_S)
    cdef int64_t i
    cdef int part, k, at, group, failed = 0
    cdef uint32_t index, flipped
    cdef float spread, largest, largest_scale, d, inverse
    cdef uint8_t* block
    sum_squares(x, n, sums)
    for i in range(n):
        block = out + i * IQ2_S_BYTES
        memset(block, 0, IQ2_S_BYTES)
        if not is_usable(x + i * GRID_BLOCK, sums[i]):
            return i
        spread = 2 * sums[i] / <float> 256
        if importance != NULL:
            set_weights(x + i * GRID_BLOCK, importance.weights + i * GRID_BLOCK, spread, &weighed)
        else:
            set_square_weights(x + i * GRID_BLOCK, <float> 0.25 * spread, &weighed)
        set_magnitudes(x + i * GRID_BLOCK, False, &weighed)
        largest_scale = 0
        for part in range(16):
            at = 16 * part
            scales[part] = 0
            largest = largest_of(weighed.x + at, 16)
            if largest < <float> 1e-8:
                continue
            scales[part] = quantcore_fit_points(
                weighed.x + at, weighed.weights + at, weighed.roots + at, 16, 8, grid.places, grid.near, 19,
                <float> 0.1, largest, largest / <float> 5, QUANTCORE_REFIT_OFF_GRID, codes, &failed,
            )
            flipped = 255 if scales[part] < 0 else 0
            if flipped:
                scales[part] = -scales[part]
            if failed or not scales[part] >= 0:
                return i
            for k in range(2):
                group = 2 * part + k
                index = index_of(codes[k], 8, grid.places)
                block[2 + group] = <uint8_t> index
                block[34 + group] = <uint8_t> (weighed.signs[group] ^ flipped)
                block[66 + group // 4] |= <uint8_t> (index >> 8 << 2 * (group % 4))
            largest_scale = max(largest_scale, scales[part])
        if largest_scale == 0:
            continue
        d = largest_scale / <float> 31
        if not store_finite(block, d * <float> 0.9875):
            return i
        inverse = <float> 1 / d
        for part in range(16):
            block[74 + part // 2] |= <uint8_t> (scale_code(scales[part], inverse, 15) << 4 * (part % 2))
    return -1


cdef int64_t iq2_s_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n super-blocks; the first one whose scale is not finite, else -1 (decoded all the same)."""
    cdef float d[SCALES]
    cdef float scales[GRID_TILE * 16]
    cdef int8_t staged[GRID_TILE * GRID_BLOCK]
    cdef const GridPoints* grid = points_of(TABLE.grids, GRID_IQ2_S)
    cdef int64_t i, bad = load_scales(data, n, IQ2_S_BYTES, d)
    cdef int k
    cdef uint32_t code
    cdef const uint8_t* block
    for i in range(n):
        block = data + i * IQ2_S_BYTES
        for k in range(16):
            code = block[74 + k // 2] >> 4 * (k % 2) & 15
            scales[16 * i + k] = d[i] * (<float> 0.5 + <float> code) * <float> 0.25
        for k in range(32):
            code = block[2 + k] | (block[66 + k // 4] >> 2 * (k % 4) & <uint32_t> 3) << 8
            store_signed(
                load64(grid.values + 8 * code), grid.signs[block[34 + k]], staged + i * GRID_BLOCK + 8 * k
            )
    scale_runs(staged, 0, scales, 16, n, y, ahead, stride)
    return bad


cdef void iq2_s_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    pack_points(22, parts, block)


offer(22, GRID_BLOCK, IQ2_S_BYTES, iq2_s_quantize_tile, iq2_s_dequantize_tile, 0, GRID_IQ2_S)
refine_points(22, 16, 8 * 74, 4, 4, iq2_s_pack)
