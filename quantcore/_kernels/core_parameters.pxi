# core_parameters.pxi: what stands around the affine kernels, for _core.pyx: small arrays, for which NumPy's calls would
# take longer than the kernels take for a small tensor.
from libc.stdint cimport INT32_MAX, INT32_MIN

from quantcore._kernels.affine cimport key_of
from quantcore._kernels.bits cimport INFINITE, float_of
from quantcore._kernels.parameters cimport FLT_MAX, inverse_of, parameters_of


def join_extremes(list parts, int32_t[:, ::1] bounds):
    """The bits of the smallest and the largest value of each channel, into `bounds` of shape (2, channels).

    `parts`: (keys, outer, inner), where keys of extremes have the shape (2, outer x channels x inner). Returns whether
    all are finite.
    """
    cdef const int32_t[:, ::1] keys
    cdef int64_t channels = bounds.shape[1], outer, inner, c, i, j, at
    cdef bint are_finite = True
    bounds[0, :] = INT32_MAX
    bounds[1, :] = INT32_MIN
    for keys, outer, inner in parts:
        at = 0
        for i in range(outer):
            for c in range(channels):
                for j in range(inner):
                    bounds[0, c] = min(bounds[0, c], keys[0, at])
                    bounds[1, c] = max(bounds[1, c], keys[1, at])
                    at += 1
    for c in range(channels):
        are_finite = are_finite and bounds[0, c] > ~(<int32_t> INFINITE) and bounds[1, c] < <int32_t> INFINITE
        for i in range(2):
            bounds[i, c] = key_of(float_of(<uint32_t> bounds[i, c]))
    return are_finite


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
