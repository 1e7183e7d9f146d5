# blocks.pxi: ggml's block formats, for _core.pyx. Items are blocks.
from quantcore._kernels.table cimport MOST_TYPES, BlockFormat, RowImportance


def block_sizes():
    """{ggml type id: (block_size, bytes_per_block)} of the formats that offered themselves."""
    cdef int i
    return {
        i: (TABLE.formats[i].block_size, TABLE.formats[i].bytes_per_block)
        for i in range(MOST_TYPES)
        if TABLE.formats[i].block_size
    }


cdef class QuantizeBlocks(Kernel):
    """Blocks of a type from an array of element type `dtype`. `is_refined`: with the search of effort="best".

    `weights`: None, or float32 of shape (groups, cols); each group applies to `rows_per_group` consecutive rows.
    """

    cdef BlockFormat* format
    cdef const uint8_t* values
    cdef int dtype
    cdef uint8_t* out
    cdef bint is_refined
    cdef RowImportance importance

    def __init__(
        self, int type_id, object values, int dtype, object out, object weights=None, int64_t cols=0,
        int64_t rows_per_group=1, bint is_refined=False,
    ):
        self.format = &TABLE.formats[type_id]
        make_grid_search(self.format.grid)
        if is_refined:
            make_grid_points(self.format.grid)  # what is found is decoded
        self.values, self.dtype = self.read(values), dtype
        self.out, self.is_refined = self.write(out), is_refined
        self.importance.weights = NULL
        if weights is not None:
            self.importance.weights = <const float*> self.read(weights)
            self.importance.blocks_per_row = cols // self.format.block_size
            self.importance.rows_per_group = rows_per_group

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        cdef const uint8_t* values = self.values + first * self.format.block_size * size_of(self.dtype)
        cdef uint8_t* out = self.out + first * self.format.bytes_per_block
        cdef const RowImportance* importance = &self.importance if self.importance.weights != NULL else NULL
        return counted_from(
            first, TABLE.quantize_blocks(self.format, values, self.dtype, first, n, importance, self.is_refined, out)
        )


cdef class DequantizeBlocks(Kernel):
    """Decodes blocks into an array of element type `dtype`."""

    cdef BlockFormat* format
    cdef const uint8_t* data
    cdef uint8_t* out
    cdef int dtype

    def __init__(self, int type_id, object data, object out, int dtype):
        self.format = &TABLE.formats[type_id]
        make_grid_points(self.format.grid)
        self.data = self.read(data)
        self.out, self.dtype = self.write(out), dtype

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        cdef const uint8_t* data = self.data + first * self.format.bytes_per_block
        cdef uint8_t* out = self.out + first * self.format.block_size * size_of(self.dtype)
        return counted_from(first, TABLE.dequantize_blocks(self.format, data, n, out, self.dtype))
