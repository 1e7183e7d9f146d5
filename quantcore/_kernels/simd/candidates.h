/* candidates.h: sixteen candidates for a scale and an offset of a run of elements side by side, x = scale * level +
 * offset. The lanes are candidates, so that each of them adds in the order of the elements, and the sums are the same
 * whatever the width of a vector is. */
#ifndef QUANTCORE_CANDIDATES_H
#define QUANTCORE_CANDIDATES_H
#include "vectors.h"

enum { QUANTCORE_CANDIDATES = 16, QUANTCORE_MOST_LEVELS = 16 };

/* What codes stand for: whole numbers from `lowest` to `highest`, or, if there are `n` of them, numbers in ascending
 * order, each with the gap to the one below, and what lies halfway to it. */
typedef struct {
    int n;
    float lowest, highest;
    float gaps[QUANTCORE_MOST_LEVELS], midpoints[QUANTCORE_MOST_LEVELS];
} quantcore_level_set;

/* A run of n elements with their weights, and the sums over the weights and over weight * x. */
typedef struct {
    const float *x, *weights;
    int n;
    float sum_w, sum_wx;
} quantcore_run;

/* Of each candidate: scale and offset; with the nearest levels l, the sums over weight * l, weight * l * l and weight *
 * x * l, and the error: the sum over weight * (x - decoded)**2. */
typedef struct {
    float scale[QUANTCORE_CANDIDATES], offset[QUANTCORE_CANDIDATES];
    float l[QUANTCORE_CANDIDATES], l2[QUANTCORE_CANDIDATES], xl[QUANTCORE_CANDIDATES], error[QUANTCORE_CANDIDATES];
} quantcore_candidate_set;

static inline quantcore_level_set quantcore_whole_levels(int lowest, int highest) {
    quantcore_level_set set = {0};
    set.lowest = (float)lowest;
    set.highest = (float)highest;
    return set;
}

static inline quantcore_level_set quantcore_uneven_levels(const int8_t *levels, int n) {
    quantcore_level_set set = {0};
    set.n = n;
    set.lowest = levels[0];
    set.highest = levels[n - 1];
    for (int k = 1; k < n; k++) {
        set.gaps[k] = (float)(levels[k] - levels[k - 1]);
        set.midpoints[k] = (float)(levels[k] + levels[k - 1]) * 0.5f;
    }
    return set;
}

static inline quantcore_run quantcore_make_run(const float *x, const float *weights, int n) {
    quantcore_run run = {x, weights, n, 0, 0};
    for (int j = 0; j < n; j++) run.sum_w += weights[j];
    for (int j = 0; j < n; j++) run.sum_wx += weights[j] * x[j];
    return run;
}

/* The nearest levels to v. */
static inline lanes quantcore_nearest_whole(const quantcore_level_set *set, lanes v) {
    return lanes_rounded(lanes_least(lanes_greatest(v, lanes_of(set->lowest)), lanes_of(set->highest)));
}
static inline lanes quantcore_nearest_uneven(const quantcore_level_set *set, lanes v) {
    lanes level = lanes_of(set->highest);
    for (int k = set->n - 1; k > 0; k--)
        level = lanes_less_where(lanes_above(lanes_of(set->midpoints[k]), v), level, lanes_of(set->gaps[k]));
    return level;
}

/* What a level is multiplied with to undo a scale; 0 where that would be infinite. */
static inline lanes quantcore_inverses(lanes scale) {
    return lanes_chosen(lanes_above(lanes_magnitude(scale), lanes_of(0x1p-126f)), lanes_of(1) / scale, lanes_of(0));
}

static inline __attribute__((always_inline)) void quantcore_try_these(
    const quantcore_run *run, const quantcore_level_set *levels, const int is_even, quantcore_candidate_set *set) {
    for (int at = 0; at < QUANTCORE_CANDIDATES; at += VECTOR_LANES) {
        lanes scale = lanes_load(set->scale + at), offset = lanes_load(set->offset + at);
        lanes inverse = quantcore_inverses(scale);
        lanes l = lanes_of(0), l2 = l, xl = l, error = l;
        for (int j = 0; j < run->n; j++) {
            lanes x = lanes_of(run->x[j]), w = lanes_of(run->weights[j]);
            lanes v = (x - offset) * inverse;
            lanes level = is_even ? quantcore_nearest_whole(levels, v) : quantcore_nearest_uneven(levels, v);
            lanes weighted = w * level, difference = x - (scale * level + offset);
            l += weighted;
            l2 += weighted * level;
            xl += weighted * x;
            error += w * difference * difference;
        }
        lanes_store(set->l + at, l);
        lanes_store(set->l2 + at, l2);
        lanes_store(set->xl + at, xl);
        lanes_store(set->error + at, error);
    }
}

