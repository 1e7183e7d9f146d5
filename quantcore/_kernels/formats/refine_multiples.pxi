# refine_multiples.pxi: the refinement of formats whose runs' scales, and minima if they have them, are whole multiples
# of the super-block's d and dmin, which are fp16: x = d * multiple * level - dmin * multiple of the minimum.
#
# Each run's scale is first found as if it could be any number (refine_scales.pxi); where there are no minima, one of
# each sign. For a given d, the multiples near those scales are tried with all their levels, and where there is a
# minimum, its own multiple is fitted to them twice. What is tried as d: the reference's, sixteen that make the largest
# scale a multiple near the highest one; then as many dmin; and from the best of these on, what least squares give for
# the levels and multiples found, as long as that is better.
from libc.math cimport fabsf
from libc.stdint cimport int32_t, uint8_t, uint32_t

cdef extern from "candidates.h":
    int32_t quantcore_nearest(float x) noexcept nogil

cdef enum:
    REFITS = 4  # of d and dmin to what is found with them, at most
    OFFSET_TURNS = 2
    BELOW_ALL = 7  # multiples below the nearest one that are tried, of 16
    BELOW_SIDE = 3  # of the 8 for a sign

cdef float FIRST_MULTIPLE = -3  # from the highest multiple to what the largest scale is made first
cdef float MULTIPLE_STEP = 0.5

# A super-block while it is searched: its runs, and each one's scale (of either sign where there is no minimum) and
# offset as if they could be any numbers.
ctypedef struct Runs:
    int n
    Run run[MOST_RUNS]
    float scale[2][MOST_RUNS]
    float offset[MOST_RUNS]

# d and dmin as they are stored and as they are used, what was found with them, its error, and what least squares make
# of it.
ctypedef struct Multiples:
    int32_t half_d
    int32_t half_dmin
    float d
    float dmin
    int32_t scales[MOST_RUNS]
    int32_t minima[MOST_RUNS]
    float error
    float next_d
    float next_dmin


cdef inline float rounded_to_half(float x, const ScaledBlock* block, int32_t* half) noexcept nogil:
    """A number of the scaled block as fp16 would have it, and that fp16; of what would be infinite, the largest."""
    cdef uint32_t bits = quantcore_half_of_float(x * block.up)
    if (bits & LARGEST_HALF) > LARGEST_HALF or (bits & 0x7C00) == 0x7C00:
        bits = (bits & NEGATIVE_HALF) | LARGEST_HALF
    half[0] = <int32_t> bits
    return quantcore_float_of_half(bits) * block.down


cdef inline int32_t nearest_multiple(float x, float inverse, int32_t lowest, int32_t highest) noexcept nogil:
    """The multiple nearest to x, where `inverse` is that of what it is a multiple of."""
    cdef float v = x * inverse
    v = v if v > <float> lowest else <float> lowest
    v = v if v < <float> highest else <float> highest
    return quantcore_nearest(v)


cdef inline float inverse_or_zero(float x) noexcept nogil:
    return <float> 1 / x if fabsf(x) > <float> 1e-30 else <float> 0


cdef inline void round_minima(float dmin, int32_t highest, int32_t* multiples, Candidates* tried) noexcept nogil:
    """Offsets of candidates as multiples of -dmin."""
    cdef float inverse = -inverse_or_zero(dmin)
    cdef int i
    for i in range(CANDIDATES):
        multiples[i] = nearest_multiple(tried.offset[i], inverse, 0, highest)
        tried.offset[i] = -(dmin * <float> multiples[i])


