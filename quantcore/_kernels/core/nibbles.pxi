# nibbles.pxi: 4-bit codes, for _core.pyx. Items are elements, in whole blocks (or super-blocks).


cdef class QuantizeNibbles(Kernel):
    """4-bit codes and the float32 scales of their blocks."""

    cdef const uint8_t* values
    cdef const float* midpoints
    cdef float* scales
    cdef uint8_t* out
    cdef int dtype, block_size, quant_type

    def __init__(
        self, object values, int dtype, int block_size, int quant_type, object midpoints, object scales, object out
    ):
        self.values, self.dtype = self.read(values), dtype
        self.block_size, self.quant_type = block_size, quant_type
        self.midpoints = <const float*> self.read(midpoints, 4)
        self.scales = <float*> self.write(scales, 4)
        self.out = self.write(out)

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        return counted_from(
            first,
            TABLE.nibbles_quantize(
                self.values + first * size_of(self.dtype), self.dtype, n, self.block_size, self.quant_type,
                self.midpoints, self.scales + first // self.block_size, self.out + first // 2,
            ),
        )


cdef class QuantizeNibblesLinear(Kernel):
    """4-bit codes, fitted to uint8 scales in super-blocks."""

    cdef const uint8_t* values
    cdef const float* midpoints
    cdef uint8_t* scales
    cdef float* super_scales
    cdef uint8_t* out
    cdef int dtype, block_size, quant_type, super_block_size

    def __init__(
        self, object values, int dtype, int block_size, int quant_type, object midpoints, int super_block_size,
        object scales, object super_scales, object out,
    ):
        self.values, self.dtype = self.read(values), dtype
        self.block_size, self.quant_type, self.super_block_size = block_size, quant_type, super_block_size
        self.midpoints = <const float*> self.read(midpoints, 4)
        self.scales = self.write(scales, 1)
        self.super_scales = <float*> self.write(super_scales, 4)
        self.out = self.write(out)

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        cdef int64_t block = first // self.block_size
        return counted_from(
            first,
            TABLE.nibbles_quantize_linear(
                self.values + first * size_of(self.dtype), self.dtype, n, self.block_size, self.quant_type,
                self.midpoints, self.super_block_size, self.scales + block,
                self.super_scales + block // self.super_block_size, self.out + first // 2,
            ),
        )


cdef class DequantizeNibbles(Kernel):
    """Decodes 4-bit codes: values of `table` times the scales of the blocks."""

    cdef const uint8_t* data
    cdef const float* scales
    cdef const float* table
    cdef uint8_t* out
    cdef int block_size, dtype

    def __init__(self, object data, int block_size, object scales, object table, object out, int dtype):
        self.data, self.block_size = self.read(data), block_size
        self.scales = <const float*> self.read(scales, 4)
        self.table = <const float*> self.read(table, 4)
        self.out, self.dtype = self.write(out), dtype

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        TABLE.nibbles_dequantize(
            self.data + first // 2, n, self.block_size, self.scales + first // self.block_size, self.table,
            self.out + first * size_of(self.dtype), self.dtype,
        )
        return -1
