# clipping.pxd: the squared error and the divergence that a range costs, over one histogram of up to N_BINS counts. Bins
# are those of histogram.pxd; lengths are in widths of a bin. All of it is float64, in a fixed order.
from libc.math cimport rint
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from quantcore._kernels.passes.histogram cimport N_BINS
from quantcore._kernels.table cimport ClipJob

cdef enum:
    ENTROPY_BINS = 2048
    FEWEST_ENTROPY_BINS = 128
    LEVELS_AT_ONCE = 32

# Counts before a bin, their sum times the bins' centres and times the centres' squares, for every border of bins.
ctypedef struct Moments:
    double zeroth
    double first
    double second

ctypedef struct Sums:
    int n
    int32_t first  # the bin of the first count
    Moments[N_BINS + 1] before


cdef inline uint64_t count_at(const ClipJob* job, int64_t row, int64_t slot) noexcept nogil:
    if job.counts != NULL:
        return job.counts[row * N_BINS + slot]
    return job.wide_counts[row * N_BINS + slot]


cdef inline void sum_up(const ClipJob* job, int64_t row, int offset, int32_t first, int n, Sums* sums) noexcept nogil:
    """The sums over n counts, of which the first lies at `offset` in its row."""
    cdef double count, centre, zeroth = 0, weighted = 0, squared = 0
    cdef int i
    sums.n, sums.first = n, first
    for i in range(n):
        sums.before[i].zeroth, sums.before[i].first, sums.before[i].second = zeroth, weighted, squared
        count, centre = <double> count_at(job, row, offset + i), first + i + 0.5
        zeroth += count
        weighted += count * centre
        squared += count * (centre * centre)
    sums.before[n].zeroth, sums.before[n].first, sums.before[n].second = zeroth, weighted, squared


cdef inline int32_t mean_slot(const ClipJob* job, int64_t row, int offset, int n) noexcept nogil:
    """The slot of n from `offset` on that their mean lies in."""
    cdef double total = 0, weighted = 0, count
    cdef int i
    for i in range(n):
        count = <double> count_at(job, row, offset + i)
        total += count
        weighted += count * i
    return <int32_t> (weighted / total)


cdef inline int border_at(const Sums* sums, double place) noexcept nogil:
    """The first bin whose centre is not below `place`, as an index of `before`."""
    cdef double x = place - sums.first - 0.5
    cdef int below
    x = x if x > 0 else 0
    x = x if x < sums.n else <double> sums.n
    below = <int> x
    return below + (below < x)


cdef inline double error_between(const Sums* sums, int start, int stop, double level) noexcept nogil:
    """The squared distances of the values in some bins to a level."""
    cdef const Moments* a = &sums.before[start]
    cdef const Moments* b = &sums.before[stop]
    return (b.second - a.second) - 2 * level * (b.first - a.first) + level * level * (b.zeroth - a.zeroth)


cdef inline double clipping_error(
    const Sums* sums, double width, double zero_point, const int32_t* limits
) noexcept nogil:
    """The squared distances of the values beyond the first and the last level to it: no more than `range_error`."""
    cdef double low = (limits[0] - zero_point) * width, high = (limits[1] - zero_point) * width
    return (
        error_between(sums, 0, border_at(sums, low), low) + error_between(sums, border_at(sums, high), sums.n, high)
    ) * (1 - 1e-9)


cdef inline int code_near(double place, const int32_t* limits) noexcept nogil:
    """A place in levels from the first code on, as a code."""
    place = place if place > 0 else 0
    place = place if place < limits[1] - limits[0] else <double> (limits[1] - limits[0])
    return limits[0] + <int> place


