# core_errors.pxi: the part of _core.pyx for error sums.
from quantcore._kernels.table cimport ERROR_CHUNK, AffineCoding


def error_chunk():
    """Elements whose error sums are taken together."""
    return ERROR_CHUNK


def errors_of_pairs(
    const uint8_t[::1] x, int x_dtype, const uint8_t[::1] y, int y_dtype, double threshold, double[:, ::1] sums,
    Chunks chunks, int64_t most,
):
    """A row of sums for each error chunk of n pairs; `chunks` hand out error chunks."""
    cdef int64_t n = x.shape[0] // size_of(x_dtype), start, first
    if chunks.total == 0:
        return
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            first = start * ERROR_CHUNK
            TABLE.pairs_errors(
                &x[0] + first * size_of(x_dtype), x_dtype, &y[0] + first * size_of(y_dtype), y_dtype,
                min(n - first, chunks.count(start) * ERROR_CHUNK), threshold, &sums[start, 0],
            )
            start = chunks.take(&most)


def errors_of_affine(
    const uint8_t[::1] values, int dtype, tuple layout, bint is_in_columns, const float[:, ::1] parameters,
    double threshold, double[:, ::1] sums, Chunks chunks, int64_t most,
):
    """A row of sums for each error chunk of values and what their affine codes give; `chunks` hand out error chunks.

    `parameters`: as for fake_quantize_groups, of groups or of the columns of a row.
    """
    cdef int64_t n = values.shape[0] // size_of(dtype), start, first
    cdef AffineCoding coding
    if chunks.total == 0:
        return
    coding.layout = layout_of(layout)
    coding.n_scales = parameters.shape[1]
    coding.width = parameters.shape[1] if is_in_columns else 0
    coding.scales, coding.inverses = &parameters[0, 0], &parameters[1, 0]
    coding.lows, coding.highs = &parameters[3, 0], &parameters[4, 0]
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            first = start * ERROR_CHUNK
            chunks.report(
                0,
                TABLE.affine_errors(
                    &values[0], dtype, first, min(n - first, chunks.count(start) * ERROR_CHUNK), &coding, threshold,
                    &sums[start, 0],
                ),
            )
            start = chunks.take(&most)
