# errors.pxd: sums over pairs (x, y) of an original and its reconstruction, in float64. Element i of a chunk is always
# added to lane i % LANES, four rows of lanes at a time and in the order written in sums.h, so that every CPU level
# gives the same bits. float32 values are exact in float64, and so is the product of two of them.
from libc.math cimport INFINITY, fabs
from libc.stdint cimport int64_t

cdef extern from "sums.h":
    void quantcore_add_floats(const float* x, const float* y, int64_t n, int lanes, double* sums) noexcept nogil
    void quantcore_add_doubles(const double* x, const double* y, int64_t n, int lanes, double* sums) noexcept nogil

cdef enum:
    LANES = 32
    STRIPE = 4 * LANES  # elements that are added together
    N_SUMS = 7  # sums of xx, yy, xy, dd and |d| with d = x - y; the largest |d|; how many |d| are above the threshold
    LARGEST = 5
    BEYOND = 6

ctypedef fused real:
    float
    double

cdef struct ErrorLanes:
    double sums[N_SUMS * LANES]


cdef inline void clear_lanes(ErrorLanes* lanes) noexcept nogil:
    cdef int j
    for j in range(N_SUMS * LANES):
        lanes.sums[j] = 0


cdef inline void fold_lanes(const ErrorLanes* lanes, double* sums) noexcept nogil:
    """Add up the lanes of each sum, in order."""
    cdef int i, j
    cdef const double* lane = &lanes.sums[0]
    for i in range(N_SUMS):
        sums[i] = 0
        for j in range(LANES):
            sums[i] = max(sums[i], lane[j]) if i == LARGEST else sums[i] + lane[j]
        lane += LANES


cdef inline void add_stripes(const real* x, const real* y, int64_t n, ErrorLanes* lanes) noexcept nogil:
    if real is float:
        quantcore_add_floats(x, y, n, LANES, lanes.sums)
    else:
        quantcore_add_doubles(x, y, n, LANES, lanes.sums)


cdef inline void count_stripe(const real* x, const real* y, double threshold, ErrorLanes* lanes) noexcept nogil:
    cdef int64_t _row, j
    cdef double d
    cdef double* beyond = lanes.sums + BEYOND * LANES
    for _row in range(STRIPE // LANES):
        for j in range(LANES):
            d = fabs(<double> x[j] - <double> y[j])
            beyond[j] += 1.0 if d > threshold else 0.0
        x += LANES
        y += LANES


cdef inline void add_pairs(
    const real* x, const real* y, int64_t n, double threshold, ErrorLanes* lanes
) noexcept nogil:
    """Add n pairs. Only the last call for a chunk may have an n that is not a multiple of STRIPE."""
    cdef real last_x[STRIPE]
    cdef real last_y[STRIPE]
    cdef int64_t whole = n - n % STRIPE, start = 0, j
    add_stripes(x, y, whole, lanes)
    if threshold < INFINITY:
        while start < whole:
            count_stripe(x + start, y + start, threshold, lanes)
            start += STRIPE
    if whole == n:
        return
    for j in range(STRIPE):  # padded with zeros, which add nothing
        last_x[j] = x[whole + j] if whole + j < n else 0
        last_y[j] = y[whole + j] if whole + j < n else 0
    add_stripes(<const real*> last_x, <const real*> last_y, STRIPE, lanes)
    if threshold < INFINITY:
        count_stripe(<const real*> last_x, <const real*> last_y, threshold, lanes)