cdef inline double error_from(
    const Sums* sums, double width, double zero_point, int code, int stop, int step, int border, int end, double most
) noexcept nogil:
    """The error of the codes from `code` on, in steps of 1 or -1, whose values go from a border to an end."""
    cdef int borders[LEVELS_AT_ONCE]
    cdef double error = 0, level
    cdef int i, n
    while (stop - code) * step > 0:
        n = min(<int> LEVELS_AT_ONCE, (stop - code) * step)
        for i in range(n):
            borders[i] = border_at(sums, (code + i * step + 0.5 * step - zero_point) * width)
        if code + n * step == stop:
            borders[n - 1] = end
        for i in range(n):
            level = (code + i * step - zero_point) * width
            error += error_between(sums, border, borders[i], level) * step
            border = borders[i]
        code += n * step
        if error * (1 - 1e-9) > most:
            break
    return error


cdef inline double error_of_bins(
    const Sums* sums, double width, double zero_point, const int32_t* limits
) noexcept nogil:
    """The error where there are more codes than bins: the nearest level of each bin's centre."""
    cdef double error = 0, centre, code, distance
    cdef int i
    for i in range(sums.n):
        centre = sums.first + i + 0.5
        code = rint(centre / width + zero_point)
        code = code if code > limits[0] else <double> limits[0]
        code = code if code < limits[1] else <double> limits[1]
        distance = centre - (code - zero_point) * width
        error += (sums.before[i + 1].zeroth - sums.before[i].zeroth) * (distance * distance)
    return error


cdef inline double range_error(
    const Sums* sums, double width, double zero_point, const int32_t* limits, double most
) noexcept nogil:
    """The squared error of all values, each in the middle of its bin, with levels `width` apart; a lower bound of it
    if it is more than `most`. From the level of zero, where most values are, it goes outwards."""
    # One level more on both sides than there are values for, whatever the rounding.
    cdef int start = code_near((sums.first + 0.5) / width + zero_point - limits[0] - 1, limits)
    cdef int stop = code_near((sums.first + sums.n) / width + zero_point - limits[0] + 2, limits) + 1
    cdef int middle = min(max(<int> zero_point, start), stop), border
    cdef double error
    if stop - start > sums.n:
        return error_of_bins(sums, width, zero_point, limits)
    border = 0 if middle == start else sums.n if middle == stop else border_at(
        sums, (middle - 0.5 - zero_point) * width
    )
    error = error_from(sums, width, zero_point, middle, stop, 1, border, sums.n, most)
    if error * (1 - 1e-9) > most:
        return error
    return error + error_from(sums, width, zero_point, middle - 1, start - 1, -1, border, 0, most - error)


cdef inline double log_of(double x) noexcept nogil:
    """The natural logarithm of a positive normal number, without a branch so that loops of it are vectorised: the
    series of artanh with |s| < 0.172, right to about 1e-15."""
    cdef uint64_t bits = (<uint64_t*> &x)[0], shifted
    cdef double m, e, s, s2, p
    # The exponent of the power of two nearest on a scale of ratios: m lies in [sqrt(1/2), sqrt(2)).
    shifted = bits - <uint64_t> 0x3FE6A09E667F3BCD
    bits = (shifted & <uint64_t> 0x000FFFFFFFFFFFFF) + <uint64_t> 0x3FE6A09E667F3BCD
    # An integer from 0 to 2047 in the low bits of 2**52.
    shifted = ((shifted + (<uint64_t> 1023 << 52)) >> 52) | <uint64_t> 0x4330000000000000
    e = (<double*> &shifted)[0] - 4503599627371519.0
    m = (<double*> &bits)[0]
    s = (m - 1) / (m + 1)
    s2 = s * s
    p = 1.0 / 19
    p = p * s2 + 1.0 / 17
    p = p * s2 + 1.0 / 15
    p = p * s2 + 1.0 / 13
    p = p * s2 + 1.0 / 11
    p = p * s2 + 1.0 / 9
    p = p * s2 + 1.0 / 7
    p = p * s2 + 1.0 / 5
    p = p * s2 + 1.0 / 3
    return e * 0.6931471805599453 + 2 * s * (1 + s2 * p)


cdef inline double x_log_x(double x) noexcept nogil:
    return x * log_of(x) if x > 0 else 0
