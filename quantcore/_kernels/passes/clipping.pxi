# clipping.pxi: where to clip one histogram: by least squared error, or by relative entropy.
from libc.math cimport INFINITY, rint
from libc.stdint cimport int32_t, int64_t, uint32_t

from quantcore._kernels.common.bits cimport MAGNITUDE, float_of
from quantcore._kernels.passes.clipping cimport (
    ENTROPY_BINS,
    FEWEST_ENTROPY_BINS,
    LEVELS_AT_ONCE,
    Sums,
    clipping_error,
    count_at,
    log_of,
    mean_slot,
    range_error,
    sum_up,
    x_log_x,
)
from quantcore._kernels.passes.histogram cimport N_BINS, Grid, first_used, last_used
from quantcore._kernels.table cimport CLIP_ENTROPY, ClipJob

cdef enum:
    COARSE_STEPS = 32
    MOST_SWEEPS = 16
    STRIDE = 16  # every so many candidates are tried first, for a bound on the others

ctypedef enum Ends:
    BOTH  # the same magnitude, symmetric
    COARSE  # a grid of both
    LOWER  # with the upper end fixed
    UPPER

# Candidates are numbered from the narrowest range to the widest one.
ctypedef struct Search:
    const Sums* sums
    const int32_t* limits
    bint has_offset
    Ends ends
    int n
    int narrowest  # the first threshold
    double unit  # between thresholds
    double low
    double high
    double least
    int best


cdef inline double value_of_key(int32_t key) noexcept nogil:
    return float_of(<uint32_t> (key ^ ((key >> 31) & MAGNITUDE)))


cdef inline int32_t magnitude_of(int32_t m) noexcept nogil:
    return -1 - m if m < 0 else m


