# iq2_xs.pxi: IQ2_XS, 256 elements in 74 bytes: fp16 d | for each 8 elements 16 bits: a point's index of 9 bits and a
# code of 7 signs (the number of negative ones is even) | for each 16 elements the scale's 4 bits.
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
    set_weights,
    store_finite,
    sum_squares,
)
from quantcore._kernels.formats.grids cimport (
    GRID_BLOCK,
    GRID_TILE,
    load16,
    load64,
    points_of,
    scale_runs,
    search_of,
    store16,
    store_signed,
)
from quantcore._kernels.formats.scales cimport SCALES, load_scales
from quantcore._kernels.table cimport GRID_IQ2_XS, GridPoints, GridSearch, TileImportance

cdef enum:
    IQ2_XS_BYTES = 2 + 64 + 8


cdef int64_t iq2_xs_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n super-blocks; the first one that cannot be coded, else -1."""
    cdef WeighedBlock weighed
    cdef float sums[GRID_TILE]
    cdef float scales[16]
    cdef uint16_t codes[2]
    cdef const GridSearch* grid = search_of(TABLE.grids, GRID_IQ2_XS)
    cdef int64_t i
    cdef int part, k, at, failed = 0
    cdef uint32_t signs, flipped
    cdef float largest, largest_scale, d, inverse
    cdef uint8_t* block
    sum_squares(x, n, sums)
    for i in range(n):
        block = out + i * IQ2_XS_BYTES
        memset(block, 0, IQ2_XS_BYTES)
        if not is_usable(x + i * GRID_BLOCK, sums[i]):
            return i
        set_weights(x + i * GRID_BLOCK, importance.weights + i * GRID_BLOCK, sums[i] / <float> 256, &weighed)
        set_magnitudes(x + i * GRID_BLOCK, True, &weighed)
        largest_scale = 0
        for part in range(16):
            at = 16 * part
            scales[part] = 0
            largest = largest_of(weighed.x + at, 16)
            if largest < <float> 1e-15:
                continue
            scales[part] = quantcore_fit_points(
                weighed.x + at, weighed.weights + at, weighed.roots + at, 16, 8, grid.places, grid.near, 19,
                <float> 0.1, largest, largest / <float> 5, QUANTCORE_REFIT_OFF_GRID, codes, &failed,
            )
            flipped = 127 if scales[part] < 0 else 0
            if flipped:
                scales[part] = -scales[part]
            if failed or not scales[part] >= 0:
                return i
            for k in range(2):
                signs = (weighed.signs[2 * part + k] ^ flipped) & 127
                store16(block + 2 + 4 * part + 2 * k, index_of(codes[k], 8, grid.places) | signs << 9)
            largest_scale = max(largest_scale, scales[part])
        if largest_scale == 0:
            memset(block, 0, IQ2_XS_BYTES)
            continue
        d = largest_scale / <float> 31
        if not store_finite(block, d):
            return i
        inverse = <float> 1 / d
        for part in range(16):
            block[66 + part // 2] |= <uint8_t> (scale_code(scales[part], inverse, 15) << 4 * (part % 2))
    return -1


cdef int64_t iq2_xs_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n super-blocks; the first one whose scale is not finite, else -1 (decoded all the same)."""
    cdef float d[SCALES]
    cdef float scales[GRID_TILE * 16]
    cdef int8_t staged[GRID_TILE * GRID_BLOCK]
    cdef const GridPoints* grid = points_of(TABLE.grids, GRID_IQ2_XS)
    cdef int64_t i, bad = load_scales(data, n, IQ2_XS_BYTES, d)
    cdef int k
    cdef uint32_t code
    cdef const uint8_t* block
    for i in range(n):
        block = data + i * IQ2_XS_BYTES
        for k in range(16):
            code = block[66 + k // 2] >> 4 * (k % 2) & 15
            scales[16 * i + k] = d[i] * (<float> 0.5 + <float> code) * <float> 0.25
        for k in range(32):
            code = load16(block + 2 + 2 * k)
            store_signed(
                load64(grid.values + 8 * (code & 511)), grid.signs[code >> 9], staged + i * GRID_BLOCK + 8 * k
            )
    scale_runs(staged, 0, scales, 16, n, y, ahead, stride)
    return bad


cdef void iq2_xs_pack(BlockParts* parts, uint8_t* block) noexcept nogil:
    pack_points(17, parts, block)


offer(17, GRID_BLOCK, IQ2_XS_BYTES, iq2_xs_quantize_tile, iq2_xs_dequantize_tile, 0, GRID_IQ2_XS)
refine_points(17, 16, 8 * 66, 4, 4, iq2_xs_pack)
