# grid_fit.pxd: what quantizing to the types with grids has in common: the weights of a super-block's elements, their
# magnitudes and signs, and the codes of the scales. The search itself is in grid_search.h.
from libc.math cimport fabsf, sqrtf
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from quantcore._kernels.common.bits cimport INFINITE, MAGNITUDE, bits_of, float_of
from quantcore._kernels.formats.grids cimport GRID_BLOCK, GRID_TILE, store16
from quantcore._kernels.table cimport TileImportance

cdef extern from "halves.h":
    uint32_t quantcore_half_of_float(float x) noexcept nogil

cdef extern from "squares.h":
    void quantcore_add_squares(const float* x, int64_t stride, int64_t rows, int64_t n, float* sums) noexcept nogil

cdef extern from "grid_search.h":
    enum:
        QUANTCORE_PLACE_SHIFT
        QUANTCORE_REFIT_ALL
        QUANTCORE_REFIT_OFF_GRID
        QUANTCORE_REFIT_ALL_IF_OFF_GRID
    int32_t quantcore_nearest(float x) noexcept nogil
    uint32_t quantcore_place_of(uint32_t code, int n_digits, const uint32_t* places) noexcept nogil
    float quantcore_fit_points(
        const float* x, const float* weights, const float* roots, int size, int n_digits, const uint32_t* places,
        const uint16_t* near, int n_trials, float step, float largest, float scale, int refit, uint16_t* codes,
        int* failed,
    ) noexcept nogil

cdef extern from "three_values.h":
    enum:
        VECTOR_LANES
    ctypedef struct FoundCuts "quantcore_cuts":
        float scale[VECTOR_LANES]
        int32_t first_cut[VECTOR_LANES]
        int32_t second_cut[VECTOR_LANES]
        int32_t shifts[VECTOR_LANES]
    void quantcore_cut_32(
        const float* x, const float* weights, int count, int32_t* ranks, FoundCuts* found
    ) noexcept nogil
    void quantcore_cut_16(
        const float* x, const float* weights, int count, int32_t* ranks, FoundCuts* found
    ) noexcept nogil
    uint32_t quantcore_shifted_point(
        const float* x, const float* weights, uint32_t code, float scale, float shift, const uint32_t* places,
        const uint16_t* near, int* was_on_grid, int* failed,
    ) noexcept nogil

# `x`: magnitudes, of which one in a group of 8 is negative if an even number of signs is called for; `signs`: a bit for
# each element of a group; `roots`: of the weights.
ctypedef struct WeighedBlock:
    float x[GRID_BLOCK]
    float weights[GRID_BLOCK]
    float roots[GRID_BLOCK]
    uint8_t signs[32]


cdef inline void sum_squares(const float* x, int64_t n, float* sums) noexcept nogil:
    """The squares of n <= GRID_TILE super-blocks, each added up in order."""
    cdef int64_t i
    for i in range(GRID_TILE):
        sums[i] = 0
    quantcore_add_squares(x, GRID_BLOCK, n, GRID_BLOCK, sums)


cdef inline bint is_usable(const float* x, float sum_of_squares) noexcept nogil:
    """Whether a super-block is finite, its sum of squares included."""
    cdef int j
    cdef uint32_t largest = bits_of(sum_of_squares) & MAGNITUDE
    for j in range(GRID_BLOCK):
        largest = max(largest, bits_of(x[j]) & MAGNITUDE)
    return largest < <uint32_t> INFINITE


cdef inline int64_t count_usable(const float* x, int64_t n, const float* sums) noexcept nogil:
    """How many super-blocks there are before the first one that is not usable."""
    cdef int64_t i
    for i in range(n):
        if not is_usable(x + i * GRID_BLOCK, sums[i]):
            return i
    return n


cdef inline void set_weights(const float* x, const float* importance, float spread, WeighedBlock* block) noexcept nogil:
    """Weights by importance and size; `spread` is ggml's sigma2."""
    cdef int j
    for j in range(GRID_BLOCK):
        block.weights[j] = importance[j] * sqrtf(spread + x[j] * x[j])


cdef inline void weigh_tile(
    const float* x, int64_t n, const TileImportance* importance, const float* sums, float* weights
) noexcept nogil:
    """The weights of n super-blocks for IQ1."""
    cdef int64_t i
    cdef int j
    cdef float spread
    cdef const float* given
    for i in range(n):
        spread = 2 * sums[i] / <float> 256
        given = importance.weights + i * GRID_BLOCK if importance != NULL else NULL
        if given != NULL:
            for j in range(GRID_BLOCK):
                weights[j] = given[j] * sqrtf(spread + x[j] * x[j])
        else:
            for j in range(GRID_BLOCK):
                weights[j] = x[j] * x[j]
        x += GRID_BLOCK
        weights += GRID_BLOCK


cdef inline void set_square_weights(const float* x, float offset, WeighedBlock* block) noexcept nogil:
    cdef int j
    for j in range(GRID_BLOCK):
        block.weights[j] = offset + x[j] * x[j]


