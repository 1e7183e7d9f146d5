# floor_codes.pxi: codes that are rounded down, for _core.pyx. Items are rows of `width` columns that have a range each;
# the rows begin at element `first`.
from quantcore._kernels.table cimport FloorCoding


cdef class FloorColumns(Kernel):
    """Codes of columns. `ranges`, float32 of shape (2, n): lows and widths; they may have more columns."""

    cdef const uint8_t* values
    cdef int dtype
    cdef int64_t width
    cdef FloorCoding coding
    cdef uint8_t* out

    def __init__(
        self, object values, int dtype, int64_t first, int64_t width, object ranges, float most, float factor,
        bint is_wide, object out,
    ):
        self.values, self.dtype, self.width = self.read(values) + first * size_of(dtype), dtype, width
        self.coding.lows = <const float*> self.read(ranges, 4)
        self.coding.widths = self.coding.lows + self.n_held() // 2
        self.coding.most, self.coding.factor, self.coding.is_wide = most, factor, is_wide
        self.out = self.write(out, 1) + first

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        cdef int64_t element = first * self.width
        return counted_from(
            first,
            TABLE.columns_floor(
                self.values + element * size_of(self.dtype), self.dtype, n, self.width, &self.coding,
                self.out + element,
            ),
        )
