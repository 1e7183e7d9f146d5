# blockwise.pxi: the loops of the 4-bit block-wise codes over blocks and super-blocks.
from libc.math cimport rintf
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from quantcore._kernels.common.bits cimport INFINITE, float_of
from quantcore._kernels.passes.blockwise cimport (
    FP4,
    GROUP,
    GROUP_BYTES,
    INT4,
    LEAF,
    NIBBLE_TILE,
    NIBBLE_TILE_BLOCKS,
    NIBBLE_TILE_BYTES,
    SCALES_PART,
    absmax_bits,
    centred_absmax,
    code_blocks,
    decode_block,
    decode_scales,
    dynamic_codes,
    quantcore_search,
    quantcore_search_of,
    sum_of_leaf,
)
from quantcore._kernels.common.floats cimport FLOAT32, loaded, size_of, store_tile

cdef enum:
    MOST_BLOCKS = 4096  # blocks of one super-block


cdef inline void code_tile(
    const float* x, int64_t n, int block_size, const float* scales, int quant_type,
    const quantcore_search* search, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= NIBBLE_TILE elements in blocks; an incomplete last group is padded with zeros."""
    cdef float padded[NIBBLE_TILE]
    cdef uint8_t coded[NIBBLE_TILE_BYTES]
    cdef int64_t padding = -n & (GROUP - 1)
    if padding == 0:
        code_blocks(x, n, block_size, scales, quant_type, search, out, ahead, stride)
        return
    memcpy(padded, x, n * 4)
    memset(padded + n, 0, padding * 4)
    code_blocks(padded, n + padding, block_size, scales, quant_type, search, coded, ahead, stride)
    memcpy(out, coded, (n + 1) // 2)


cdef inline int64_t scales_of_tile(
    const float* x, int64_t n, int block_size, int quant_type, float* scales
) noexcept nogil:
    """The scales of n <= NIBBLE_TILE elements in blocks; the first block with NaN or inf, else -1."""
    cdef uint32_t absmax[NIBBLE_TILE_BLOCKS]
    cdef uint32_t worst = 0
    cdef int64_t n_blocks = (n + block_size - 1) // block_size, i
    for i in range(n_blocks):
        absmax[i] = absmax_bits(x + i * block_size, min(<int64_t> block_size, n - i * block_size))
    for i in range(n_blocks):
        worst = max(worst, absmax[i])
        scales[i] = float_of(absmax[i]) / <float> 7.0 if quant_type == INT4 else float_of(absmax[i])
    if worst >= <uint32_t> INFINITE:
        for i in range(n_blocks):
            if absmax[i] >= <uint32_t> INFINITE:
                return i
    return -1


cdef int64_t nibbles_quantize(
    const uint8_t* values, int dtype, int64_t n, int block_size, int quant_type, const float* midpoints, float* scales,
    uint8_t* out,
) noexcept nogil:
    cdef float staged[NIBBLE_TILE]
    cdef quantcore_search search = quantcore_search_of(midpoints, quant_type == FP4)
    cdef const float* x
    cdef float* tile_scales
    cdef int64_t start = 0, count, bad
    while start < n:
        count = min(<int64_t> NIBBLE_TILE, n - start)
        tile_scales = scales + start // block_size
        x = loaded(values, dtype, start, count, staged)
        bad = scales_of_tile(x, count, block_size, quant_type, tile_scales)
        if bad >= 0:
            return start + bad * block_size
        code_tile(
            x, count, block_size, tile_scales, quant_type, &search, out + start // 2,
            values + (start + NIBBLE_TILE) * size_of(dtype), GROUP * size_of(dtype),
        )
        start += count
    return -1


cdef inline float super_block_codes(float* scales, int64_t n, uint8_t* codes) noexcept nogil:
    """The step of n scales, and their codes; the scales are replaced by their decoded values."""
    cdef float largest = 0, step
    cdef int64_t i
    for i in range(n):
        largest = max(largest, scales[i])
    step = largest / <float> 255.0
    for i in range(n):
        # A block that is not all zeros keeps a non-zero scale.
        codes[i] = <uint8_t> max(1, min(255, <int32_t> rintf(scales[i] / step))) if step > 0 and scales[i] > 0 else 0
        scales[i] = <float> codes[i] * step
    return step


cdef int64_t nibbles_quantize_linear(
    const uint8_t* values, int dtype, int64_t n, int block_size, int quant_type, const float* midpoints,
    int super_block_size, uint8_t* scales, float* super_scales, uint8_t* out,
) noexcept nogil:
    cdef float staged[NIBBLE_TILE]
    cdef float decoded[MOST_BLOCKS]
    cdef quantcore_search search = quantcore_search_of(midpoints, quant_type == FP4)
    cdef int64_t first = 0, start, stop, count, tile, bad, k = 0
    while first < n:
        stop = min(n, first + <int64_t> block_size * super_block_size)
        for tile in range((stop - first + NIBBLE_TILE - 1) // NIBBLE_TILE):
            start = first + tile * NIBBLE_TILE
            count = min(<int64_t> NIBBLE_TILE, stop - start)
            bad = scales_of_tile(
                loaded(values, dtype, start, count, staged), count, block_size, quant_type,
                decoded + (start - first) // block_size,
            )
            if bad >= 0:
                return start + bad * block_size
        super_scales[k] = super_block_codes(
            decoded, (stop - first + block_size - 1) // block_size, scales + first // block_size
        )
        for tile in range((stop - first + NIBBLE_TILE - 1) // NIBBLE_TILE):
            start = first + tile * NIBBLE_TILE
            count = min(<int64_t> NIBBLE_TILE, stop - start)
            code_tile(
                loaded(values, dtype, start, count, staged), count, block_size,
                decoded + (start - first) // block_size, quant_type, &search, out + start // 2,
                values + (start + stop - first) * size_of(dtype), GROUP * size_of(dtype),
            )
        first = stop
        k += 1
    return -1


cdef void nibbles_dequantize(
    const uint8_t* data, int64_t n, int block_size, const float* scales, const float* table, uint8_t* values, int dtype,
) noexcept nogil:
    cdef float staged[NIBBLE_TILE]
    cdef float padded[GROUP]
    cdef uint8_t coded[GROUP_BYTES]
    cdef float* y
    cdef const uint8_t* ahead
    cdef int64_t start, count, whole, i, stride = GROUP * size_of(dtype)
    cdef float scale
    for i in range((n + block_size - 1) // block_size):
        start = i * block_size
        count = min(<int64_t> block_size, n - start)
        scale = scales[i]
        y = <float*> values + start if dtype == FLOAT32 else staged
        ahead = values + (start + NIBBLE_TILE) * size_of(dtype)
        whole = count // GROUP * GROUP
        decode_block(data + start // 2, whole, scale, table, y, ahead, stride)
        if whole < count:
            memset(coded, 0, sizeof(coded))
            memcpy(coded, data + (start + whole) // 2, (count - whole + 1) // 2)
            decode_block(coded, GROUP, scale, table, padded, ahead, stride)
            memcpy(y + whole, padded, (count - whole) * 4)
        if dtype != FLOAT32:
            store_tile(staged, count, dtype, values + start * size_of(dtype))


cdef double pairwise_sum(const float* x, int64_t n) noexcept nogil:
    """Sums in the order in which NumPy sums a run of float64."""
    cdef int64_t half = n // 16 * 8
    return sum_of_leaf(x, n) if n <= LEAF else pairwise_sum(x, half) + pairwise_sum(x + half, n - half)


cdef void runs_sum(const float* x, int64_t n, int64_t run, double* sums) noexcept nogil:
    cdef int64_t i
    for i in range((n + run - 1) // run):
        sums[i] = pairwise_sum(x + i * run, min(run, n - i * run))


cdef void scales_quantize(
    const float* scales, int64_t n, int super_block_size, float offset, const int32_t* cells, uint8_t* codes,
    float* super_scales,
) noexcept nogil:
    cdef int64_t i, stop, start = 0
    cdef float inverse
    for i in range((n + super_block_size - 1) // super_block_size):
        stop = min(n, start + super_block_size)
        super_scales[i] = centred_absmax(scales + start, stop - start, offset)
        inverse = <float> 1.0 / max(super_scales[i], <float> 1e-38)
        while start < stop:
            dynamic_codes(
                scales + start, min(<int64_t> SCALES_PART, stop - start), offset, inverse, cells, codes + start
            )
            start = min(stop, start + SCALES_PART)


cdef void scales_dequantize(
    const uint8_t* codes, int64_t n, int super_block_size, const float* super_scales, float offset, const float* table,
    float* scales,
) noexcept nogil:
    cdef float own_table[256]  # a local copy: the compiler knows that no store to the scales changes it
    cdef int64_t i, start
    memcpy(own_table, table, sizeof(own_table))
    for i in range((n + super_block_size - 1) // super_block_size):
        start = i * super_block_size
        decode_scales(
            codes + start, min(<int64_t> super_block_size, n - start), super_scales[i], offset, own_table,
            scales + start,
        )
