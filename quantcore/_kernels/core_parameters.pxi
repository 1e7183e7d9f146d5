# core_parameters.pxi: what stands around the affine kernels, for _core.pyx: small arrays, for which NumPy's calls would
# take longer than the kernels take for a small tensor.
from libc.stdint cimport INT32_MAX, INT32_MIN

from quantcore._kernels.affine cimport key_of
from quantcore._kernels.bits cimport INFINITE, float_of
from quantcore._kernels.parameters cimport FLT_MAX, inverse_of, parameters_of


cdef void join_row(
    int64_t channels, int64_t inner, const int32_t* low, const int32_t* high, int32_t* lowest, int32_t* highest
) noexcept nogil:
    """Lower and raise each channel's keys by `inner` others."""
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


def parameters_between(
    const float[:, ::1] bounds, bint is_symmetric, int qmin, int qmax, float[::1] scales, int32_t[::1] zero_points
):
    """Scales and zero points (parameters.pxd) from the smallest and the largest value of each channel.

    Returns whether all scales are finite; with few codes, float32 may not hold them.
    """
    cdef int64_t c
    cdef bint are_finite = True
    for c in range(bounds.shape[1]):
        parameters_of(bounds[0, c], bounds[1, c], is_symmetric, qmin, qmax, &scales[c], &zero_points[c])
        are_finite = are_finite and scales[c] <= FLT_MAX
    return are_finite


def coding_rows(
    const float[::1] scales, const int32_t[::1] zero_points, int qmin, int qmax, float[:, ::1] rows
):
    """What kernels take that go there and back: rows of scales, inverses, zero points, and limits less zero points."""
    cdef int64_t c
    for c in range(scales.shape[0]):
        rows[0, c] = scales[c]
        rows[1, c] = inverse_of(scales[c])
        rows[2, c] = <float> zero_points[c]
        rows[3, c] = <float> (qmin - zero_points[c])
        rows[4, c] = <float> (qmax - zero_points[c])
