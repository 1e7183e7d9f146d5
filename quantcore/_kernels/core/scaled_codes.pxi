# scaled_codes.pxi: codes with a scale for each rectangle of a matrix, for _core.pyx. Items are elements.


cdef class DequantizeCodes(Kernel):
    """Decodes 8-bit or 4-bit codes: values of `table` times the scale of their rectangle.

    `widening` names another way to the values of the table, which must give the same bits.

    `layout`: columns; rows of a matrix; rows and columns that share a scale; rows and columns of a matrix's scales.
    `codes` begins with element `first` of the stacked matrices, an even one; `scales` with the row `first_scale_row`.
    """

    cdef ScaledCodes coded
    cdef const uint8_t* codes
    cdef uint8_t* out
    cdef int64_t first
    cdef int dtype

    def __init__(
        self, object codes, int bits, int widening, object table, object scales, tuple layout,
        int64_t first, int64_t first_scale_row, object out, int dtype,
    ):
        self.codes, self.first = self.read(codes, 1), first
        self.coded.bits = bits
        self.coded.table = <const float*> self.read(table, 4)
        self.coded.widening = widening
        self.coded.scales = <const double*> self.read(scales, 8)
        self.coded.columns, self.coded.rows, self.coded.row_block, self.coded.column_block = layout[:4]
        self.coded.scale_rows, self.coded.scale_columns = layout[4:]
        self.coded.first_scale_row = first_scale_row
        self.out, self.dtype = self.write(out), dtype

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        TABLE.codes_dequantize(
            &self.coded, self.codes + first * self.coded.bits // 8, self.first + first, n,
            self.out + first * size_of(self.dtype), self.dtype,
        )
        return -1
