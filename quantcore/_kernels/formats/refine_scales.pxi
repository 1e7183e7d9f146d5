# refine_scales.pxi: the refinement of formats whose runs each have a scale of their own, which is a number of 8 or 16
# bits, and perhaps a minimum, which is fp16: x = scale * level + minimum.
#
# Scales of many sizes are tried, of both signs where the levels are not symmetric. With the levels nearest to x, least
# squares give a better scale, which in turn may have other levels nearest: that is done twice. Then the numbers around
# the best one that the format can store are tried, twice again. Ranges are searched in the same way, beginning with
# both ends cut off by a part of a step, by none, or drawn outwards.
from libc.stdint cimport int32_t, uint16_t

from quantcore._kernels.common.bits cimport MAGNITUDE, bits_of
from quantcore._kernels.common.floats cimport quantcore_widen_halves

cdef extern from "halves.h":
    float quantcore_float_of_half(uint32_t half) noexcept nogil
    uint32_t quantcore_half_of_float(float x) noexcept nogil

cdef extern from "candidates.h":
    ctypedef struct Run "quantcore_run":
        float sum_w
        float sum_wx
    ctypedef struct Candidates "quantcore_candidate_set":
        float scale[CANDIDATES]
        float offset[CANDIDATES]
        float l[CANDIDATES]
        float l2[CANDIDATES]
        float xl[CANDIDATES]
        float error[CANDIDATES]
    Run quantcore_make_run(const float* x, const float* weights, int n) noexcept nogil
    void quantcore_try_candidates(const Run* run, const LevelSet* levels, Candidates* tried) noexcept nogil
    void quantcore_refit_scales(Candidates* tried) noexcept nogil
    void quantcore_refit_ranges(const Run* run, bint is_below, Candidates* tried) noexcept nogil
    void quantcore_refit_offsets(const Run* run, Candidates* tried) noexcept nogil
    int quantcore_best_candidate(const Candidates* tried) noexcept nogil
    void quantcore_level_codes(
        const float* x, int n, const LevelSet* levels, float scale, float offset, int32_t* codes
    ) noexcept nogil

cdef enum:
    LARGEST_HALF = 0x7BFF
    NEGATIVE_HALF = 0x8000
    ROUNDS = 2  # of fitting a scale to the levels, and these to the scale
    RANGE_BATCHES = 9
    CUTS = 12  # at each end of a range: CUTS * CUTS candidates
    AROUND = 7  # numbers below the nearest one

cdef float SMALLEST_CUT = -0.8  # in steps
cdef float CUT_STEP = 0.3


cdef int32_t nearest_half(float magnitude) noexcept nogil:
    return <int32_t> quantcore_half_of_float(magnitude)


cdef void decode_halves(const int32_t* codes, float* scales) noexcept nogil:
    cdef uint16_t half[CANDIDATES]
    cdef int i
    for i in range(CANDIDATES):
        half[i] = <uint16_t> codes[i]
    quantcore_widen_halves(half, CANDIDATES, scales)


cdef ScaleNumbers HALVES = ScaleNumbers(LARGEST_HALF, nearest_half, decode_halves)


cdef inline float largest_of_run(const float* x, int n) noexcept nogil:
    cdef uint32_t largest = 0
    cdef int j
    for j in range(n):
        largest = max(largest, bits_of(x[j]) & MAGNITUDE)
    return float_of(largest)


cdef inline void try_around(
    const ScaleNumbers* numbers, float magnitude, float sign, float up, float down, int32_t* codes, Candidates* tried
) noexcept nogil:
    """Scales for candidates: the numbers around a magnitude, as they are for the block before it was scaled."""
    cdef int32_t first = min(numbers.nearest(magnitude * up), numbers.last) - AROUND
    cdef int i
    for i in range(CANDIDATES):
        codes[i] = min(max(first + i, 0), numbers.last)
    numbers.decode(codes, tried.scale)
    for i in range(CANDIDATES):
        tried.scale[i] = tried.scale[i] * down * sign


cdef float find_scale(const Run* run, const Refinement* refinement, float largest, float sign) noexcept nogil:
    """The scale of a sign, of any number there is, for a run whose largest magnitude this is."""
    cdef Candidates tried
    cdef float scale = 0, least = 0
    cdef int batch, i, turn, best
    for batch in range(refinement.first.batches):
        for i in range(CANDIDATES):
            tried.offset[i] = 0
            tried.scale[i] = sign * largest / (
                refinement.first.top + refinement.first.step * <float> (CANDIDATES * batch + i)
            )
        for turn in range(ROUNDS):
            quantcore_try_candidates(run, &refinement.levels, &tried)
            quantcore_refit_scales(&tried)
        quantcore_try_candidates(run, &refinement.levels, &tried)
        best = quantcore_best_candidate(&tried)
        if batch == 0 or tried.error[best] < least:
            scale, least = tried.scale[best], tried.error[best]
    return scale