cdef void find_multiples(const Refinement* refinement, const Runs* runs, Multiples* found) noexcept nogil:
    """Multiples for the d and dmin of `found`."""
    cdef Candidates tried
    cdef int32_t scales[CANDIDATES]
    cdef int32_t minima[CANDIDATES]
    cdef int32_t lowest = refinement.lowest_multiple, highest = refinement.highest_multiple, middle, first
    cdef int k, i, side, turn, best, n_sides = 1 if refinement.highest_minimum else 2
    cdef float inverse = inverse_or_zero(found.d), m, s, determinant
    cdef float sum_xl = 0, sum_l2 = 0, sum_l = 0, sum_x = 0, sum_w = 0
    found.error = 0
    for k in range(runs.n):
        for side in range(n_sides):
            middle = nearest_multiple(runs.scale[side][k], inverse, lowest, highest)
            first = middle - (BELOW_ALL if n_sides == 1 else BELOW_SIDE)
            for i in range(CANDIDATES // n_sides):
                scales[side * CANDIDATES // 2 + i] = min(max(first + i, lowest), highest)
        for i in range(CANDIDATES):
            tried.scale[i] = found.d * <float> scales[i]
            tried.offset[i] = runs.offset[k]
        if refinement.highest_minimum:
            round_minima(found.dmin, refinement.highest_minimum, minima, &tried)
            for turn in range(OFFSET_TURNS):
                quantcore_try_candidates(&runs.run[k], &refinement.levels, &tried)
                quantcore_refit_offsets(&runs.run[k], &tried)
                round_minima(found.dmin, refinement.highest_minimum, minima, &tried)
        else:
            for i in range(CANDIDATES):
                minima[i] = 0
        quantcore_try_candidates(&runs.run[k], &refinement.levels, &tried)
        best = quantcore_best_candidate(&tried)
        found.error += tried.error[best]
        found.scales[k], found.minima[k] = scales[best], minima[best]
        s, m = <float> scales[best], <float> minima[best]
        sum_xl += s * tried.xl[best]
        sum_l2 += s * s * tried.l2[best]
        sum_l += s * m * tried.l[best]
        sum_x += m * runs.run[k].sum_wx
        sum_w += m * m * runs.run[k].sum_w
    found.next_d, found.next_dmin = found.d, found.dmin
    determinant = sum_l2 * sum_w - sum_l * sum_l
    if refinement.highest_minimum and determinant > 0:
        found.next_d = (sum_xl * sum_w - sum_l * sum_x) / determinant
        found.next_dmin = (sum_l * sum_xl - sum_l2 * sum_x) / determinant
    elif sum_l2 > 0:
        found.next_d = (sum_xl + found.dmin * sum_l) / sum_l2


cdef inline void try_multiples(
    const Refinement* refinement, const ScaledBlock* block, const Runs* runs, float d, float dmin, Multiples* best
) noexcept nogil:
    """Find multiples for d and dmin, and keep what is better than the best so far."""
    cdef Multiples found
    found.d = rounded_to_half(d, block, &found.half_d)
    found.dmin = rounded_to_half(dmin, block, &found.half_dmin)
    find_multiples(refinement, runs, &found)
    if best.error < 0 or found.error < best.error:
        best[0] = found


cdef inline float reference_half(const uint8_t* at) noexcept nogil:
    return quantcore_float_of_half(at[0] | <uint32_t> at[1] << 8)


cdef void fit_multiples(
    const Refinement* refinement, const ScaledBlock* block, int n_runs, BlockParts* parts
) noexcept nogil:
    """d and dmin, and each run's multiples and codes."""
    cdef const LevelSet* levels = &refinement.levels
    cdef Runs runs
    cdef Multiples best
    cdef bint has_minimum = refinement.highest_minimum > 0
    cdef int k, i, at
    cdef float largest, d = 0, dmin = 0, top
    runs.n = n_runs
    for k in range(n_runs):
        at = k * refinement.run
        runs.run[k] = quantcore_make_run(block.x + at, block.weights + at, refinement.run)
        runs.offset[k] = 0
        if has_minimum:
            find_range(
                &runs.run[k], refinement, block.x + at, True, &runs.scale[0][k], &runs.offset[k]
            )
            dmin = max(dmin, -runs.offset[k])
            d = max(d, runs.scale[0][k])
            continue
        largest = largest_of_run(block.x + at, refinement.run)
        runs.scale[0][k] = find_scale(&runs.run[k], refinement, largest, 1)
        runs.scale[1][k] = find_scale(&runs.run[k], refinement, largest, -1)
        d = max(d, min(runs.scale[0][k], -runs.scale[1][k]))
    best.error = -1
    try_multiples(
        refinement, block, &runs, reference_half(block.reference + refinement.d_at) * block.down,
        reference_half(block.reference + refinement.dmin_at) * block.down if has_minimum else 0, &best,
    )
    dmin = dmin / <float> max(refinement.highest_minimum, 1)
    for i in range(CANDIDATES):
        top = <float> refinement.highest_multiple + FIRST_MULTIPLE + MULTIPLE_STEP * <float> i
        try_multiples(refinement, block, &runs, d / top, dmin, &best)
    if has_minimum:
        d, dmin = best.d, dmin * <float> refinement.highest_minimum
        for i in range(CANDIDATES):
            top = <float> refinement.highest_minimum + FIRST_MULTIPLE + MULTIPLE_STEP * <float> i
            try_multiples(refinement, block, &runs, d, dmin / top, &best)
    for i in range(REFITS):
        largest = best.error
        try_multiples(refinement, block, &runs, best.next_d, best.next_dmin, &best)
        if not best.error < largest:
            break
    parts.d, parts.dmin = best.half_d, best.half_dmin
    for k in range(n_runs):
        at = k * refinement.run
        parts.scales[k], parts.minima[k] = best.scales[k], best.minima[k]
        quantcore_level_codes(
            block.x + at, refinement.run, levels, best.d * <float> best.scales[k],
            -(best.dmin * <float> best.minima[k]), parts.codes + at,
        )


cdef void refine_multiples(
    int type_id, int run, LevelSet levels, FirstScales first, int lowest_multiple, int highest_multiple, int d_at,
    PackBlock pack,
) noexcept:
    """Enter a format whose runs' scales are multiples of an fp16 at byte `d_at`."""
    cdef Refinement* refinement = refine(type_id, run, fit_multiples, pack)
    refinement.levels, refinement.first = levels, first
    refinement.lowest_multiple, refinement.highest_multiple = lowest_multiple, highest_multiple
    refinement.d_at = d_at


cdef void refine_two_multiples(
    int type_id, int run, int highest, int highest_multiple, int d_at, PackBlock pack
) noexcept:
    """Enter a format with codes from 0 to `highest`, whose runs' scales and minima are multiples of two fp16."""
    cdef Refinement* refinement = refine(type_id, run, fit_multiples, pack)
    refinement.levels = quantcore_whole_levels(0, highest)
    refinement.highest_multiple = refinement.highest_minimum = highest_multiple
    refinement.d_at, refinement.dmin_at = d_at, d_at + 2
