# parameters.pxd: scales and zero points of affine codes from the extremes of their elements, in float32.
# Symmetric: scale = max(-low, high) / ((qmax - qmin) / 2). Asymmetric: scale = (high - low) / (qmax - qmin) and zero
# point = clip(qmin - rint(low / scale), qmin, qmax). 0 always lies between low and high. A range or a scale below the
# smallest normal float gives scale 1 and zero point 0. With an offset instead of a zero point, the range is as it is.
from libc.math cimport INFINITY, rintf
from libc.stdint cimport int32_t

cdef extern from "float.h":
    const float FLT_MAX
    const float FLT_MIN


cdef inline void parameters_of(
    float lowest, float highest, bint symmetric, int32_t qmin, int32_t qmax, float* scale, int32_t* zero_point
) noexcept nogil:
    """`scale` and `zero_point` from finite extremes."""
    cdef float low = min(lowest, <float> 0), high = max(highest, <float> 0)
    cdef float steps = <float> (qmax - qmin), spread, shifted
    zero_point[0] = 0
    if symmetric:
        spread = max(-low, high)
        steps = steps / <float> 2
    else:
        spread = high - low
    scale[0] = spread / steps
    if spread == <float> INFINITY:
        scale[0] = <float> ((<double> high - low) / steps)
    if min(spread, scale[0]) < FLT_MIN:
        scale[0] = 1
    elif not symmetric:
        shifted = <float> qmin - rintf(low / scale[0])
        zero_point[0] = <int32_t> min(max(shifted, <float> qmin), <float> qmax)


cdef inline void offset_parameters_of(float low, float high, int32_t steps, float* scale, float* offset) noexcept nogil:
    """`scale` and `offset` of codes from 0 to `steps` between finite extremes that are less than FLT_MAX apart."""
    scale[0] = (high - low) / <float> steps
    offset[0] = low
    if min(high - low, scale[0]) < FLT_MIN:
        scale[0] = 1


cdef inline float inverse_of(float scale) noexcept nogil:
    """1 / scale as torch computes it; finite even for a subnormal scale."""
    return min(<float> 1 / scale, FLT_MAX)
