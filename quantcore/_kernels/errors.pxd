# errors.pxd: sums over pairs (x, y) of an original and its reconstruction, in float64. Element i of a chunk is always
# added to lane i % LANES, four rows of lanes at a time and in the order written here, so that every CPU level gives the
# same bits. Both are exact as float64, and so is each product of two float32.
from libc.math cimport INFINITY, fabs
from libc.stdint cimport int64_t

cdef enum:
    LANES = 32
    STRIPE = 4 * LANES  # elements that are added together
    N_SUMS = 7
    LARGEST = 5  # of the sums, the one that is a maximum

ctypedef fused real:
    float
    double

cdef struct ErrorLanes:
    double xx[LANES]
    double yy[LANES]
    double xy[LANES]
    double dd[LANES]  # d = x - y
    double magnitude[LANES]  # of d
    double largest[LANES]
    double beyond[LANES]  # how many magnitudes are above the threshold


cdef inline void clear_lanes(ErrorLanes* lanes) noexcept nogil:
    cdef int j
    for j in range(LANES):
        lanes.xx[j] = lanes.yy[j] = lanes.xy[j] = lanes.dd[j] = 0
        lanes.magnitude[j] = lanes.largest[j] = lanes.beyond[j] = 0


cdef inline void fold_lanes(const ErrorLanes* lanes, double* sums) noexcept nogil:
    """The lanes one after the other into xx, yy, xy, dd, magnitude, largest, beyond."""
    cdef int j
    for j in range(N_SUMS):
        sums[j] = 0
    for j in range(LANES):
        sums[0] += lanes.xx[j]
        sums[1] += lanes.yy[j]
        sums[2] += lanes.xy[j]
        sums[3] += lanes.dd[j]
        sums[4] += lanes.magnitude[j]
        sums[5] = max(sums[5], lanes.largest[j])
        sums[6] += lanes.beyond[j]


cdef inline void add_stripe(const real* x, const real* y, ErrorLanes* lanes) noexcept nogil:
    cdef int64_t j
    cdef double x0, x1, x2, x3, y0, y1, y2, y3, d0, d1, d2, d3
    for j in range(LANES):
        x0 = x[j]
        x1 = x[LANES + j]
        x2 = x[2 * LANES + j]
        x3 = x[3 * LANES + j]
        y0 = y[j]
        y1 = y[LANES + j]
        y2 = y[2 * LANES + j]
        y3 = y[3 * LANES + j]
        lanes.xx[j] += (x0 * x0 + x1 * x1) + (x2 * x2 + x3 * x3)
        lanes.yy[j] += (y0 * y0 + y1 * y1) + (y2 * y2 + y3 * y3)
        lanes.xy[j] += (x0 * y0 + x1 * y1) + (x2 * y2 + x3 * y3)
        d0 = fabs(x0 - y0)
        d1 = fabs(x1 - y1)
        d2 = fabs(x2 - y2)
        d3 = fabs(x3 - y3)
        lanes.dd[j] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
        lanes.magnitude[j] += (d0 + d1) + (d2 + d3)
        d0 = d0 if d0 > d1 else d1
        d2 = d2 if d2 > d3 else d3
        d0 = d0 if d0 > d2 else d2
        lanes.largest[j] = d0 if d0 > lanes.largest[j] else lanes.largest[j]


cdef inline void count_stripe(const real* x, const real* y, double threshold, ErrorLanes* lanes) noexcept nogil:
    cdef int64_t _row, j
    cdef double d
    for _row in range(STRIPE // LANES):
        for j in range(LANES):
            d = fabs(<double> x[j] - <double> y[j])
            lanes.beyond[j] += 1.0 if d > threshold else 0.0
        x += LANES
        y += LANES


cdef inline void add_pairs(
    const real* x, const real* y, int64_t n, double threshold, ErrorLanes* lanes
) noexcept nogil:
    """Add n pairs. Only the last call for a chunk has an n that is no multiple of STRIPE."""
    cdef real last_x[STRIPE]
    cdef real last_y[STRIPE]
    cdef int64_t start = 0, j
    while start + STRIPE <= n:
        add_stripe(x + start, y + start, lanes)
        if threshold < INFINITY:
            count_stripe(x + start, y + start, threshold, lanes)
        start += STRIPE
    if start == n:
        return
    for j in range(STRIPE):  # filled up with zeros, which add nothing
        last_x[j] = x[start + j] if start + j < n else 0
        last_y[j] = y[start + j] if start + j < n else 0
    add_stripe(<const real*> last_x, <const real*> last_y, lanes)
    if threshold < INFINITY:
        count_stripe(<const real*> last_x, <const real*> last_y, threshold, lanes)
