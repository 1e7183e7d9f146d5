# iq1_m.pxi: IQ1_M, 256 elements in 56 bytes: for each 8 elements the lower 8 bits of a point's index | for each 8
# elements 4 bits: the upper 3 bits of the index, and whether the shift is negative | for each 64 elements 16 bits: 3
# bits of scale for each 16 elements, and 4 bits of d, an fp16 that lies in the upper bits of the four, the lowest
# first.
# x = (value + shift) * d * (2 * scale + 1); a point is 8 values of -1, 0 or 1, the shift is an eighth.
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from quantcore._kernels.common.floats cimport quantcore_widen_halves
from quantcore._kernels.formats.grid_fit cimport (
    VECTOR_LANES,
    FoundCuts,
    count_usable,
    index_of,
    largest_magnitude,
    quantcore_cut_16,
    quantcore_half_of_float,
    quantcore_shifted_point,
    scale_code,
    shifted_sums,
    sum_squares,
    codes_between_cuts,
    weigh_tile,
)
from quantcore._kernels.formats.grids cimport (
    GRID_BLOCK,
    GRID_TILE,
    IQ1_CENTRE,
    load64,
    points_of,
    scale_runs,
    search_of,
    store64,
    store_shifted,
)
from quantcore._kernels.formats.scales cimport SCALES
from quantcore._kernels.table cimport GRID_IQ1, GridPoints, GridSearch, TileImportance

cdef enum:
    IQ1_M_BYTES = 32 + 16 + 8


cdef inline float shift_of(uint32_t shifts, int half) noexcept nogil:
    """The shift of a half: bit 1 is set if the first one's is negative, bit 0 for the second one."""
    return <float> -0.125 if shifts >> 1 - half & 1 else <float> 0.125


