/* grid_search.h: the search for a scale and for the points of a grid that fit a sub-block best, as IQ2 and IQ3 make
 * it.
 *
 * A sub-block is tried at many scales; each trial rounds all elements, puts every group of digits that is no point
 * onto a point near it, and sums up. The trials are the lanes of vectors, so that each lane adds in the order of the
 * elements. With the scale a group's digits change only a few times: neighbouring trials share them, and the list of
 * points near them. grid_near.h finds the nearest one, for as many trials together as it can.
 *
 * Digits are packed, the first one lowest: 8 digits of 2 bits (0 to 2), or 4 digits of 3 bits. Digit k is the value
 * 2k + 1. `places` and `near` are those of GridSearch (table.pxd). */
#ifndef QUANTCORE_GRID_SEARCH_H
#define QUANTCORE_GRID_SEARCH_H
#include <stdint.h>

#include "grid_near.h"
#include "lane_bits.h"

enum {
    QUANTCORE_MOST_TRIALS = 32,
    QUANTCORE_MOST_GROUPS = 8,
    /* Which groups are fitted again to the best scale. */
    QUANTCORE_REFIT_ALL = 0,
    QUANTCORE_REFIT_OFF_GRID = 1,
    QUANTCORE_REFIT_ALL_IF_OFF_GRID = 2,
};

/* The digits of a group at the inverse scales of the lanes, halved: scaling by a power of two changes no rounding. */
QUANTCORE_INLINE int_lanes quantcore_round_lanes(const float *x, lanes half_inverse, int n_digits) {
    const int width = n_digits == 8 ? 2 : 3;
    int_lanes code = {0};
    for (int i = n_digits - 1; i >= 0; i--) {
        int_lanes digit = lanes_rounded_bits(half_inverse * x[i] - 0.5f);
        digit = ints_least(ints_greatest(digit, ints_of(0)), ints_of(n_digits == 8 ? 2 : 7));
        code = code << width | digit;
    }
    return code;
}

/* A group's point at one scale and its inverse. */
QUANTCORE_INLINE uint32_t quantcore_point_at(
    const float *x, const float *roots, float scale, float inverse, int n_digits, const uint32_t *places,
    const uint16_t *near, int *failed
) {
    const int width = n_digits == 8 ? 2 : 3, highest = n_digits == 8 ? 2 : 7;
    float terms[QUANTCORE_MOST_TERMS];
    uint32_t code = 0, place;
    for (int i = 0; i < n_digits; i++) {
        int32_t digit = quantcore_nearest(0.5f * (inverse * x[i] - 1.0f));
        digit = digit < 0 ? 0 : digit > highest ? highest : digit;
        code |= (uint32_t)digit << width * i;
    }
    place = quantcore_place_of(code, n_digits, places);
    if (place & QUANTCORE_ON_GRID) return code;
    quantcore_terms_at(x, roots, scale, n_digits, terms);
    return quantcore_nearest_point(terms, near + (place >> QUANTCORE_PLACE_SHIFT), place & QUANTCORE_COUNT_BITS,
                                   n_digits, failed);
}

/* A group's points at all trials, whose rounded digits are known; rounded[n_trials] is not one of them. */
QUANTCORE_INLINE void quantcore_find_points(
    const float *x, const float *roots, const float *scales, int n_trials, int n_digits, const uint32_t *places,
    const uint16_t *near, const int32_t *rounded, int32_t *points, int *failed
) {
    quantcore_line_terms terms;
    float quads[QUANTCORE_MOST_NEAR], lines[QUANTCORE_MOST_NEAR];
    uint64_t ends = 0; /* a bit for each trial that is the last one with its digits */
    int start = 0, has_terms = 0;
    for (int i = 0; i < n_trials; i += VECTOR_LANES) {
        int_lanes codes = ints_load(rounded + i);
        ints_store(points + i, codes);
        ends |= (uint64_t)sign_bits(codes != ints_load(rounded + i + 1)) << i;
    }
    ends &= ((uint64_t)1 << n_trials) - 1;
    for (; ends; ends &= ends - 1) {
        const int stop = __builtin_ctzll(ends) + 1;
        uint32_t place = quantcore_place_of((uint32_t)rounded[start], n_digits, places);
        if (!(place & QUANTCORE_ON_GRID)) {
            const uint16_t *listed = near + (place >> QUANTCORE_PLACE_SHIFT);
            const int n = place & QUANTCORE_COUNT_BITS;
            if (!has_terms) quantcore_set_line_terms(x, roots, scales[n_trials - 1], scales[0], n_digits, &terms);
            has_terms = 1;
            for (int j = 0; j < n; j += VECTOR_LANES)
                quantcore_set_lines(&terms, listed + j, n_digits, quads + j, lines + j);
            for (int i = start & -VECTOR_LANES; i < stop; i += VECTOR_LANES) {
                int_lanes numbers = lane_numbers() + i;
                int_lanes is_ours = (numbers >= start) & (numbers < stop);
                int_lanes nearest = quantcore_nearest_points(
                    x, roots, lanes_load(scales + i), sign_bits(is_ours), quads,
                    lines, terms.margin, listed, n, n_digits, failed);
                nearest = (is_ours & nearest) | (~is_ours & ints_load(points + i));
                ints_store(points + i, nearest);
            }
        }
        start = stop;
    }
}

