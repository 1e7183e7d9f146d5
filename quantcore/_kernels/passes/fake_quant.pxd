# fake_quant.pxd: affine quantization and dequantization at once, and its gradients:
# y = (clip(rint(x * (1 / scale)) + zero_point, qmin, qmax) - zero_point) * scale.
# `low` and `high` are qmin and qmax minus the zero point: clipped between them, rint(x / scale) is the code minus the
# zero point, and no integer is needed. The sums of LSQ are float64.
from libc.math cimport rintf
from libc.stdint cimport int64_t, uint32_t

from quantcore._kernels.passes.affine cimport steps_of
from quantcore._kernels.common.bits cimport MAGNITUDE, bits_of, float_of

cdef enum:
    UPPER_HALF = 0xFFFFF000  # a mask that keeps 12 bits of a float's mantissa, the implicit one included
    LANES = 16  # parallel sums; part of the definition of the result, so the same at every CPU level
    STAGE = 256  # elements whose terms are computed before they are added up


cdef inline float clip(float v, float low, float high) noexcept nogil:
    v = v if v > low else low
    return v if v < high else high


cdef inline float factor(float v, float low, float high) noexcept nogil:
    """1 if the code is in range, otherwise 0."""
    cdef float steps = rintf(v)
    return <float> 1.0 if clip(steps, low, high) == steps else <float> 0.0


cdef inline uint32_t fake_quantize_run(
    const float* x, int64_t n, bint has_offset, float offset, float inverse, float scale, float low, float high,
    float* y,
) noexcept nogil:
    """Returns the largest magnitude's bits. `has_offset` is a constant where this is inlined (see affine.pxd)."""
    cdef int64_t j
    cdef uint32_t largest = 0
    for j in range(n):
        largest = max(largest, bits_of(x[j]) & MAGNITUDE)
        if has_offset:
            y[j] = steps_of(x[j] - offset, inverse, low, high) * scale + offset
        else:
            y[j] = steps_of(x[j], inverse, low, high) * scale
    return largest


cdef inline uint32_t fake_quantize_row(
    const float* x, int64_t n, bint has_offset, const float* offset, const float* inverse, const float* scale,
    const float* low, const float* high, float* y,
) noexcept nogil:
    """As fake_quantize_run, with one scale per column."""
    cdef int64_t j
    cdef uint32_t largest = 0
    for j in range(n):
        largest = max(largest, bits_of(x[j]) & MAGNITUDE)
        if has_offset:
            y[j] = steps_of(x[j] - offset[j], inverse[j], low[j], high[j]) * scale[j] + offset[j]
        else:
            y[j] = steps_of(x[j], inverse[j], low[j], high[j]) * scale[j]
    return largest


cdef inline uint32_t backward_run(
    const float* x, const float* grad, int64_t n, float inverse, float low, float high, float* dx
) noexcept nogil:
    cdef int64_t j
    cdef uint32_t largest = 0
    for j in range(n):
        largest = max(largest, bits_of(x[j]) & MAGNITUDE)
        dx[j] = grad[j] * factor(x[j] * inverse, low, high)
    return largest


cdef inline uint32_t backward_row(
    const float* x, const float* grad, int64_t n, const float* inverse, const float* low, const float* high, float* dx
) noexcept nogil:
    cdef int64_t j
    cdef uint32_t largest = 0
    for j in range(n):
        largest = max(largest, bits_of(x[j]) & MAGNITUDE)
        dx[j] = grad[j] * factor(x[j] * inverse[j], low[j], high[j])
    return largest


cdef inline void lsq_terms(
    float x, float grad, float inverse, float scale, float zero_point, float low, float high, float* dx,
    float* of_scale, float* outside,
) noexcept nogil:
    """The gradient of x, the term of the scale's gradient, and the gradient if the code is out of range.

    As in torch's backward pass, the zero point is added before rounding.
    """
    cdef float code = rintf(zero_point + x * inverse)
    cdef float clipped = clip(code, low + zero_point, high + zero_point)
    cdef float steps = clipped - zero_point
    cdef uint32_t inside = 0 - <uint32_t> (clipped == code)  # all ones, or zero
    # steps * scale - x, rounded once, as by a fused multiply-add: the products of steps, an integer of 9 bits, with
    # either half of the scale are exact, and so is the first difference, since x is within half a scale of the code.
    cdef float upper = float_of(bits_of(scale) & <uint32_t> UPPER_HALF)
    cdef float error = (steps * upper - x) + steps * (scale - upper)
    cdef uint32_t in_range = bits_of(grad * error * inverse)
    cdef uint32_t beyond = bits_of(grad * steps)
    dx[0] = grad * (<float> 1.0 if clipped == code else <float> 0.0)
    of_scale[0] = float_of(beyond ^ ((beyond ^ in_range) & inside))  # a choice between floats would compile to a branch
    outside[0] = <float> 0.0 if clipped == code else grad


cdef inline double folded(double* lanes) noexcept nogil:
    cdef int j, width = LANES // 2
    while width:
        for j in range(width):
            lanes[j] += lanes[j + width]
        width //= 2
    return lanes[0]


cdef inline uint32_t lsq_run(
    const float* x, const float* grad, int64_t n, float inverse, float scale, float zero_point, float low, float high,
    float* dx, double* scale_sum, double* outside_sum,
) noexcept nogil:
    """Computes the gradient of x, and adds to the sums of the scale's terms and of the gradient out of range."""
    cdef float of_scale[STAGE]
    cdef float outside[STAGE]
    cdef double scale_lanes[LANES]
    cdef double outside_lanes[LANES]
    cdef int64_t start = 0, count, i, j
    cdef uint32_t largest = 0
    for j in range(LANES):
        scale_lanes[j] = 0
        outside_lanes[j] = 0
    while start < n:
        count = min(<int64_t> STAGE, n - start)
        for j in range(count):
            i = start + j
            largest = max(largest, bits_of(x[i]) & MAGNITUDE)
            lsq_terms(x[i], grad[i], inverse, scale, zero_point, low, high, &dx[i], &of_scale[j], &outside[j])
        for i in range(count // LANES):
            for j in range(LANES):
                scale_lanes[j] += <double> of_scale[i * LANES + j]
                outside_lanes[j] += <double> outside[i * LANES + j]
        i = count // LANES * LANES
        for j in range(count - i):
            scale_lanes[j] += <double> of_scale[i + j]
            outside_lanes[j] += <double> outside[i + j]
        start += count
    scale_sum[0] += folded(scale_lanes)
    outside_sum[0] += folded(outside_lanes)
    return largest


cdef inline uint32_t lsq_row(
    const float* x, const float* grad, int64_t n, const float* inverse, const float* scale, const float* zero_point,
    const float* low, const float* high, float* dx, double* scale_sum, double* outside_sum,
) noexcept nogil:
    """As lsq_run, with one scale and one pair of sums per column."""
    cdef float of_scale[STAGE]
    cdef float outside[STAGE]
    cdef int64_t start = 0, count, i, j
    cdef uint32_t largest = 0
    while start < n:
        count = min(<int64_t> STAGE, n - start)
        for j in range(count):
            i = start + j
            largest = max(largest, bits_of(x[i]) & MAGNITUDE)
            lsq_terms(
                x[i], grad[i], inverse[i], scale[i], zero_point[i], low[i], high[i], &dx[i], &of_scale[j], &outside[j]
            )
        for j in range(count):
            scale_sum[start + j] += <double> of_scale[j]
            outside_sum[start + j] += <double> outside[j]
        start += count
    return largest
