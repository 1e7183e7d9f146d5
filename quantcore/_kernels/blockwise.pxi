# blockwise.pxi: the loops of the 4-bit block-wise codes over blocks and super-blocks.
from libc.math cimport rintf
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from quantcore._kernels.bits cimport INFINITE, float_of
from quantcore._kernels.blockwise cimport GROUP, GROUP_BYTES, INT4, NIBBLE_TILE, absmax_bits, code_block, decode_block
from quantcore._kernels.floats cimport FLOAT32, load_tile, size_of, store_tile
from quantcore._kernels.scales cimport prefetch_run

cdef enum:
    MOST_BLOCKS = 4096  # blocks of one super-block
    PREFETCH_DISTANCE = 4096  # elements that are asked for ahead, while a block is coded from L1


cdef inline const float* loaded(
    const uint8_t* values, int dtype, int64_t start, int64_t n, float* staged
) noexcept nogil:
    """Elements from start on as float32: where they are, or converted into `staged`."""
    if dtype == FLOAT32:
        return <const float*> values + start
    load_tile(values + start * size_of(dtype), dtype, n, staged)
    return staged


cdef inline void code_elements(
    const float* x, int64_t n, float scale, int quant_type, const float* tree, uint8_t* out
) noexcept nogil:
    """Code one block of n elements; one that is not whole groups is filled up with zeros."""
    cdef float padded[GROUP]
    cdef uint8_t coded[GROUP_BYTES]
    cdef int64_t whole = n // GROUP * GROUP
    code_block(x, whole, scale, quant_type, tree, out)
    if whole < n:
        memset(padded, 0, sizeof(padded))
        memcpy(padded, x + whole, (n - whole) * 4)
        code_block(padded, GROUP, scale, quant_type, tree, coded)
        memcpy(out + whole // 2, coded, (n - whole + 1) // 2)


cdef int64_t nibbles_quantize(
    const uint8_t* values, int dtype, int64_t n, int block_size, int quant_type, const float* tree, float* scales,
    uint8_t* out,
) noexcept nogil:
    cdef float staged[NIBBLE_TILE]
    cdef const float* x
    cdef int64_t start, count, i
    cdef uint32_t absmax
    for i in range((n + block_size - 1) // block_size):
        start = i * block_size
        count = min(<int64_t> block_size, n - start)
        x = loaded(values, dtype, start, count, staged)
        prefetch_run(values + (start + PREFETCH_DISTANCE) * size_of(dtype), count * size_of(dtype))
        absmax = absmax_bits(x, count)
        if absmax >= <uint32_t> INFINITE:
            return start
        scales[i] = float_of(absmax) / <float> 7.0 if quant_type == INT4 else float_of(absmax)
        code_elements(x, count, scales[i], quant_type, tree, out + start // 2)
    return -1


cdef int64_t nibbles_quantize_linear(
    const uint8_t* values, int dtype, int64_t n, int block_size, int quant_type, const float* tree,
    int super_block_size, uint8_t* scales, float* super_scales, uint8_t* out,
) noexcept nogil:
    cdef float staged[NIBBLE_TILE]
    cdef float scale[MOST_BLOCKS]
    cdef const float* x
    cdef int64_t start, count, i, k, n_blocks, first_block, n_super = <int64_t> block_size * super_block_size
    cdef uint32_t absmax
    cdef float largest, step
    cdef int32_t code
    for k in range((n + n_super - 1) // n_super):
        first_block = k * super_block_size
        n_blocks = min(<int64_t> super_block_size, (n + block_size - 1) // block_size - first_block)
        largest = 0
        for i in range(n_blocks):
            start = (first_block + i) * block_size
            count = min(<int64_t> block_size, n - start)
            absmax = absmax_bits(loaded(values, dtype, start, count, staged), count)
            if absmax >= <uint32_t> INFINITE:
                return start
            scale[i] = float_of(absmax) / <float> 7.0 if quant_type == INT4 else float_of(absmax)
            largest = max(largest, scale[i])
        step = largest / <float> 255.0
        super_scales[k] = step
        for i in range(n_blocks):
            start = (first_block + i) * block_size
            count = min(<int64_t> block_size, n - start)
            code = 0
            if step > 0 and scale[i] > 0:
                # A block that is not zeros keeps a scale that is not 0.
                code = max(1, min(255, <int32_t> rintf(scale[i] / step)))
            scales[first_block + i] = <uint8_t> code
            x = loaded(values, dtype, start, count, staged)
            code_elements(x, count, <float> code * step, quant_type, tree, out + start // 2)
    return -1


cdef void nibbles_dequantize(
    const uint8_t* data, int64_t n, int block_size, const float* scales, const float* table, uint8_t* values, int dtype,
) noexcept nogil:
    cdef float staged[NIBBLE_TILE]
    cdef float padded[GROUP]
    cdef uint8_t coded[GROUP_BYTES]
    cdef float* y
    cdef int64_t start, count, whole, i
    cdef float scale
    for i in range((n + block_size - 1) // block_size):
        start = i * block_size
        count = min(<int64_t> block_size, n - start)
        scale = scales[i]
        y = <float*> values + start if dtype == FLOAT32 else staged
        whole = count // GROUP * GROUP
        decode_block(data + start // 2, whole, scale, table, y)
        if whole < count:
            memset(coded, 0, sizeof(coded))
            memcpy(coded, data + (start + whole) // 2, (count - whole + 1) // 2)
            decode_block(coded, GROUP, scale, table, padded)
            memcpy(y + whole, padded, (count - whole) * 4)
        if dtype != FLOAT32:
            store_tile(staged, count, dtype, values + start * size_of(dtype))


cdef void nearest_of_256(
    const float* x, int64_t n, float inverse, const float* tree, uint8_t* out
) noexcept nogil:
    cdef int64_t i
    cdef int level
    cdef int32_t node
    cdef float v
    for i in range(n):
        v = x[i] * inverse
        node = 1
        for level in range(8):
            node = 2 * node + (v > tree[node])
        out[i] = <uint8_t> (node - 256)
