/* iq4_search.h: the scales of IQ4_NL and IQ4_XS for runs of 32 values, by ggml's search, and the codes for a scale.
 *
 * A scale d is fitted to codes: with the levels q that are nearest to x * inverse, d = sum(w q x) / sum(w q q). Sixteen
 * inverses are tried, 127 over the extreme (the first value of largest magnitude) and -134 to -120 over it, and the d
 * kept whose d * sum(w q x) is the largest. Each lane of a register is a run of its own, so that its sums are added in
 * the order of its elements.
 *
 * From -134 to -120, a value passes one midpoint between two levels at most, since no midpoint is within 12 % of the
 * next. So the two levels are looked for once, and after that a comparison chooses between their products. */
#ifndef QUANTCORE_IQ4_SEARCH_H
#define QUANTCORE_IQ4_SEARCH_H
#include "levels.h"
#include "scale_search.h"
#include "squares.h"

enum { IQ4_RUN_SIZE = 32, IQ4_TRIED_TOGETHER = 5, IQ4_MOST_RUNS = 64 };

static inline float quantcore_iq4_midpoint(int k) {
    return (float)(QUANTCORE_IQ4_LEVELS[k] + QUANTCORE_IQ4_LEVELS[k + 1]) * 0.5f;
}

/* The nearest level, of two equally near the upper one: the last one less the steps at all midpoints above v. `next` is
 * the level above it; of the last one, it is the same. */
static inline lanes quantcore_iq4_nearest(lanes v, lanes *next) {
    lanes level = lanes_of(QUANTCORE_IQ4_LEVELS[15]), above = level;
#pragma GCC unroll 15
    for (int k = 0; k < 15; k++) {
        lane_mask is_below = lanes_above(lanes_of(quantcore_iq4_midpoint(k)), v);
        level = lanes_less_where(is_below, level, lanes_of(QUANTCORE_IQ4_LEVELS[k + 1] - QUANTCORE_IQ4_LEVELS[k]));
        if (k < 14)
            above = lanes_less_where(
                is_below, above, lanes_of(QUANTCORE_IQ4_LEVELS[k + 2] - QUANTCORE_IQ4_LEVELS[k + 1])
            );
    }
    *next = above;
    return level;
}

/* Keep the scale that the sums give, if it is better than the one so far. */
static inline void quantcore_iq4_keep(lanes qx, lanes qq, lanes *d, lanes *best) {
    lanes fitted = qx / qq;
    lane_mask is_better = lanes_both(lanes_above(qq, lanes_of(0)), lanes_above(qx * qx, *best * qq));
    *d = lanes_chosen(is_better, fitted, *d);
    *best = lanes_chosen(is_better, fitted * qx, *best);
}

static inline lanes quantcore_iq4_fit(const lanes *x, const lanes *w) {
    lanes low_qx[IQ4_RUN_SIZE], low_qq[IQ4_RUN_SIZE], high_qx[IQ4_RUN_SIZE], high_qq[IQ4_RUN_SIZE];
    lanes midpoints[IQ4_RUN_SIZE], extreme, next, qx = lanes_of(0), qq = lanes_of(0);
    lane_mask is_zero = quantcore_lane_extremes(x, IQ4_RUN_SIZE, &extreme);

    lanes inverse = lanes_of(1) / (extreme / lanes_of(127));
    for (int j = 0; j < IQ4_RUN_SIZE; j++) {
        lanes q = quantcore_iq4_nearest(x[j] * inverse, &next), wq = w[j] * q;
        qx += wq * x[j];
        qq += wq * q;
    }
    lanes d = lanes_chosen(lanes_above(qq, lanes_of(0)), qx / qq, lanes_of(0)), best = d * qx;

    lanes first = lanes_of(-134) / extreme, last = lanes_of(-120) / extreme;
    for (int j = 0; j < IQ4_RUN_SIZE; j++) {
        lanes high, low = quantcore_iq4_nearest(lanes_least(x[j] * first, x[j] * last), &high);
        low_qx[j] = w[j] * low * x[j];
        low_qq[j] = w[j] * low * low;
        high_qx[j] = w[j] * high * x[j];
        high_qq[j] = w[j] * high * high;
        midpoints[j] = (low + high) * lanes_of(0.5f);
    }
    for (int i = -134; i <= -120; i += IQ4_TRIED_TOGETHER) {
        lanes inverses[IQ4_TRIED_TOGETHER], qxs[IQ4_TRIED_TOGETHER], qqs[IQ4_TRIED_TOGETHER];
#pragma GCC unroll 5
        for (int k = 0; k < IQ4_TRIED_TOGETHER; k++) {
            inverses[k] = lanes_of((float)(i + k)) / extreme;
            qxs[k] = qqs[k] = lanes_of(0);
        }
        for (int j = 0; j < IQ4_RUN_SIZE; j++) {
#pragma GCC unroll 5
            for (int k = 0; k < IQ4_TRIED_TOGETHER; k++) {
                lane_mask is_low = lanes_above(midpoints[j], x[j] * inverses[k]);
                qxs[k] += lanes_chosen(is_low, low_qx[j], high_qx[j]);
                qqs[k] += lanes_chosen(is_low, low_qq[j], high_qq[j]);
            }
        }
#pragma GCC unroll 5
        for (int k = 0; k < IQ4_TRIED_TOGETHER; k++) quantcore_iq4_keep(qxs[k], qqs[k], &d, &best);
    }
    return lanes_chosen(is_zero, lanes_of(0), d);
}

/* The scales of n <= IQ4_MOST_RUNS runs, in blocks of `runs` (a constant) each. An element's weight is importance *
 * sqrt(twice the mean of its block's squares + x * x); its square if there is no importance. `scales` has room for
 * IQ4_MOST_RUNS. */
static inline void quantcore_iq4_scales(const float *x, const float *importance, int runs, int64_t n, float *scales) {
    const int size = runs * IQ4_RUN_SIZE;
    float twice_means[IQ4_MOST_RUNS] = {0};
    lanes rows[IQ4_RUN_SIZE], weights[IQ4_RUN_SIZE];
    for (int64_t i = 0; importance && i * runs < n; i += SQUARED_ROWS) {
        float sums[SQUARED_ROWS] = {0};
        int64_t blocks = n / runs - i < SQUARED_ROWS ? n / runs - i : SQUARED_ROWS;
        quantcore_add_squares(x + i * size, size, blocks, size, sums);
        for (int64_t j = 0; j < blocks * runs; j++) twice_means[i * runs + j] = sums[j / runs] * (2.0f / (float)size);
    }
    for (int64_t i = 0; i < n; i += VECTOR_LANES) {
        lanes twice_mean = lanes_load(twice_means + i);
        quantcore_rows_to_lanes(x + i * IQ4_RUN_SIZE, NULL, IQ4_RUN_SIZE, n - i, rows);
        if (importance) quantcore_rows_to_lanes(importance + i * IQ4_RUN_SIZE, NULL, IQ4_RUN_SIZE, n - i, weights);
        for (int j = 0; j < IQ4_RUN_SIZE; j++) {
            lanes square = rows[j] * rows[j];
            weights[j] = importance ? weights[j] * lanes_root(twice_mean + square) : square;
        }
        lanes_store(scales + i, quantcore_iq4_fit(rows, weights));
    }
}

#endif
