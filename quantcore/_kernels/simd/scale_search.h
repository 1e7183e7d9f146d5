/* scale_search.h: ggml's search for the scale of a sub-block whose codes are -top to top - 1 (make_qx_quants), with
 * sub-blocks side by side in lanes: each lane adds up its own in ggml's order, so that no sum differs from a loop's. */
#ifndef QUANTCORE_SCALE_SEARCH_H
#define QUANTCORE_SCALE_SEARCH_H
#include "vectors.h"

enum {
    SCALE_SEARCH_SIZE = 32, /* most elements of a sub-block */
    SCALE_CANDIDATES = 19   /* inverse scales that take the extreme to -(top + step / 10), for steps from -9 to 9 */
};

/* Sub-blocks whose largest magnitude is below this are coded as zeros. */
#define QUANTCORE_ALL_ZERO 1e-15f

/* Elements of `rows` sub-blocks, each `size` long (a multiple of 4), one row after the other; lanes beyond are zeros.
 * The sub-blocks follow each other from x on, or have those places. */
static inline void quantcore_rows_to_lanes(const float *x, const int32_t *places, int size, int64_t rows, lanes *out) {
    float *columns = (float *)out;
    quantcore_four a[4], b[4];
    const float *from[VECTOR_LANES];
    int64_t r = 0;
    rows = rows < VECTOR_LANES ? rows : VECTOR_LANES;
    for (; r < rows; r++) from[r] = x + (places ? places[r] : r) * size;
    for (r = 0; r + 4 <= rows; r += 4)
        for (int i = 0; i < size; i += 4) {
            for (int k = 0; k < 4; k++) memcpy(a + k, from[r + k] + i, 16);
            quantcore_transpose4(a, b);
            for (int k = 0; k < 4; k++) memcpy(columns + (i + k) * VECTOR_LANES + r, b + k, 16);
        }
    for (; r < VECTOR_LANES; r++)
        for (int i = 0; i < size; i++) columns[i * VECTOR_LANES + r] = r < rows ? from[r][i] : 0.0f;
}

/* In each lane the first of the elements of largest magnitude; returns whether that is too small to be coded. */
static inline lane_mask quantcore_lane_extremes(const lanes *x, int size, lanes *extreme) {
    lanes largest = lanes_of(0), chosen = lanes_of(0);
    for (int i = 0; i < size; i++) {
        lane_mask is_larger = lanes_above(lanes_magnitude(x[i]), largest);
        chosen = lanes_chosen(is_larger, x[i], chosen);
        largest = lanes_greatest(lanes_magnitude(x[i]), largest);
    }
    *extreme = chosen;
    return lanes_above(lanes_of(QUANTCORE_ALL_ZERO), largest);
}

/* What is known of one candidate: its inverse scale, and with the codes l that it gives, the sums of w * x * l and of
 * w * l * l. */
struct quantcore_scale_candidate {
    lanes inverse, sum_xl, sum_ll;
};

enum { SCALE_NO_CLAMP, SCALE_CLAMP_TOP, SCALE_CLAMP_BOTH };

/* `count` candidates in succession, the first of which has the step `first`; all but the data are constants. */
static inline __attribute__((always_inline)) void quantcore_try_steps(
    const lanes *x, const lanes *w, const lanes *wx, int size, int top, lanes extreme, int first, int count, int clamp,
    struct quantcore_scale_candidate *candidates
) {
    lanes inverse[5], sum_xl[5], sum_ll[5];
    const lanes lowest = lanes_of((float)-top), highest = lanes_of((float)(top - 1));
#pragma GCC unroll 8
    for (int k = 0; k < count; k++) {
        inverse[k] = lanes_of(-((float)top + 0.1f * (float)(first + k))) / extreme;
        sum_xl[k] = sum_ll[k] = lanes_of(0);
    }
    for (int i = 0; i < size; i++) {
        lanes xi = x[i], wi = w[i], wxi = wx[i];
#pragma GCC unroll 8
        for (int k = 0; k < count; k++) {
            lanes l = inverse[k] * xi;
            if (clamp != SCALE_NO_CLAMP) l = lanes_least(l, highest);
            if (clamp == SCALE_CLAMP_BOTH) l = lanes_greatest(l, lowest);
            l = lanes_rounded(l);
            sum_xl[k] += wxi * l;
            sum_ll[k] += wi * l * l;
        }
    }
#pragma GCC unroll 8
    for (int k = 0; k < count; k++) {
        candidates[first + 9 + k].inverse = inverse[k];
        candidates[first + 9 + k].sum_xl = sum_xl[k];
        candidates[first + 9 + k].sum_ll = sum_ll[k];
    }
}

/* Of the candidates, the one whose least-squares scale explains most of the (weighted) squares.
 *
 * `scale` is that scale, `inverse` the candidate: codes are those of x * inverse, rounded and clamped. Both are 0 for
 * a sub-block that is all zeros. Where the products overflow, the scale is infinite or NaN. */