cdef inline void set_magnitudes(const float* x, bint is_even, WeighedBlock* block) noexcept nogil:
    """Magnitudes and signs. To make the number of negative signs even, the element that costs least is flipped."""
    cdef int group, i, least
    cdef uint32_t signs, parity
    cdef float costs[8]
    cdef const float* xg
    for i in range(GRID_BLOCK):
        block.x[i] = fabsf(x[i])
    for i in range(GRID_BLOCK):
        block.roots[i] = sqrtf(block.weights[i])
    for group in range(GRID_BLOCK // 8):
        xg = x + 8 * group
        signs = 0
        for i in range(8):
            signs |= <uint32_t> (xg[i] < 0) << i
        if is_even:
            parity = signs ^ signs >> 4
            parity ^= parity >> 2
            if (parity ^ parity >> 1) & 1:
                for i in range(8):
                    costs[i] = block.weights[8 * group + i] * xg[i] * xg[i]
                least = 0
                for i in range(1, 8):
                    if costs[i] < costs[least]:
                        least = i
                block.x[8 * group + least] = -block.x[8 * group + least]
                signs ^= <uint32_t> 1 << least
        block.signs[group] = <uint8_t> signs


cdef inline float largest_of(const float* x, int n) noexcept nogil:
    cdef float largest = x[0]
    cdef int i
    for i in range(1, n):
        largest = max(largest, x[i])
    return largest


cdef inline float largest_magnitude(const float* x, int n) noexcept nogil:
    cdef uint32_t largest = 0
    cdef int i
    for i in range(n):
        largest = max(largest, bits_of(x[i]) & MAGNITUDE)
    return float_of(largest)


cdef inline void codes_between_cuts(
    const int32_t* ranks, int n, int32_t first_cut, int32_t second_cut, bint is_mirrored, uint32_t* codes
) noexcept nogil:
    """The digits 0 to 2 of groups of 8 whose ranks are cut in two places."""
    cdef int i, j
    cdef uint32_t digit
    for i in range(n // 8):
        codes[i] = 0
        for j in range(8):
            digit = <uint32_t> (ranks[8 * i + j] >= first_cut) + <uint32_t> (ranks[8 * i + j] >= second_cut)
            codes[i] |= (2 - digit if is_mirrored else digit) << 2 * j


cdef inline void shifted_sums(
    const float* x, const float* weights, uint32_t code, float shift, uint32_t factor, float* sums
) noexcept nogil:
    """Add a group of 8 to the sums that fit a scale to it: over weight * value * x, and over weight * value**2."""
    cdef int j
    cdef float value
    for j in range(8):
        value = (<float> (<int32_t> (code >> 2 * j & 3) - 1) + shift) * <float> factor
        sums[0] += weights[j] * value * x[j]
        sums[1] += weights[j] * value * value


cdef inline float positive_scale(const float* x, const float* weights, float largest) noexcept nogil:
    """A scale for 32 elements coded 0 to 4, x = scale * code, by trials and then by single codes that make it better.

    ggml keeps codes in 8 bits without a sign. A negative element's code, below 0, counts as it is in sums, but 256
    higher where a sum is corrected by it, and in the first trial's error.
    """
    cdef int32_t codes[32]
    cdef int i, trial, _turn, n_changed
    cdef int32_t code
    cdef float inverse = <float> 4 / largest, scale = <float> 1 / inverse
    cdef float error, least_error = 0, difference, tried, sum_xl = 0, sum_l2 = 0, without_xl, without_l2
    for i in range(32):
        difference = x[i] - scale * <float> (quantcore_nearest(inverse * x[i]) & 255)
        least_error += weights[i] * difference * difference
    for trial in range(-4, 5):
        if trial == 0:
            continue
        tried = (<float> 0.1 * <float> trial + <float> 4) / largest
        scale = 1 / tried
        error = 0
        for i in range(32):
            difference = x[i] - scale * <float> min(quantcore_nearest(tried * x[i]), 4)
            error += weights[i] * difference * difference
        if error < least_error:
            least_error = error
            inverse = tried
    for i in range(32):
        code = min(quantcore_nearest(inverse * x[i]), 4)
        codes[i] = code & 255
        sum_xl += weights[i] * x[i] * <float> code
        sum_l2 += weights[i] * <float> code * <float> code
    for _turn in range(5):
        n_changed = 0
        for i in range(32):
            without_xl = sum_xl - weights[i] * x[i] * <float> codes[i]
            without_l2 = sum_l2 - weights[i] * <float> codes[i] * <float> codes[i]
            if without_xl > 0 and without_l2 > 0:
                code = min(quantcore_nearest(x[i] * without_l2 / without_xl), 4)
                if code != codes[i]:
                    without_xl += weights[i] * x[i] * <float> code
                    without_l2 += weights[i] * <float> code * <float> code
                    if without_xl * without_xl * sum_l2 > sum_xl * sum_xl * without_l2:
                        codes[i] = code & 255
                        sum_xl, sum_l2 = without_xl, without_l2
                        n_changed += 1
        if n_changed == 0:
            break
    return sum_xl / sum_l2 if sum_l2 > 0 else <float> 0


cdef inline uint32_t index_of(uint16_t code, int n_digits, const uint32_t* places) noexcept nogil:
    """The index of a point in its grid."""
    return quantcore_place_of(code, n_digits, places) >> QUANTCORE_PLACE_SHIFT


cdef inline uint32_t scale_code(float scale, float inverse, int32_t highest) noexcept nogil:
    """The code k of a scale near (2 * k + 1) / inverse."""
    cdef int32_t code = quantcore_nearest(<float> 0.5 * (inverse * scale - <float> 1.0))
    return <uint32_t> min(max(code, 0), highest)


cdef inline bint store_finite(uint8_t* block, float d) noexcept nogil:
    """d >= 0 as fp16, unless that would be infinite."""
    cdef uint32_t half = quantcore_half_of_float(d)
    store16(block, half)
    return half < 0x7C00