/* Fit `size` elements x >= 0 (but for single ones, whose sign was flipped) of weights `weights` to points: scales
 * near largest / (2 * highest digit + 1), n_trials of them in steps of `step`. `scale` is what they have to beat;
 * roots: of the weights. Returns the scale and sets a code for each group; *failed where nothing could be found. */
QUANTCORE_INLINE float quantcore_fit_points(
    const float *x, const float *weights, const float *roots, int size, int n_digits, const uint32_t *places,
    const uint16_t *near, int n_trials, float step, float largest, float scale, int refit, uint16_t *codes, int *failed
) {
    const int width = n_digits == 8 ? 2 : 3, n_groups = size / n_digits;
    const int n_vectors = (n_trials + VECTOR_LANES - 1) / VECTOR_LANES;
    float inverses[QUANTCORE_MOST_TRIALS], scales[QUANTCORE_MOST_TRIALS];
    float sums_qx[QUANTCORE_MOST_TRIALS], sums_q2[QUANTCORE_MOST_TRIALS];
    int32_t rounded[QUANTCORE_MOST_GROUPS][QUANTCORE_MOST_TRIALS + 1];
    int32_t found[QUANTCORE_MOST_GROUPS][QUANTCORE_MOST_TRIALS];
    float best = 0.0f;
    int best_trial = -1, is_off_grid = 0;

    for (int i = 0; i < n_vectors * VECTOR_LANES; i++) {
        int trial = (i < n_trials ? i : n_trials - 1) - n_trials / 2;
        inverses[i] = ((n_digits == 8 ? 5.0f : 15.0f) + (float)trial * step) / largest;
    }
    for (int v = 0; v < n_vectors; v++) {
        const lanes inverse = lanes_load(inverses + v * VECTOR_LANES);
        lanes_store(scales + v * VECTOR_LANES, 1.0f / inverse);
        for (int group = 0; group < n_groups; group++)
            ints_store(rounded[group] + v * VECTOR_LANES,
                                 quantcore_round_lanes(x + group * n_digits, inverse * 0.5f, n_digits));
    }
    for (int group = 0; group < n_groups; group++) {
        rounded[group][n_trials] = -1;
        quantcore_find_points(x + group * n_digits, roots + group * n_digits, scales, n_trials, n_digits, places, near,
                              rounded[group], found[group], failed);
    }
    for (int v = 0; v < n_vectors; v++) {
        lanes sum_qx = {0}, sum_q2 = {0};
        for (int group = 0; group < n_groups; group++) {
            const float *xg = x + group * n_digits, *wg = weights + group * n_digits;
            const int_lanes point = ints_load(found[group] + v * VECTOR_LANES);
            for (int i = 0; i < n_digits; i++) {
                int_lanes digit = (point >> width * i & ((1 << width) - 1)) * 2 + 1;
                lanes value = ints_to_lanes(digit);
                sum_qx += (wg[i] * xg[i]) * value;
                sum_q2 += (wg[i] * value) * value;
            }
        }
        lanes_store(sums_qx + v * VECTOR_LANES, sum_qx);
        lanes_store(sums_q2 + v * VECTOR_LANES, sum_q2);
    }

    for (int i = 0; i < n_trials; i++) {
        float qx = sums_qx[i], q2 = sums_q2[i];
        if (q2 > 0.0f && qx * qx > best * q2) {
            scale = qx / q2;
            best = scale * qx;
            best_trial = i;
        }
    }
    for (int group = 0; group < n_groups; group++) {
        codes[group] = best_trial < 0 ? 0 : (uint16_t)found[group][best_trial];
        if (best_trial >= 0) is_off_grid |= found[group][best_trial] != rounded[group][best_trial];
    }
    if (best_trial < 0) is_off_grid = refit == QUANTCORE_REFIT_ALL_IF_OFF_GRID;
    if (scale > 0.0f && (is_off_grid || refit == QUANTCORE_REFIT_ALL)) {
        float inverse = 1.0f / scale, sum_qx = 0.0f, sum_q2 = 0.0f;
        for (int group = 0; group < n_groups; group++) {
            int was_on_grid = best_trial < 0 || found[group][best_trial] == rounded[group][best_trial];
            if (refit == QUANTCORE_REFIT_OFF_GRID && was_on_grid) continue;
            codes[group] = (uint16_t)quantcore_point_at(x + group * n_digits, roots + group * n_digits, scale, inverse,
                                                        n_digits, places, near, failed);
        }
        for (int i = 0; i < size; i++) {
            float value = (float)(2 * (codes[i / n_digits] >> width * (i % n_digits) & ((1 << width) - 1)) + 1);
            sum_qx += (weights[i] * x[i]) * value;
            sum_q2 += (weights[i] * value) * value;
        }
        if (sum_q2 > 0.0f) scale = sum_qx / sum_q2;
    }
    return scale;
}

#endif