static inline __attribute__((always_inline)) void quantcore_fit_lanes(
    const lanes *x, const lanes *w, int size, int top, lanes *scale, lanes *inverse
) {
    struct quantcore_scale_candidate candidates[SCALE_CANDIDATES];
    lanes wx[SCALE_SEARCH_SIZE], extreme;
    const lanes zero = lanes_of(0);
    lane_mask is_zero = quantcore_lane_extremes(x, size, &extreme);
    for (int i = 0; i < size; i++) wx[i] = w[i] * x[i];
    /* No |x| exceeds the extreme, so up to the step -6 every rounded product is below top, and up to 4 at most top. */
#if defined(__AVX512F__)
    quantcore_try_steps(x, w, wx, size, top, extreme, -9, 4, SCALE_NO_CLAMP, candidates);
    quantcore_try_steps(x, w, wx, size, top, extreme, -5, 5, SCALE_CLAMP_TOP, candidates);
    quantcore_try_steps(x, w, wx, size, top, extreme, 0, 5, SCALE_CLAMP_TOP, candidates);
    quantcore_try_steps(x, w, wx, size, top, extreme, 5, 5, SCALE_CLAMP_BOTH, candidates);
#else
    quantcore_try_steps(x, w, wx, size, top, extreme, -9, 2, SCALE_NO_CLAMP, candidates);
    quantcore_try_steps(x, w, wx, size, top, extreme, -7, 2, SCALE_NO_CLAMP, candidates);
    quantcore_try_steps(x, w, wx, size, top, extreme, -5, 3, SCALE_CLAMP_TOP, candidates);
    quantcore_try_steps(x, w, wx, size, top, extreme, -2, 3, SCALE_CLAMP_TOP, candidates);
    quantcore_try_steps(x, w, wx, size, top, extreme, 1, 2, SCALE_CLAMP_TOP, candidates);
    quantcore_try_steps(x, w, wx, size, top, extreme, 3, 2, SCALE_CLAMP_TOP, candidates);
    quantcore_try_steps(x, w, wx, size, top, extreme, 5, 3, SCALE_CLAMP_BOTH, candidates);
    quantcore_try_steps(x, w, wx, size, top, extreme, 8, 2, SCALE_CLAMP_BOTH, candidates);
#endif
    const struct quantcore_scale_candidate *c = candidates + 9;
    lanes best_scale = lanes_chosen(lanes_differ(c->sum_ll, zero), c->sum_xl / c->sum_ll, zero);
    lanes best = best_scale * c->sum_xl, best_inverse = c->inverse;
    for (int step = 0; step < SCALE_CANDIDATES; step++) {
        if (step == 9) continue;
        c = candidates + step;
        lanes fitted = c->sum_xl / c->sum_ll;
        lane_mask is_better = lanes_above(c->sum_xl * c->sum_xl, best * c->sum_ll);
        is_better = lanes_both(is_better, lanes_above(c->sum_ll, zero));
        best_scale = lanes_chosen(is_better, fitted, best_scale);
        best = lanes_chosen(is_better, fitted * c->sum_xl, best);
        best_inverse = lanes_chosen(is_better, c->inverse, best_inverse);
    }
    *scale = lanes_chosen(is_zero, zero, best_scale);
    *inverse = lanes_chosen(is_zero, zero, best_inverse);
}

/* The search for n sub-blocks of `size` elements, one after the other. Weights: NULL (squares of x); as they are; or,
 * with a mean square of each sub-block's surroundings, times sqrt(mean square + x * x). `weight_sums` may be NULL. The
 * arrays of results have room for whole vectors, so has `mean_squares`. */
static inline __attribute__((always_inline)) void quantcore_fit_scales(
    const float *x, const float *weights, const float *mean_squares, int size, int top, int64_t n, float *scale,
    float *inverse, float *weight_sums
) {
    for (int64_t first = 0; first < n; first += VECTOR_LANES) {
        lanes xs[SCALE_SEARCH_SIZE], ws[SCALE_SEARCH_SIZE], s, v;
        quantcore_rows_to_lanes(x + first * size, NULL, size, n - first, xs);
        if (weights == NULL) {
            for (int i = 0; i < size; i++) ws[i] = xs[i] * xs[i];
        } else {
            quantcore_rows_to_lanes(weights + first * size, NULL, size, n - first, ws);
        }
        if (mean_squares != NULL) {
            lanes surroundings = lanes_load(mean_squares + first);
            for (int i = 0; i < size; i++) ws[i] *= lanes_root(surroundings + xs[i] * xs[i]);
        }
        if (weight_sums != NULL) {
            lanes sum = lanes_of(0);
            for (int i = 0; i < size; i++) sum += ws[i];
            lanes_store(weight_sums + first, sum);
        }
        quantcore_fit_lanes(xs, ws, size, top, &s, &v);
        lanes_store(scale + first, s);
        lanes_store(inverse + first, v);
    }
}

/* Codes of a sub-block from 0 to 2 * top - 1: x * factor / divisor, rounded; all 0 if `is_zero`. */
static inline void quantcore_code_sub_block(
    const float *x, float factor, float divisor, int is_zero, int size, int top, int32_t *codes
) {
    const int_lanes lowest = ints_of(-top), highest = ints_of(is_zero ? -top : top - 1);
    for (int i = 0; i < size; i += VECTOR_LANES) {
        int_lanes l = lanes_rounded_bits(lanes_load(x + i) * lanes_of(factor) / lanes_of(divisor));
        ints_store(codes + i, ints_greatest(ints_least(l, highest), lowest) - lowest);
    }
}

#endif
