# errors.pxi: error sums, for _core.pyx. Items are error chunks with one row of N_SUMS sums each.
from libc.math cimport isfinite

from quantcore._kernels.passes.errors cimport LARGEST, N_SUMS
from quantcore._kernels.table cimport ERROR_CHUNK, AffineCoding


def error_chunk():
    """The number of elements per error chunk."""
    return ERROR_CHUNK


cdef class ErrorsOfPairs(Kernel):
    """Sums over pairs."""

    cdef const uint8_t* x
    cdef const uint8_t* y
    cdef int x_dtype, y_dtype
    cdef int64_t n_pairs
    cdef double threshold
    cdef double* sums

    def __init__(self, object x, int x_dtype, object y, int y_dtype, double threshold, object sums):
        self.y, self.y_dtype = self.read(y), y_dtype
        self.x, self.x_dtype = self.read(x), x_dtype
        self.n_pairs = self.n_bytes() // size_of(x_dtype)
        self.threshold, self.sums = threshold, <double*> self.write(sums, 8)

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        cdef int64_t start = first * ERROR_CHUNK
        TABLE.pairs_errors(
            self.x + start * size_of(self.x_dtype), self.x_dtype, self.y + start * size_of(self.y_dtype), self.y_dtype,
            min(self.n_pairs - start, n * ERROR_CHUNK), self.threshold, self.sums + first * N_SUMS,
        )
        return -1


cdef class ErrorsOfAffine(Kernel):
    """Sums over values and their reconstruction from affine codes.

    `parameters` (see rows_of) are those of groups or of the columns of a row.
    """

    cdef const uint8_t* values
    cdef int dtype
    cdef int64_t n_values
    cdef AffineCoding coding
    cdef double threshold
    cdef double* sums

    def __init__(
        self, object values, int dtype, tuple layout, bint is_in_columns, object parameters, double threshold,
        object sums,
    ):
        self.coding.layout, self.coding.rows = layout_of(layout), rows_of(self, parameters)
        self.coding.width = self.coding.rows.n_scales if is_in_columns else 0
        self.values, self.dtype = self.read(values), dtype
        self.n_values = self.n_bytes() // size_of(dtype)
        self.threshold, self.sums = threshold, <double*> self.write(sums, 8)

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        cdef int64_t start = first * ERROR_CHUNK
        return TABLE.affine_errors(
            self.values, self.dtype, start, min(self.n_values - start, n * ERROR_CHUNK), &self.coding, self.threshold,
            self.sums + first * N_SUMS,
        )


def first_infinite(const double[:, ::1] rows):
    """The first row with a sum that is inf or NaN, or -1."""
    cdef int64_t i, j
    for i in range(rows.shape[0]):
        for j in range(N_SUMS):
            if not isfinite(rows[i, j]):
                return i
    return -1


def add_errors(tuple figures, const double[:, ::1] rows):
    """`figures` (a row as a tuple) plus all rows: sums are added in order, largest errors are maximised."""
    cdef double total[N_SUMS]
    cdef int64_t i, j
    for j in range(N_SUMS):
        total[j] = figures[j]
    for i in range(rows.shape[0]):
        for j in range(N_SUMS):
            total[j] = max(total[j], rows[i, j]) if j == LARGEST else total[j] + rows[i, j]
    return tuple([total[j] for j in range(N_SUMS)])