cdef void fit_scales(
    const Refinement* refinement, const ScaledBlock* block, int n_runs, BlockParts* parts
) noexcept nogil:
    """Each run's scale and codes."""
    cdef const LevelSet* levels = &refinement.levels
    cdef const ScaleNumbers* numbers = refinement.numbers
    cdef Candidates tried
    cdef Run run
    cdef int32_t codes[CANDIDATES]
    cdef int k, i, side, turn, best, at
    cdef int n_signs = 1 if levels.lowest == -levels.highest else 2
    cdef float largest, sign, scale, least, best_scale
    for i in range(CANDIDATES):
        tried.offset[i] = 0
    for k in range(n_runs):
        at = k * refinement.run
        run = quantcore_make_run(block.x + at, block.weights + at, refinement.run)
        largest = largest_of_run(block.x + at, refinement.run)
        parts.scales[k], best_scale, least = 0, 0, -1
        for side in range(n_signs):
            sign = -1 if side else 1
            scale = find_scale(&run, refinement, largest, sign)
            for turn in range(ROUNDS):
                try_around(numbers, scale * sign, sign, block.up, block.down, codes, &tried)
                quantcore_try_candidates(&run, levels, &tried)
                best = quantcore_best_candidate(&tried)
                if least < 0 or tried.error[best] < least:
                    least, best_scale = tried.error[best], tried.scale[best]
                    parts.scales[k] = codes[best] | (NEGATIVE_HALF if side else 0)
                quantcore_refit_scales(&tried)
                scale = tried.scale[best]
        quantcore_level_codes(block.x + at, refinement.run, levels, best_scale, 0, parts.codes + at)


cdef inline void round_offsets(float up, float down, int32_t* halves, Candidates* tried) noexcept nogil:
    """Offsets of candidates as fp16."""
    cdef float offsets[CANDIDATES]
    cdef int i
    for i in range(CANDIDATES):
        halves[i] = <int32_t> quantcore_half_of_float(tried.offset[i] * up)
    decode_halves(halves, offsets)
    for i in range(CANDIDATES):
        tried.offset[i] = offsets[i] * down


cdef void find_range(
    const Run* run, const Refinement* refinement, const float* x, bint is_below, float* scale, float* offset
) noexcept nogil:
    """The scale above 0 and the offset of a run, of any numbers there are; `is_below`: no offset above 0."""
    cdef Candidates tried
    cdef float low = x[0], high = x[0], least = 0
    cdef int batch, i, turn, best
    for i in range(1, refinement.run):
        low = min(low, x[i])
        high = max(high, x[i])
    for batch in range(RANGE_BATCHES):
        for i in range(CANDIDATES):
            best = batch * CANDIDATES + i
            tried.offset[i] = SMALLEST_CUT + CUT_STEP * <float> (best // CUTS)
            tried.scale[i] = (high - low) / (
                refinement.levels.highest + tried.offset[i] + SMALLEST_CUT + CUT_STEP * <float> (best % CUTS)
            )
            tried.offset[i] = low + tried.offset[i] * tried.scale[i]
            if is_below:
                tried.offset[i] = min(tried.offset[i], <float> 0)
        for turn in range(ROUNDS):
            quantcore_try_candidates(run, &refinement.levels, &tried)
            quantcore_refit_ranges(run, is_below, &tried)
        quantcore_try_candidates(run, &refinement.levels, &tried)
        best = quantcore_best_candidate(&tried)
        if batch == 0 or tried.error[best] < least:
            scale[0], offset[0], least = tried.scale[best], tried.offset[best], tried.error[best]


cdef void fit_ranges(
    const Refinement* refinement, const ScaledBlock* block, int n_runs, BlockParts* parts
) noexcept nogil:
    """Each run's scale, minimum and codes."""
    cdef const LevelSet* levels = &refinement.levels
    cdef Candidates tried
    cdef Run run
    cdef int32_t codes[CANDIDATES]
    cdef int32_t halves[CANDIDATES]
    cdef int k, i, turn, best, at
    cdef float scale = 0, offset = 0, best_scale, best_offset, least
    for k in range(n_runs):
        at = k * refinement.run
        run = quantcore_make_run(block.x + at, block.weights + at, refinement.run)
        find_range(&run, refinement, block.x + at, False, &scale, &offset)
        parts.scales[k], parts.minima[k], best_scale, best_offset, least = 0, 0, 0, 0, -1
        for turn in range(ROUNDS):
            try_around(refinement.numbers, scale, 1, block.up, block.down, codes, &tried)
            for i in range(CANDIDATES):
                tried.offset[i] = offset
            quantcore_try_candidates(&run, levels, &tried)
            quantcore_refit_offsets(&run, &tried)
            round_offsets(block.up, block.down, halves, &tried)
            quantcore_try_candidates(&run, levels, &tried)
            best = quantcore_best_candidate(&tried)
            if least < 0 or tried.error[best] < least:
                least, best_scale, best_offset = tried.error[best], tried.scale[best], tried.offset[best]
                parts.scales[k], parts.minima[k] = codes[best], halves[best]
            quantcore_refit_ranges(&run, False, &tried)
            scale, offset = tried.scale[best], tried.offset[best]
        quantcore_level_codes(block.x + at, refinement.run, levels, best_scale, best_offset, parts.codes + at)


cdef void refine_scales(
    int type_id, int run, const ScaleNumbers* numbers, LevelSet levels, FirstScales first, PackBlock pack
) noexcept:
    """Enter a format whose runs have scales of their own."""
    cdef Refinement* refinement = refine(type_id, run, fit_scales, pack)
    refinement.numbers, refinement.levels, refinement.first = numbers, levels, first


cdef void refine_ranges(int type_id, int run, int highest, PackBlock pack) noexcept:
    """Enter a format whose runs have fp16 scales and minima of their own, and codes from 0 to `highest`."""
    cdef Refinement* refinement = refine(type_id, run, fit_ranges, pack)
    refinement.numbers, refinement.levels = &HALVES, quantcore_whole_levels(0, highest)
