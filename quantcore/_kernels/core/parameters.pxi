# parameters.pxi: for _core.pyx, small computations around the affine kernels, for which NumPy's calls would take longer
# than the kernels themselves take for a small tensor.
from libc.stdint cimport INT32_MAX, INT32_MIN

from quantcore._kernels.passes.affine cimport key_of
from quantcore._kernels.common.bits cimport INFINITE, float_of
from quantcore._kernels.common.parameters cimport FLT_MAX, inverse_of, offset_parameters_of, parameters_of
from quantcore._kernels.table cimport CodingRows, GroupLayout


cdef void join_row(
    int64_t channels, int64_t inner, const int32_t* low, const int32_t* high, int32_t* lowest, int32_t* highest
) noexcept nogil:
    """Join `inner` keys into each channel's lowest and highest key."""
    cdef int64_t c, j
    if inner == 1:  # vectorises
        for c in range(channels):
            lowest[c] = min(lowest[c], low[c])
            highest[c] = max(highest[c], high[c])
        return
    for c in range(channels):
        for j in range(c * inner, (c + 1) * inner):
            lowest[c] = min(lowest[c], low[j])
            highest[c] = max(highest[c], high[j])


def join_extremes(list parts, int32_t[:, ::1] bounds):
    """The bits of the smallest and the largest value of each channel, into `bounds` of shape (2, channels).

    `parts`: (keys, outer, inner), where keys of extremes have the shape (2, outer x channels x inner). Returns whether
    all are finite.
    """
    cdef const int32_t[:, ::1] keys
    cdef int64_t channels = bounds.shape[1], outer, inner, c, i, row
    cdef int32_t lowest = INT32_MAX, highest = INT32_MIN
    bounds[0, :] = INT32_MAX
    bounds[1, :] = INT32_MIN
    for keys, outer, inner in parts:
        row = channels * inner
        for i in range(outer):
            join_row(channels, inner, &keys[0, i * row], &keys[1, i * row], &bounds[0, 0], &bounds[1, 0])
    for c in range(channels):
        lowest = min(lowest, bounds[0, c])
        highest = max(highest, bounds[1, c])
    for i in range(2):
        for c in range(channels):
            bounds[i, c] = key_of(float_of(<uint32_t> bounds[i, c]))
    return lowest > ~(<int32_t> INFINITE) and highest < <int32_t> INFINITE


cdef void coding_row(float[:, ::1] rows, int64_t c, int zero_point, int qmin, int qmax) noexcept nogil:
    """What follows from a scale and a zero point."""
    rows[1, c] = inverse_of(rows[0, c])
    rows[2, c] = <float> zero_point
    rows[3, c] = <float> (qmin - zero_point)
    rows[4, c] = <float> (qmax - zero_point)


def parameters_between(
    const float[:, ::1] bounds, bint symmetric, int qmin, int qmax, float[:, ::1] rows, int32_t[::1] zero_points
):
    """Parameters (parameters.pxd) from the smallest and the largest value of each channel, as rows (see coding_rows).

    There are offsets if there are six rows, and zero points, else None, if there are neither these nor symmetric codes.
    Returns the first channel whose scale or range float32 does not hold, or -1; those from it on may be missing.
    """
    cdef int64_t c
    cdef int32_t zero_point = 0
    cdef bint has_offsets = rows.shape[0] == 6
    for c in range(bounds.shape[1]):
        if has_offsets:
            if not bounds[1, c] - bounds[0, c] <= FLT_MAX:
                return c
            offset_parameters_of(bounds[0, c], bounds[1, c], qmax - qmin, &rows[0, c], &rows[5, c])
        else:
            parameters_of(bounds[0, c], bounds[1, c], symmetric, qmin, qmax, &rows[0, c], &zero_point)
            if not rows[0, c] <= FLT_MAX:
                return c
            if zero_points is not None:
                zero_points[c] = zero_point
        coding_row(rows, c, zero_point, qmin, qmax)
    return -1


def coding_rows(
    const float[::1] scales, const int32_t[::1] zero_points, const float[::1] offsets, int qmin, int qmax,
    float[:, ::1] rows,
):
    """Parameters of the affine kernels: rows of scales, inverses, zero points, both limits minus zero points, and
    offsets unless they are None.
    """
    cdef int64_t c
    if offsets is not None:
        rows[5, :] = offsets
    for c in range(scales.shape[0]):
        rows[0, c] = scales[c]
        coding_row(rows, c, zero_points[c], qmin, qmax)


ctypedef struct SmallArray:
    const uint8_t* values
    int dtype
    GroupLayout layout
    CodingRows rows
    bint has_offsets
    bint is_symmetric
    int qmin
    int qmax
    int32_t* zero_points  # or NULL
    float* parameters
    uint8_t* out
    bint is_done


def quantize_small(
    object values, int dtype, tuple layout, bint symmetric, int qmin, int qmax, object rows, object zero_points,
    object out,
):
    """Parameters and codes of an array whose groups have a scale each, in one call: as ExtremesOfGroups,
    parameters_between and QuantizeGroups, which take several times as long for what they do to a single vector.

    Returns whether the values and parameters are finite; if not, nothing that was written counts.
    """
    cdef SmallArray small
    cdef Kernel kernel = Kernel()
    small.values, small.dtype, small.layout = kernel.read(values), dtype, layout_of(layout)
    small.rows = rows_of(kernel, rows)
    small.parameters = <float*> small.rows.scales
    small.has_offsets, small.is_symmetric = small.rows.offsets != NULL, symmetric
    small.qmin, small.qmax = qmin, qmax
    small.zero_points = NULL if zero_points is None else <int32_t*> kernel.write(zero_points, 4)
    small.out, small.is_done = kernel.write(out, 1), False
    run_with_stack(quantize_small_array, &small)
    return small.is_done


cdef void quantize_small_array(void* argument) noexcept nogil:
    cdef SmallArray* small = <SmallArray*> argument
    cdef int64_t n = small.rows.n_scales, c
    cdef float* rows = small.parameters
    # The limits' places hold the keys of the extremes until those are turned into parameters.
    cdef int32_t* lowest = <int32_t*> (rows + 3 * n)
    cdef int32_t* highest = <int32_t*> (rows + 4 * n)
    cdef int32_t zero_point = 0
    cdef float low, high
    TABLE.groups_extremes(small.values, small.dtype, &small.layout, 0, n, lowest, highest)
    for c in range(n):
        if lowest[c] <= ~(<int32_t> INFINITE) or highest[c] >= <int32_t> INFINITE:
            return
        low = float_of(<uint32_t> key_of(float_of(<uint32_t> lowest[c])))
        high = float_of(<uint32_t> key_of(float_of(<uint32_t> highest[c])))
        if small.has_offsets:
            if not high - low <= FLT_MAX:
                return
            offset_parameters_of(low, high, small.qmax - small.qmin, &rows[c], &rows[5 * n + c])
        else:
            parameters_of(low, high, small.is_symmetric, small.qmin, small.qmax, &rows[c], &zero_point)
            if not rows[c] <= FLT_MAX:
                return
            if small.zero_points != NULL:
                small.zero_points[c] = zero_point
        rows[n + c] = inverse_of(rows[c])
        rows[2 * n + c] = <float> zero_point
        rows[3 * n + c] = <float> (small.qmin - zero_point)
        rows[4 * n + c] = <float> (small.qmax - zero_point)
    small.is_done = TABLE.groups_quantize(
        small.values, small.dtype, &small.layout, 0, n, &small.rows, small.out
    ) < 0
