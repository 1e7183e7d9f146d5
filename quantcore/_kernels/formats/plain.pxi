# plain.pxi: F32, F16 and BF16, whose "block" is one element.
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy

from quantcore._kernels.common.bits cimport INFINITE
from quantcore._kernels.common.floats cimport BFLOAT16, FLOAT16, first_from, load_tile, store_tile
from quantcore._kernels.table cimport TileImportance

cdef enum:
    F16_LIMIT = 0x477FF000  # bits of 65520, which rounds to an infinite half
    BF16_LIMIT = 0x7F7F8000  # the first float32 that rounds to an infinite bfloat16


cdef int64_t f32_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    memcpy(out, x, n * 4)
    return first_from(x, n, INFINITE)


cdef int64_t f16_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    store_tile(x, n, FLOAT16, out)
    return first_from(x, n, F16_LIMIT)


cdef int64_t bf16_quantize_tile(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    store_tile(x, n, BFLOAT16, out)
    return first_from(x, n, BF16_LIMIT)


cdef int64_t f32_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    memcpy(y, data, n * 4)
    return first_from(y, n, INFINITE)


cdef int64_t f16_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    load_tile(data, FLOAT16, n, y)
    return first_from(y, n, INFINITE)


cdef int64_t bf16_dequantize_tile(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    load_tile(data, BFLOAT16, n, y)
    return first_from(y, n, INFINITE)


offer(0, 1, 4, f32_quantize_tile, f32_dequantize_tile)
offer(1, 1, 2, f16_quantize_tile, f16_dequantize_tile)
offer(30, 1, 2, bf16_quantize_tile, bf16_dequantize_tile)
