# affine.pxi: extremes and affine codes, for _core.pyx. Items are groups, several of which may share a scale, or
# rows of `width` columns with one scale per column; the rows begin at element `first`.
from quantcore._kernels.table cimport CodingRows, GroupLayout


cdef GroupLayout layout_of(tuple layout):
    """(cols, size, per_row, sharing)"""
    cdef GroupLayout result
    result.cols, result.size, result.per_row, result.sharing = layout
    return result


cdef CodingRows rows_of(Kernel kernel, object parameters) except *:
    """`parameters`, float32 of shape (5, n) or (6, n): scales, inverses, zero points, both limits minus zero points,
    and offsets if any.
    """
    cdef CodingRows rows
    cdef int64_t n_rows = len(parameters)
    rows.scales = <const float*> kernel.read(parameters, 4)
    rows.n_scales = kernel.n_held() // n_rows
    rows.inverses = rows.scales + rows.n_scales
    rows.zero_points = rows.inverses + rows.n_scales
    rows.lows = rows.zero_points + rows.n_scales
    rows.highs = rows.lows + rows.n_scales
    rows.offsets = rows.highs + rows.n_scales if n_rows == 6 else NULL
    rows.are_limits_shared = False
    return rows


cdef bint are_limits_shared(const CodingRows* rows) noexcept nogil:
    """Whether all columns have the same zero point and limits, as those of symmetric codes do."""
    cdef int64_t c
    for c in range(1, rows.n_scales):
        if (
            rows.zero_points[c] != rows.zero_points[0]
            or rows.lows[c] != rows.lows[0]
            or rows.highs[c] != rows.highs[0]
        ):
            return False
    return True


cdef class ExtremesOfGroups(Kernel):
    """Keys of the extremes of each group, shape (2, number of groups)."""

    cdef const uint8_t* values
    cdef int dtype
    cdef GroupLayout layout
    cdef int32_t* lowest
    cdef int32_t* highest

    def __init__(self, object values, int dtype, tuple layout, object keys):
        self.values, self.dtype, self.layout = self.read(values), dtype, layout_of(layout)
        self.lowest = <int32_t*> self.write(keys, 4)
        self.highest = self.lowest + self.n_held() // 2

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        TABLE.groups_extremes(self.values, self.dtype, &self.layout, first, n, self.lowest, self.highest)
        return -1


cdef class ExtremesOfColumns(Kernel):
    """Keys of the extremes of each column, shape (2, number of chunks, width)."""

    cdef const uint8_t* values
    cdef int dtype
    cdef int64_t width
    cdef int32_t* lowest
    cdef int32_t* highest

    def __init__(self, object values, int dtype, int64_t first, int64_t width, object keys):
        self.values, self.dtype, self.width = self.read(values) + first * size_of(dtype), dtype, width
        self.lowest = <int32_t*> self.write(keys, 4)
        self.highest = self.lowest + self.n_held() // 2

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        cdef int64_t row = first // self.size * self.width
        TABLE.columns_extremes(
            self.values + first * self.width * size_of(self.dtype), self.dtype, n, self.width, self.lowest + row,
            self.highest + row,
        )
        return -1


cdef class QuantizeGroups(Kernel):
    """Affine codes, one scale per group. `parameters`: see rows_of."""

    cdef const uint8_t* values
    cdef int dtype
    cdef GroupLayout layout
    cdef CodingRows rows
    cdef uint8_t* out

    def __init__(self, object values, int dtype, tuple layout, object parameters, object out):
        self.values, self.dtype, self.layout = self.read(values), dtype, layout_of(layout)
        self.rows, self.out = rows_of(self, parameters), self.write(out, 1)

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        return TABLE.groups_quantize(self.values, self.dtype, &self.layout, first, n, &self.rows, self.out)


cdef class QuantizeColumns(Kernel):
    """Affine codes, one scale per column. `parameters` may have more columns."""

    cdef const uint8_t* values
    cdef int dtype
    cdef int64_t width
    cdef CodingRows rows
    cdef uint8_t* out

    def __init__(self, object values, int dtype, int64_t first, int64_t width, object parameters, object out):
        self.values, self.dtype, self.width = self.read(values) + first * size_of(dtype), dtype, width
        self.rows, self.out = rows_of(self, parameters), self.write(out, 1) + first
        self.rows.are_limits_shared = are_limits_shared(&self.rows)

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        cdef int64_t element = first * self.width
        return counted_from(
            first,
            TABLE.columns_quantize(
                self.values + element * size_of(self.dtype), self.dtype, n, self.width, &self.rows, self.out + element
            ),
        )


cdef class DequantizeGroups(Kernel):
    """Values of affine codes, one scale per group."""

    cdef const uint8_t* codes
    cdef bint is_signed
    cdef GroupLayout layout
    cdef CodingRows rows
    cdef uint8_t* out
    cdef int dtype

    def __init__(self, object codes, bint is_signed, tuple layout, object parameters, object out, int dtype):
        self.codes, self.is_signed, self.layout = self.read(codes, 1), is_signed, layout_of(layout)
        self.rows, self.out, self.dtype = rows_of(self, parameters), self.write(out), dtype

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        TABLE.groups_dequantize(
            self.codes, self.is_signed, &self.layout, first, n, &self.rows, self.out, self.dtype
        )
        return -1


cdef class DequantizeColumns(Kernel):
    """Values of affine codes, one scale per column. `parameters` may have more columns."""

    cdef const uint8_t* codes
    cdef bint is_signed
    cdef int64_t width
    cdef CodingRows rows
    cdef uint8_t* out
    cdef int dtype

    def __init__(
        self, object codes, bint is_signed, int64_t first, int64_t width, object parameters, object out, int dtype
    ):
        self.codes, self.is_signed, self.width = self.read(codes, 1) + first, is_signed, width
        self.rows, self.out, self.dtype = rows_of(self, parameters), self.write(out) + first * size_of(dtype), dtype

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        cdef int64_t element = first * self.width
        TABLE.columns_dequantize(
            self.codes + element, self.is_signed, n, self.width, &self.rows, self.out + element * size_of(self.dtype),
            self.dtype,
        )
        return -1
