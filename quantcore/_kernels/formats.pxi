# formats.pxi: the GGUF formats' loops over tiles.
from libc.stdint cimport int64_t, uint8_t

from quantcore._kernels.floats cimport (
    FLOAT32,
    TILE,
    bf16_dequantize_tile,
    bf16_quantize_tile,
    f16_dequantize_tile,
    f16_quantize_tile,
    f32_dequantize_tile,
    f32_quantize_tile,
    loaded,
    size_of,
    store_tile,
)
from quantcore._kernels.q4_0 cimport Q4_0_BLOCK, Q4_0_BYTES, q4_0_dequantize_tile, q4_0_quantize_tile
from quantcore._kernels.q8_0 cimport Q8_0_BLOCK, Q8_0_BYTES, q8_0_dequantize_tile, q8_0_quantize_tile

ctypedef int64_t (*QuantizeTile)(const float*, int64_t, uint8_t*, const uint8_t*, int64_t) noexcept nogil
ctypedef int64_t (*DequantizeTile)(const uint8_t*, int64_t, float*, const uint8_t*, int64_t) noexcept nogil


cdef inline int64_t over_values(
    QuantizeTile quantize_tile, int block_size, int bytes_per_block,
    const uint8_t* values, int dtype, int64_t n_blocks, uint8_t* out,
) noexcept nogil:
    cdef float staged[TILE]
    cdef const float* x
    cdef int64_t tile = TILE // block_size
    cdef int64_t stride = block_size * size_of(dtype)
    cdef int64_t i = 0, n, bad
    while i < n_blocks:
        n = min(tile, n_blocks - i)
        x = loaded(values, dtype, i * block_size, n * block_size, staged)
        bad = quantize_tile(x, n, out + i * bytes_per_block, values + (i + tile) * stride, stride)
        if bad >= 0:
            return i + bad
        i += n
    return -1


cdef inline int64_t over_blocks(
    DequantizeTile dequantize_tile, int block_size, int bytes_per_block,
    const uint8_t* data, int64_t n_blocks, uint8_t* values, int dtype,
) noexcept nogil:
    cdef float staged[TILE]
    cdef float* y
    cdef int64_t tile = TILE // block_size
    cdef int64_t stride = block_size * size_of(dtype)
    cdef int64_t i = 0, n, bad, first_bad = -1
    while i < n_blocks:
        n = min(tile, n_blocks - i)
        y = <float*> values + i * block_size if dtype == FLOAT32 else staged
        bad = dequantize_tile(data + i * bytes_per_block, n, y, values + (i + tile) * stride, stride)
        if bad >= 0 and first_bad < 0:
            first_bad = i + bad
        if dtype != FLOAT32:
            store_tile(staged, n * block_size, dtype, values + i * stride)
        i += n
    return first_bad


cdef int64_t q4_0_quantize(const uint8_t* values, int dtype, int64_t n_blocks, uint8_t* out) noexcept nogil:
    return over_values(q4_0_quantize_tile, Q4_0_BLOCK, Q4_0_BYTES, values, dtype, n_blocks, out)


cdef int64_t q4_0_dequantize(const uint8_t* data, int64_t n_blocks, uint8_t* values, int dtype) noexcept nogil:
    return over_blocks(q4_0_dequantize_tile, Q4_0_BLOCK, Q4_0_BYTES, data, n_blocks, values, dtype)


cdef int64_t q8_0_quantize(const uint8_t* values, int dtype, int64_t n_blocks, uint8_t* out) noexcept nogil:
    return over_values(q8_0_quantize_tile, Q8_0_BLOCK, Q8_0_BYTES, values, dtype, n_blocks, out)


cdef int64_t q8_0_dequantize(const uint8_t* data, int64_t n_blocks, uint8_t* values, int dtype) noexcept nogil:
    return over_blocks(q8_0_dequantize_tile, Q8_0_BLOCK, Q8_0_BYTES, data, n_blocks, values, dtype)


cdef int64_t f32_quantize(const uint8_t* values, int dtype, int64_t n_blocks, uint8_t* out) noexcept nogil:
    return over_values(f32_quantize_tile, 1, 4, values, dtype, n_blocks, out)


cdef int64_t f32_dequantize(const uint8_t* data, int64_t n_blocks, uint8_t* values, int dtype) noexcept nogil:
    return over_blocks(f32_dequantize_tile, 1, 4, data, n_blocks, values, dtype)


cdef int64_t f16_quantize(const uint8_t* values, int dtype, int64_t n_blocks, uint8_t* out) noexcept nogil:
    return over_values(f16_quantize_tile, 1, 2, values, dtype, n_blocks, out)


cdef int64_t f16_dequantize(const uint8_t* data, int64_t n_blocks, uint8_t* values, int dtype) noexcept nogil:
    return over_blocks(f16_dequantize_tile, 1, 2, data, n_blocks, values, dtype)


cdef int64_t bf16_quantize(const uint8_t* values, int dtype, int64_t n_blocks, uint8_t* out) noexcept nogil:
    return over_values(bf16_quantize_tile, 1, 2, values, dtype, n_blocks, out)


cdef int64_t bf16_dequantize(const uint8_t* data, int64_t n_blocks, uint8_t* values, int dtype) noexcept nogil:
    return over_blocks(bf16_dequantize_tile, 1, 2, data, n_blocks, values, dtype)
