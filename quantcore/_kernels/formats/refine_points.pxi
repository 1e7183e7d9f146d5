# refine_points.pxi: the refinement of formats with points of a grid: x = d * (2 * code + 1) * what a run's points stand
# for, where `code` is that of the run's scale. The points stay; d and the codes of the scales are fitted to them in
# turn: the best code for each run, then the d of least squares, as long as the error falls.
from libc.stdint cimport int32_t, uint8_t
from libc.string cimport memcpy

cdef enum:
    POINT_TURNS = 6  # of fitting codes and d


cdef inline int32_t scale_bits(const uint8_t* block, int at, int n_bits) noexcept nogil:
    """The bits from `at` on, which lie in one byte."""
    return block[at >> 3] >> (at & 7) & ((1 << n_bits) - 1)


cdef void fit_points(
    const Refinement* refinement, const ScaledBlock* block, int n_runs, BlockParts* parts
) noexcept nogil:
    """d and the codes of the runs' scales."""
    cdef float xy[MOST_RUNS]
    cdef float yy[MOST_RUNS]
    cdef int32_t code, best_code, highest = (1 << refinement.scale_bits) - 1
    cdef int k, j, turn, at
    cdef float d, y, factor, gain, best_gain, sum_xy, sum_yy, best = -1, total
    cdef int32_t half
    cdef int32_t codes[MOST_RUNS]
    cdef float unit = reference_half(block.reference + refinement.d_at) * block.down
    cdef float inverse = inverse_or_zero(unit)
    parts.d = block.reference[refinement.d_at] | <int32_t> block.reference[refinement.d_at + 1] << 8
    # What the points of each run stand for, and their sums.
    for k in range(n_runs):
        code = scale_bits(block.reference, refinement.scales_at + k * refinement.scales_stride, refinement.scale_bits)
        parts.scales[k] = code
        factor = inverse / <float> (2 * code + 1)
        xy[k], yy[k] = 0, 0
        for j in range(refinement.run):
            at = k * refinement.run + j
            y = block.decoded[at] * block.down * factor
            xy[k] += block.weights[at] * block.x[at] * y
            yy[k] += block.weights[at] * y * y
    d = unit
    for turn in range(POINT_TURNS):
        sum_xy, sum_yy, total = 0, 0, 0
        for k in range(n_runs):
            best_code, best_gain = 0, 0
            for code in range(highest + 1):
                factor = <float> (2 * code + 1)
                gain = d * factor * (2 * xy[k] - d * factor * yy[k])
                if code == 0 or gain > best_gain:
                    best_code, best_gain = code, gain
            codes[k] = best_code
            factor = <float> (2 * best_code + 1)
            sum_xy += factor * xy[k]
            sum_yy += factor * factor * yy[k]
            total += best_gain
        if turn > 0 and not total > best:
            break
        best = total
        parts.d = <int32_t> quantcore_half_of_float(d * block.up)
        memcpy(parts.scales, codes, n_runs * sizeof(int32_t))
        if not sum_yy > 0:
            break
        d = rounded_to_half(sum_xy / sum_yy, block, &half)


cdef inline void pack_points(int type_id, BlockParts* parts, uint8_t* block) noexcept nogil:
    """The reference's bytes with another d and other codes of the runs' scales."""
    cdef const BlockFormat* format = &TABLE.formats[type_id]
    cdef const Refinement* refinement = &format.refinement
    cdef int k, at, n_runs = format.block_size // refinement.run
    cdef uint32_t mask
    memcpy(block, parts.reference, format.bytes_per_block)
    block[refinement.d_at] = <uint8_t> parts.d
    block[refinement.d_at + 1] = <uint8_t> (parts.d >> 8)
    for k in range(n_runs):
        at = refinement.scales_at + k * refinement.scales_stride
        mask = <uint32_t> ((1 << refinement.scale_bits) - 1) << (at & 7)
        block[at >> 3] = <uint8_t> ((block[at >> 3] & ~mask) | <uint32_t> parts.scales[k] << (at & 7))


cdef void refine_points(
    int type_id, int run, int scales_at, int scales_stride, int scale_bits, PackBlock pack
) noexcept:
    """Enter a format that begins with d. The code of run k's scale has the bits from `scales_at` + k * `scales_stride`
    on, within a byte.
    """
    cdef Refinement* refinement = refine(type_id, run, fit_points, pack)
    refinement.scales_at, refinement.scales_stride, refinement.scale_bits = scales_at, scales_stride, scale_bits
