# core_blocks.pxi: GGUF block formats, for _core.pyx. Items are blocks.
from quantcore._kernels.table cimport N_FORMATS, BlockKernels


cdef BlockKernels* kernels_of(int type_id) noexcept nogil:
    cdef int i
    for i in range(N_FORMATS):
        if TABLE.formats[i].id == type_id:
            return &TABLE.formats[i]
    return NULL


def block_sizes():
    """{ggml type id: (block_size, bytes_per_block)} as the kernels were compiled."""
    cdef int i
    return {
        TABLE.formats[i].id: (TABLE.formats[i].block_size, TABLE.formats[i].bytes_per_block)
        for i in range(N_FORMATS)
    }


cdef class QuantizeBlocks(Kernel):
    """Blocks of a type from an array of element type `dtype`."""

    cdef BlockKernels* kernels
    cdef const uint8_t* values
    cdef int dtype
    cdef uint8_t* out

    def __init__(self, int type_id, object values, int dtype, object out):
        self.kernels = kernels_of(type_id)
        self.values, self.dtype = self.read(values), dtype
        self.out = self.write(out)

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        cdef const uint8_t* values = self.values + first * self.kernels.block_size * size_of(self.dtype)
        cdef uint8_t* out = self.out + first * self.kernels.bytes_per_block
        return counted_from(first, self.kernels.quantize(values, self.dtype, n, out))


cdef class DequantizeBlocks(Kernel):
    """Values of blocks, into an array of element type `dtype`."""

    cdef BlockKernels* kernels
    cdef const uint8_t* data
    cdef uint8_t* out
    cdef int dtype

    def __init__(self, int type_id, object data, object out, int dtype):
        self.kernels = kernels_of(type_id)
        self.data = self.read(data)
        self.out, self.dtype = self.write(out), dtype

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        cdef const uint8_t* data = self.data + first * self.kernels.bytes_per_block
        cdef uint8_t* out = self.out + first * self.kernels.block_size * size_of(self.dtype)
        return counted_from(first, self.kernels.dequantize(data, n, out, self.dtype))