cdef void candidate(const Search* search, int i, double* low, double* high) noexcept nogil:
    """The ends of a range."""
    low[0], high[0] = search.low, search.high
    if search.ends == COARSE:
        low[0] = search.low * ((i % (COARSE_STEPS + 1)) / <double> COARSE_STEPS)
        high[0] = search.high * ((i // (COARSE_STEPS + 1)) / <double> COARSE_STEPS)
    elif i + 1 < search.n:
        if search.ends != UPPER:
            low[0] = -(search.narrowest + i) * search.unit
        if search.ends != LOWER:
            high[0] = (search.narrowest + i) * search.unit


cdef void try_candidate(Search* search, int i) noexcept nogil:
    cdef double low, high, width, zero_point = 0, error
    candidate(search, i, &low, &high)
    if not high > low:
        return
    width = (high - low) / (search.limits[1] - search.limits[0])
    if search.has_offset:
        zero_point = search.limits[0] - low / width
    elif search.ends != BOTH:
        zero_point = search.limits[0] - rint(low / width)
        zero_point = min(max(zero_point, <double> search.limits[0]), <double> search.limits[1])
    if clipping_error(search.sums, width, zero_point, search.limits) > search.least:
        return
    error = range_error(search.sums, width, zero_point, search.limits, search.least)
    if error < search.least or (error == search.least and i > search.best):
        search.least, search.best = error, i


cdef bint find_less(Search* search, double most) noexcept nogil:
    """Find the candidate of least error, of several the widest, if its error is less than `most`."""
    cdef int i
    search.least, search.best = most, search.n  # beyond all, so that an error of `most` does not do
    for i in range(search.n):
        if i % STRIDE == 0:
            try_candidate(search, search.n - 1 - i)
    for i in range(search.n):
        if i % STRIDE:
            try_candidate(search, search.n - 1 - i)
    return search.best < search.n


cdef void find_ends(Search* search, double* ends) noexcept nogil:
    """Both ends: the best of a coarse grid, then each end in turn with the other one fixed, until neither moves."""
    cdef double low = min(search.low, <double> 0), high = max(search.high, <double> 0)
    cdef int sweep
    ends[0], ends[1] = low, high
    if not high > low:  # nothing but zeros
        return
    search.ends, search.n = COARSE, (COARSE_STEPS + 1) * (COARSE_STEPS + 1)
    search.low, search.high = low, high
    if find_less(search, INFINITY):
        candidate(search, search.best, &ends[0], &ends[1])
    for sweep in range(MOST_SWEEPS):
        if sweep % 2:
            search.ends, search.low, search.high = UPPER, ends[0], high
            search.narrowest = max(1, search.sums.first)
            search.n = max(<int> high - search.narrowest + 1, 0) + 1
        else:
            search.ends, search.low, search.high = LOWER, low, ends[1]
            search.narrowest = max(1, -(search.sums.first + search.sums.n))
            search.n = max(<int> (-low) - search.narrowest + 1, 0) + 1
        if find_less(search, search.least):
            candidate(search, search.best, &ends[0], &ends[1])
        elif sweep:
            break


cdef void clip_by_error(
    const Sums* sums, double lowest, double highest, const ClipJob* job, double* ends
) noexcept nogil:
    """The range of least squared error in widths of a bin. The whole range is always among the candidates."""
    cdef Search search
    cdef int largest, shift = 0
    search.sums, search.limits = sums, job.limits
    search.unit, search.narrowest, search.has_offset = 1, 1, job.has_offset
    if not job.is_symmetric:
        search.low, search.high = lowest, highest
        find_ends(&search, ends)
        return
    search.ends, search.high = BOTH, max(-lowest, highest)
    search.low = -search.high
    largest = max(magnitude_of(sums.first), magnitude_of(sums.first + sums.n - 1))
    while largest >> shift >= sums.n:  # no more thresholds than bins
        shift += 1
    search.unit = <double> (1 << shift)
    search.n = <int> (search.high / search.unit) + 1
    ends[0], ends[1] = search.low, search.high
    if find_less(&search, INFINITY):
        candidate(&search, search.best, &ends[0], &ends[1])


cdef double divergence_of(
    const double* mass, const double* filled, const double* information, int i, int n, int levels, double most
) noexcept nogil:
    """KL(P || Q) of the first i bins, times the total and less a constant; INFINITY where it is no candidate, and
    where it is more than `most`. The part of a level is never negative: so much is lost by making its bins equal."""
    cdef double in_level[LEVELS_AT_ONCE]
    cdef double filled_in_level[LEVELS_AT_ONCE]
    cdef double lost[LEVELS_AT_ONCE]
    cdef double inside = mass[i], outliers = mass[n] - mass[i], last = mass[i] - mass[i - 1], divergence
    cdef int start, stop = 0, step = i // levels, rest = i % levels, carry = levels - 1, level = 0, j, part
    if not inside > 0 or (outliers > 0 and (not last > 0 or filled[i] < 2)):
        return INFINITY
    divergence = inside * log_of(inside)
    if outliers > 0:
        start = <int> ((<int64_t> (levels - 1) * i + levels - 1) // levels)
        divergence += x_log_x(last + outliers) - x_log_x(last)
        divergence -= outliers * log_of((mass[i] - mass[start]) / (filled[i] - filled[start]))
        divergence += outliers * log_of(inside)
    while level < levels:
        if divergence * (1 - 1e-12) > most:
            return INFINITY
        part = min(<int> LEVELS_AT_ONCE, levels - level)
        for j in range(part):
            start = stop  # level * i / levels, rounded up
            stop += step
            carry += rest
            if carry >= levels:
                carry -= levels
                stop += 1
            in_level[j] = mass[stop] - mass[start]
            filled_in_level[j] = max(filled[stop] - filled[start], <double> 1)
            lost[j] = information[stop] - information[start]
        for j in range(part):
            lost[j] -= in_level[j] * log_of(max(in_level[j], <double> 1e-300) / filled_in_level[j])
        for j in range(part):
            divergence += lost[j]
        level += part
    return divergence


cdef int fewest_divergence(
    const double* mass, const double* filled, const double* information, int n, int levels
) noexcept nogil:
    """The number of bins of least divergence; of several, the most."""
    cdef double least = INFINITY, found
    cdef int i, best = n
    for i in range(n, min(max(<int> FEWEST_ENTROPY_BINS, levels), n) - 1, -1):
        found = divergence_of(mass, filled, information, i, n, levels, least)
        if found < least:
            least, best = found, i
    return best


cdef void clip_by_entropy(
    const ClipJob* job, int64_t row, int offset, int32_t first, int n_slots, bint is_one_sided, double* ends
) noexcept nogil:
    """The threshold of |x| in widths of a bin: in the middle of the last bin that is kept."""
    cdef double mass[ENTROPY_BINS + 1]
    cdef double filled[ENTROPY_BINS + 1]
    cdef double information[ENTROPY_BINS + 1]
    cdef int32_t largest = max(magnitude_of(first), magnitude_of(first + n_slots - 1))
    cdef int shift = 0, i, n, levels
    cdef double count
    while largest >> shift >= ENTROPY_BINS:
        shift += 1
    n = (largest >> shift) + 1
    for i in range(n + 1):
        mass[i] = 0
    for i in range(n_slots):
        mass[(magnitude_of(first + i) >> shift) + 1] += <double> count_at(job, row, offset + i)
    if n > 1:
        mass[1] = mass[2]  # else the zeros of a ReLU outweigh all the rest
    filled[0] = information[0] = 0
    for i in range(1, n + 1):
        count = mass[i]
        mass[i] += mass[i - 1]
        filled[i] = filled[i - 1] + (count > 0)
        information[i] = information[i - 1] + x_log_x(count)
    levels = job.limits[1] - job.limits[0] + 1 if not job.is_symmetric and is_one_sided else job.magnitudes
    ends[1] = (fewest_divergence(mass, filled, information, n, levels) - 0.5) * <double> (<int64_t> 1 << shift)
    ends[0] = -ends[1]


cdef void clip_histogram(const ClipJob* job, const Grid* grid, int64_t row, double* ends) noexcept nogil:
    """Where to clip a histogram that is not empty, in the values' own unit; the ends may lie beyond its extremes."""
    cdef Sums sums
    cdef int offset = first_used(grid), n = last_used(grid) - first_used(grid) + 1
    cdef double width = float_of(<uint32_t> (127 + grid.exponent) << 23)
    cdef double lowest = value_of_key(grid.lowest), highest = value_of_key(grid.highest)
    cdef int32_t origin = 0  # a bin of the data that takes the place of zero where the range need not contain that
    if job.method == CLIP_ENTROPY:
        clip_by_entropy(job, row, offset, grid.first + offset, n, lowest >= 0 or highest <= 0, ends)
    else:
        if job.has_offset:
            origin = grid.first + offset + mean_slot(job, row, offset, n)
        sum_up(job, row, offset, grid.first + offset - origin, n, &sums)
        clip_by_error(&sums, lowest / width - origin, highest / width - origin, job, ends)
    ends[0] = (ends[0] + origin) * width
    ends[1] = (ends[1] + origin) * width