/* Set the sums and errors of the candidates. */
static inline void quantcore_try_candidates(
    const quantcore_run *run, const quantcore_level_set *levels, quantcore_candidate_set *set) {
    if (levels->n == 0)
        quantcore_try_these(run, levels, 1, set);
    else
        quantcore_try_these(run, levels, 0, set);
}

/* The scales of least squares for the levels of each candidate, with offsets of 0; a scale stays where there is none,
 * or only one of the other sign. */
static inline void quantcore_refit_scales(quantcore_candidate_set *set) {
    for (int i = 0; i < QUANTCORE_CANDIDATES; i++) {
        float scale = set->l2[i] > 0 ? set->xl[i] / set->l2[i] : 0;
        set->scale[i] = scale * set->scale[i] > 0 ? scale : set->scale[i];
    }
}

/* The same for scales above 0 together with their offsets; `is_below`: these are to be 0 or less. */
static inline void quantcore_refit_ranges(const quantcore_run *run, int is_below, quantcore_candidate_set *set) {
    for (int i = 0; i < QUANTCORE_CANDIDATES; i++) {
        float determinant = run->sum_w * set->l2[i] - set->l[i] * set->l[i];
        float scale = (run->sum_w * set->xl[i] - run->sum_wx * set->l[i]) / determinant;
        int is_better = determinant > 0 && scale > 0;
        float offset = (run->sum_wx - scale * set->l[i]) / run->sum_w;
        if (is_below && offset > 0) {
            offset = 0;
            scale = set->l2[i] > 0 ? set->xl[i] / set->l2[i] : 0;
            is_better = scale > 0;
        }
        set->scale[i] = is_better ? scale : set->scale[i];
        set->offset[i] = is_better ? offset : set->offset[i];
    }
}

/* The offsets of least squares for the scale and the levels of each candidate. */
static inline void quantcore_refit_offsets(const quantcore_run *run, quantcore_candidate_set *set) {
    for (int i = 0; i < QUANTCORE_CANDIDATES; i++)
        set->offset[i] = run->sum_w > 0 ? (run->sum_wx - set->scale[i] * set->l[i]) / run->sum_w : set->offset[i];
}

/* The candidate of least error, the first of equals. */
static inline int quantcore_best_candidate(const quantcore_candidate_set *set) {
    int best = 0;
    for (int i = 1; i < QUANTCORE_CANDIDATES; i++)
        if (set->error[i] < set->error[best]) best = i;
    return best;
}

/* The codes of n elements, a multiple of 16: which level each has, counted from the lowest. */
static inline void quantcore_level_codes(
    const float *x, int n, const quantcore_level_set *set, float scale, float offset, int32_t *codes) {
    lanes inverse = quantcore_inverses(lanes_of(scale));
    for (int j = 0; j < n; j += VECTOR_LANES) {
        lanes v = (lanes_load(x + j) - lanes_of(offset)) * inverse;
        if (set->n == 0) {
            ints_store(codes + j, lanes_rounded_bits(quantcore_nearest_whole(set, v) - lanes_of(set->lowest)));
            continue;
        }
        lanes count = lanes_of((float)(set->n - 1));
        for (int k = 1; k < set->n; k++)
            count = lanes_less_where(lanes_above(lanes_of(set->midpoints[k]), v), count, lanes_of(1));
        ints_store(codes + j, lanes_rounded_bits(count));
    }
}

/* The sum over weight * (x - y)**2 in float64, in eight sums that are joined last; n is a multiple of 8. */
static inline double quantcore_weighed_error(const float *x, const float *y, const float *weights, int n) {
    double sums[8] = {0};
    for (int j = 0; j < n; j += 8)
        for (int k = 0; k < 8; k++) {
            double difference = (double)x[j + k] - (double)y[j + k];
            sums[k] += (weights ? (double)weights[j + k] : 1.0) * difference * difference;
        }
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

#endif
