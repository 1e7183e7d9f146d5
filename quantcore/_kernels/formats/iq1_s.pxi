# iq1_s.pxi: IQ1_S, 256 elements in 50 bytes: fp16 d | for each 8 elements the lower 8 bits of a point's index | for
# each 32 elements 16 bits: the upper 3 bits of four indices, the scale's 3 bits, and whether the shift is negative.
# x = (value + shift) * d * (2 * scale + 1); a point is 8 values of -1, 0 or 1, the shift is an eighth.
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memset
from quantcore._kernels.formats.grid_fit cimport (
    VECTOR_LANES,
    FoundCuts,
    count_usable,
    index_of,
    largest_magnitude,
    quantcore_cut_32,
    quantcore_shifted_point,
    scale_code,
    shifted_sums,
    store_finite,
    sum_squares,
    codes_between_cuts,
    weigh_tile,
)
from quantcore._kernels.formats.grids cimport (
    GRID_BLOCK,
    GRID_TILE,
    IQ1_CENTRE,
    load16,
    load64,
    points_of,
    scale_runs,
    search_of,
    store16,
    store_shifted,
)
from quantcore._kernels.formats.scales cimport SCALES, load_scales
from quantcore._kernels.table cimport GRID_IQ1, GridPoints, GridSearch, TileImportance

cdef enum:
    IQ1_S_BYTES = 2 + 32 + 16


cdef int64_t iq1_s_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n super-blocks; the first one that cannot be coded, else -1."""
    cdef float sums[GRID_TILE]
    cdef float weights[GRID_TILE * GRID_BLOCK]
    cdef float scales[GRID_TILE * 8]
    cdef uint32_t is_down[GRID_TILE * 8]
    cdef int32_t ranks[VECTOR_LANES * 32]
    cdef uint32_t codes[4]
    cdef FoundCuts cuts
    cdef const GridSearch* grid = search_of(TABLE.grids, GRID_IQ1)
    cdef int64_t i, part, usable, batch, start, lanes, lane, at
    cdef int k, failed = 0, was_on_grid
    cdef uint32_t index, upper
    cdef float scale, shift, largest_scale, d, inverse
    cdef float refined[2]
    cdef uint8_t* block
    sum_squares(x, n, sums)
    usable = count_usable(x, n, sums)
    memset(out, 0, usable * IQ1_S_BYTES)
    weigh_tile(x, usable, importance, sums, weights)
    for batch in range((usable * 8 + VECTOR_LANES - 1) // VECTOR_LANES):
        start = batch * VECTOR_LANES
        lanes = min(<int64_t> VECTOR_LANES, usable * 8 - start)
        quantcore_cut_32(x + 32 * start, weights + 32 * start, <int> lanes, ranks, &cuts)
        for lane in range(lanes):
            part, at = start + lane, 32 * (start + lane)
            scales[part], is_down[part] = 0, 0
            if largest_magnitude(x + at, 32) < <float> 1e-12 or cuts.first_cut[lane] < 0:
                continue
            scale, is_down[part] = cuts.scale[lane], <uint32_t> cuts.shifts[lane]
            codes_between_cuts(ranks + 32 * lane, 32, cuts.first_cut[lane], cuts.second_cut[lane], scale < 0, codes)
            if scale < 0:
                scale, is_down[part] = -scale, 1 - is_down[part]
            shift = <float> -0.125 if is_down[part] else <float> 0.125
            was_on_grid = 1
            for k in range(4):
                codes[k] = quantcore_shifted_point(
                    x + at + 8 * k, weights + at + 8 * k, codes[k], scale, shift, grid.places, grid.near, &was_on_grid,
                    &failed,
                )
            if not was_on_grid:
                refined[0], refined[1] = 0, 0
                for k in range(4):
                    shifted_sums(x + at + 8 * k, weights + at + 8 * k, codes[k], shift, 1, refined)
                if refined[0] > 0 and refined[1] > 0:
                    scale = refined[0] / refined[1]
            if failed or not scale >= 0:
                return part // 8
            block = out + part // 8 * IQ1_S_BYTES
            upper = 0
            for k in range(4):
                index = index_of(<uint16_t> codes[k], 8, grid.places)
                block[2 + 4 * (part % 8) + k] = <uint8_t> index
                upper |= index >> 8 << 3 * k
            store16(block + 34 + 2 * (part % 8), upper)
            scales[part] = scale
    for i in range(usable):
        block = out + i * IQ1_S_BYTES
        largest_scale = 0
        for part in range(8):
            largest_scale = max(largest_scale, scales[8 * i + part])
        if largest_scale == 0:
            continue
        d = largest_scale / <float> 15
        if not store_finite(block, d * <float> 1.125):
            return i
        inverse = <float> 1 / d
        for part in range(8):
            upper = load16(block + 34 + 2 * part) | is_down[8 * i + part] << 15
            store16(block + 34 + 2 * part, upper | scale_code(scales[8 * i + part], inverse, 7) << 12)
    return usable if usable < n else -1


cdef int64_t iq1_s_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n super-blocks; the first one whose scale is not finite, else -1 (decoded all the same)."""
    cdef float d[SCALES]
    cdef float scales[GRID_TILE * 8]
    cdef int8_t staged[GRID_TILE * GRID_BLOCK]
    cdef const GridPoints* grid = points_of(TABLE.grids, GRID_IQ1)
    cdef int64_t i, bad = load_scales(data, n, IQ1_S_BYTES, d)
    cdef int part, k
    cdef uint32_t upper
    cdef const uint8_t* block
    for i in range(n):
        block = data + i * IQ1_S_BYTES
        for part in range(8):
            upper = load16(block + 34 + 2 * part)
            # In eighths; the product is the same one, as both factors are exact.
            scales[8 * i + part] = d[i] * <float> (2 * (upper >> 12 & 7) + 1) * <float> 0.125
            for k in range(4):
                store_shifted(
                    load64(grid.values + 8 * (block[2 + 4 * part + k] | (upper >> 3 * k & 7) << 8)), upper >> 15,
                    staged + i * GRID_BLOCK + 32 * part + 8 * k,
                )
    scale_runs(staged, IQ1_CENTRE, scales, 32, n, y, ahead, stride)
    return bad


cdef void iq1_s_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    pack_points(19, parts, block)


offer(19, GRID_BLOCK, IQ1_S_BYTES, iq1_s_quantize_tile, iq1_s_dequantize_tile, 0, GRID_IQ1)
refine_points(19, 32, 8 * 34 + 12, 16, 3, iq1_s_pack)
