# iq3_s.pxi: IQ3_S, 256 elements in 110 bytes: fp16 d | for each 4 elements the lower 8 bits of a point's index | for
# each 32 elements the upper bits of eight indices | for each 8 elements 8 signs | for each 32 elements the scale's 4
# bits.
# x = sign * value * d * (1 + 2 * scale); a point is 4 values of 1, 3, 5, ..., 15.
#
# ggml's encoder lets the next 32 elements take the place of 32 zeros among the lower bits of the indices and the
# signs, not so among the upper bits and the scales, so that what follows such zeros in a super-block decodes to
# something else. The bytes are the same here.
from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from quantcore._kernels.formats.grid_fit cimport (
    QUANTCORE_REFIT_ALL_IF_OFF_GRID,
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
    store_signed,
)
from quantcore._kernels.formats.scales cimport SCALES, load_scales
from quantcore._kernels.table cimport GRID_IQ3_S, GridPoints, GridSearch, TileImportance

cdef enum:
    IQ3_S_BYTES = 2 + 64 + 8 + 32 + 4


cdef int64_t iq3_s_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n super-blocks; the first one that cannot be coded, else -1."""
    cdef WeighedBlock weighed
    cdef float sums[GRID_TILE]
    cdef float scales[8]
    cdef uint16_t codes[8]
    cdef const GridSearch* grid = search_of(TABLE.grids, GRID_IQ3_S)
    cdef int64_t i
    cdef int part, k, at, coded, failed = 0
    cdef uint32_t index, flipped
    cdef float largest, largest_scale, d, inverse
    cdef uint8_t* block
    sum_squares(x, n, sums)
    for i in range(n):
        block = out + i * IQ3_S_BYTES
        memset(block, 0, IQ3_S_BYTES)
        if not is_usable(x + i * GRID_BLOCK, sums[i]):
            return i
        if importance != NULL:
            set_weights(
                x + i * GRID_BLOCK, importance.weights + i * GRID_BLOCK, 2 * sums[i] / <float> 256, &weighed
            )
        else:
            set_square_weights(x + i * GRID_BLOCK, 0, &weighed)
        set_magnitudes(x + i * GRID_BLOCK, False, &weighed)
        largest_scale = 0
        coded = 0
        for part in range(8):
            at = 32 * part
            scales[part] = 0
            largest = largest_of(weighed.x + at, 32)
            if largest == 0:
                continue
            scales[part] = quantcore_fit_points(
                weighed.x + at, weighed.weights + at, weighed.roots + at, 32, 4, grid.places, grid.near, 19,
                <float> 0.2, largest, largest / <float> 15, QUANTCORE_REFIT_ALL_IF_OFF_GRID, codes, &failed,
            )
            flipped = 255 if scales[part] < 0 else 0
            if flipped:
                scales[part] = -scales[part]
            if failed or not scales[part] >= 0:
                return i
            for k in range(8):
                index = index_of(codes[k], 4, grid.places)
                block[2 + 8 * coded + k] = <uint8_t> index
                block[66 + part] |= <uint8_t> (index >> 8 << k)
            for k in range(4):
                block[74 + 4 * coded + k] = <uint8_t> (weighed.signs[4 * part + k] ^ flipped)
            coded += 1
            largest_scale = max(largest_scale, scales[part])
        if largest_scale == 0:
            continue
        d = largest_scale / <float> 31
        if not store_finite(block, d * <float> 1.033):
            return i
        inverse = <float> 1 / d
        for part in range(8):
            block[106 + part // 2] |= <uint8_t> (scale_code(scales[part], inverse, 15) << 4 * (part % 2))
    return -1


cdef int64_t iq3_s_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n super-blocks; the first one whose scale is not finite, else -1 (decoded all the same)."""
    cdef float d[SCALES]
    cdef float scales[GRID_TILE * 8]
    cdef int8_t staged[GRID_TILE * GRID_BLOCK]
    cdef const GridPoints* grid = points_of(TABLE.grids, GRID_IQ3_S)
    cdef int64_t i, bad = load_scales(data, n, IQ3_S_BYTES, d)
    cdef int part, k
    cdef uint32_t code, upper
    cdef uint64_t first, second
    cdef const uint8_t* block
    for i in range(n):
        block = data + i * IQ3_S_BYTES
        for part in range(8):
            code = block[106 + part // 2] >> 4 * (part % 2) & 15
            scales[8 * i + part] = d[i] * <float> (1 + 2 * code)
            upper = block[66 + part]
            for k in range(4):
                first = load32(grid.values + 4 * (block[2 + 8 * part + 2 * k] | (upper >> 2 * k & 1) << 8))
                second = load32(grid.values + 4 * (block[3 + 8 * part + 2 * k] | (upper >> 2 * k + 1 & 1) << 8))
                store_signed(
                    first | second << 32, grid.signs[block[74 + 4 * part + k]],
                    staged + i * GRID_BLOCK + 32 * part + 8 * k,
                )
    scale_runs(staged, 0, scales, 32, n, y, ahead, stride)
    return bad


cdef void iq3_s_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    pack_points(21, parts, block)


offer(21, GRID_BLOCK, IQ3_S_BYTES, iq3_s_quantize_tile, iq3_s_dequantize_tile, 0, GRID_IQ3_S)
refine_points(21, 32, 8 * 106, 4, 4, iq3_s_pack)