cdef int64_t iq1_m_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n super-blocks; the first one that cannot be coded, else -1."""
    cdef float sums[GRID_TILE]
    cdef float weights[GRID_TILE * GRID_BLOCK]
    cdef float scales[GRID_TILE * 16]
    cdef uint32_t shifts[GRID_TILE * 16]
    cdef uint32_t points[GRID_TILE * 32]
    cdef int32_t ranks[VECTOR_LANES * 16]
    cdef FoundCuts cuts
    cdef const GridSearch* grid = search_of(TABLE.grids, GRID_IQ1)
    cdef int64_t i, part, usable, batch, start, lanes, lane, at
    cdef int k, failed = 0, was_on_grid
    cdef uint32_t index, half, code
    cdef uint32_t* codes
    cdef uint64_t tail
    cdef float scale, largest_scale, d, inverse
    cdef float refined[2]
    cdef uint8_t* block
    sum_squares(x, n, sums)
    usable = count_usable(x, n, sums)
    memset(out, 0, usable * IQ1_M_BYTES)
    weigh_tile(x, usable, importance, sums, weights)
    for batch in range((usable * 16 + VECTOR_LANES - 1) // VECTOR_LANES):
        start = batch * VECTOR_LANES
        lanes = min(<int64_t> VECTOR_LANES, usable * 16 - start)
        quantcore_cut_16(x + 16 * start, weights + 16 * start, <int> lanes, ranks, &cuts)
        for lane in range(lanes):
            part, at = start + lane, 16 * (start + lane)
            codes = points + 2 * part
            # Where nothing is coded, the point is the first one: all digits are 0.
            scales[part], shifts[part], codes[0], codes[1] = 0, 0, 0, 0
            if largest_magnitude(x + at, 16) < <float> 1e-7 or cuts.first_cut[lane] < 0:
                continue
            scale, shifts[part] = cuts.scale[lane], <uint32_t> cuts.shifts[lane]
            codes_between_cuts(ranks + 16 * lane, 16, cuts.first_cut[lane], cuts.second_cut[lane], scale < 0, codes)
            if scale < 0:
                scale, shifts[part] = -scale, 3 - shifts[part]
            was_on_grid = 1
            for k in range(2):
                codes[k] = quantcore_shifted_point(
                    x + at + 8 * k, weights + at + 8 * k, codes[k], scale, shift_of(shifts[part], k), grid.places,
                    grid.near, &was_on_grid, &failed,
                )
            if not was_on_grid:
                refined[0], refined[1] = 0, 0
                for k in range(2):
                    shifted_sums(
                        x + at + 8 * k, weights + at + 8 * k, codes[k], shift_of(shifts[part], k), 1, refined
                    )
                if refined[0] > 0 and refined[1] > 0:
                    scale = refined[0] / refined[1]
            if failed or not scale >= 0:
                return part // 16
            block = out + part // 16 * IQ1_M_BYTES
            for k in range(2):
                index = index_of(<uint16_t> codes[k], 8, grid.places)
                block[2 * (part % 16) + k] = <uint8_t> index
                block[32 + part % 16] |= <uint8_t> (index >> 8 << 4 * k)
            scales[part] = scale
    for i in range(usable):
        block = out + i * IQ1_M_BYTES
        largest_scale = 0
        for part in range(16):
            largest_scale = max(largest_scale, scales[16 * i + part])
        if largest_scale == 0:
            continue
        # d once more, as it fits the coded scales and points best.
        d = largest_scale / <float> 15
        inverse = <float> 1 / d
        refined[0], refined[1] = 0, 0
        tail = 0
        for part in range(16 * i, 16 * i + 16):
            code = scale_code(scales[part], inverse, 7)
            tail |= <uint64_t> code << 16 * (part % 16 // 4) + 3 * (part % 4)
            block[32 + part % 16] |= <uint8_t> ((shifts[part] & 2) << 2 | (shifts[part] & 1) << 7)
            for k in range(2):
                at = 16 * part + 8 * k
                shifted_sums(
                    x + at, weights + at, points[2 * part + k], shift_of(shifts[part], k), 2 * code + 1, refined
                )
        if refined[1] > 0:
            d = refined[0] / refined[1]
        half = quantcore_half_of_float(d * <float> 1.1125)
        if half & 0x7C00 == 0x7C00:
            return i
        for k in range(4):
            tail |= <uint64_t> (half >> 4 * k & 15) << 16 * k + 12
        store64(block + 48, tail)
    return usable if usable < n else -1


cdef int64_t iq1_m_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n super-blocks; the first one whose scale is not finite, else -1 (decoded all the same)."""
    cdef float d[SCALES]
    cdef uint16_t half[SCALES]
    cdef float scales[GRID_TILE * 16]
    cdef int8_t staged[GRID_TILE * GRID_BLOCK]
    cdef const GridPoints* grid = points_of(TABLE.grids, GRID_IQ1)
    cdef int64_t i, bad = -1
    cdef int part, k
    cdef uint32_t upper
    cdef uint64_t codes
    cdef const uint8_t* block
    for i in range(n):
        codes = load64(data + i * IQ1_M_BYTES + 48)
        half[i] = <uint16_t> (
            (codes >> 12 & 0xF) | (codes >> 24 & 0xF0) | (codes >> 36 & 0xF00) | (codes >> 48 & 0xF000)
        )
        if bad < 0 and half[i] & 0x7C00 == 0x7C00:
            bad = i
    quantcore_widen_halves(half, n, d)
    for i in range(n):
        block = data + i * IQ1_M_BYTES
        for part in range(4):
            upper = load16(block + 48 + 2 * part)
            for k in range(4):
                # In eighths; the product is the same one, as both factors are exact.
                scales[16 * i + 4 * part + k] = d[i] * <float> (2 * (upper >> 3 * k & 7) + 1) * <float> 0.125
        for part in range(8):
            upper = load16(block + 32 + 2 * part)
            for k in range(4):
                store_shifted(
                    load64(grid.values + 8 * (block[4 * part + k] | (upper >> 4 * k & 7) << 8)), upper >> 4 * k + 3 & 1,
                    staged + i * GRID_BLOCK + 32 * part + 8 * k,
                )
    scale_runs(staged, IQ1_CENTRE, scales, 16, n, y, ahead, stride)
    return bad


offer(29, GRID_BLOCK, IQ1_M_BYTES, iq1_m_quantize_tile, iq1_m_dequantize_tile, 0, GRID_IQ1)
