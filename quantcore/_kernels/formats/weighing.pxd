# weighing.pxd: blocks of 32 coded with importance: weights are importance * sqrt(mean(row * row) + x * x).
from libc.stdint cimport int32_t, int64_t, uint16_t

from quantcore._kernels.common.floats cimport quantcore_narrow_floats
from quantcore._kernels.formats.extremes cimport first_not_finite, first_of, first_overflow
from quantcore._kernels.formats.scales cimport SCALES
from quantcore._kernels.table cimport TileImportance

cdef extern from "scale_search.h":
    void quantcore_fit_scales(
        const float* x, const float* weights, const float* mean_squares, int size, int top, int64_t n, float* scale,
        float* inverse, float* weight_sums,
    ) noexcept nogil
    void quantcore_code_sub_block(
        const float* x, float factor, float divisor, bint is_zero, int size, int top, int32_t* codes
    ) noexcept nogil

cdef extern from "range_search.h":
    void quantcore_fit_ranges(
        const float* x, const float* weights, const float* mean_squares, int top, int64_t n, float* scale, float* low,
        float* inverse, float* start,
    ) noexcept nogil
    void quantcore_code_range(const float* x, float inverse, float start, int top, int32_t* codes) noexcept nogil

cdef enum:
    WEIGHED_BLOCK = 32


cdef inline int64_t weighed_scales(
    const float* x, int64_t n, const TileImportance* importance, int top, uint16_t* half, float* inverse
) noexcept nogil:
    """The scales of n <= SCALES blocks for codes from -top to top - 1, and the inverses with which to code them.

    Returns the first block that cannot be coded (NaN, inf, a scale too large), else -1.
    """
    cdef float d[SCALES]
    quantcore_fit_scales(x, importance.weights, importance.mean_squares, WEIGHED_BLOCK, top, n, d, inverse, NULL)
    quantcore_narrow_floats(d, n, half)
    return first_of(first_not_finite(x, n, WEIGHED_BLOCK), first_overflow(d, n))


cdef inline void weighed_codes(const float* x, float inverse, int top, int32_t* code) noexcept nogil:
    """The codes of a block from 0 on; a block of zeros, whose inverse is 0, has codes 0 and scale 0."""
    quantcore_code_sub_block(x, inverse, 1, inverse == 0, WEIGHED_BLOCK, top, code)


cdef inline int64_t weighed_ranges(
    const float* x, int64_t n, const TileImportance* importance, int top, uint16_t* scale, uint16_t* minimum,
    float* inverse, float* start,
) noexcept nogil:
    """The scales and minima of n <= SCALES blocks for codes from 0 to top, and with what to code them.

    Returns the first block that cannot be coded (NaN, inf, a scale or minimum too large), else -1.
    """
    cdef float d[SCALES]
    cdef float m[SCALES]
    quantcore_fit_ranges(x, importance.weights, importance.mean_squares, top, n, d, m, inverse, start)
    quantcore_narrow_floats(d, n, scale)
    quantcore_narrow_floats(m, n, minimum)
    return first_of(first_not_finite(x, n, WEIGHED_BLOCK), first_of(first_overflow(d, n), first_overflow(m, n)))
