/* scale_codes.h: ggml's codes for the scales (or the minima) of a super-block's sub-blocks, multiples of one scale, by
 * weights: the best of nine scales, then each code by itself where another one fits better, up to five times over. A
 * super-block in each lane. */
#ifndef QUANTCORE_SCALE_CODES_H
#define QUANTCORE_SCALE_CODES_H
#include "fit_lanes.h"

/* n rows of 16 lanes, a code for each value, and a scale for each lane. */
enum { QUANTCORE_SCALE_LANES = 16 };
typedef struct {
    float values[16 * QUANTCORE_SCALE_LANES];
    float weights[16 * QUANTCORE_SCALE_LANES];
    float codes[16 * QUANTCORE_SCALE_LANES];
    float scales[QUANTCORE_SCALE_LANES];
} __attribute__((aligned(64))) quantcore_scales;

/* Rounding as ggml has it, from the lowest 23 bits of a sum: above 2**22 it wraps around. */
static inline fit_floats fit_nearest(fit_floats v) {
    const fit_floats magic = fit_all(12582912.0f);
    return (fit_floats)(((fit_ints)(v + magic) & 0x7FFFFF) | 0x4B000000) - magic;
}

/* A code that is kept is a byte: what is negative wraps around. */
static inline fit_floats fit_byte(fit_floats code) {
    fit_ints bits = (fit_ints)(code + fit_all(12582912.0f));
    return (fit_floats)((bits & 0xFF) | 0x4B000000) - fit_all(8388608.0f);
}

static void quantcore_code_scales(quantcore_scales *scales, int n, float most_code) {
    const fit_floats most = fit_all(most_code), zero = {0}, one = fit_all(1.0f);
    for (int at = 0; at < QUANTCORE_SCALE_LANES; at += FIT_LANES) {
        fit_floats x[16], w[16], code[16], highest = zero;
        for (int i = 0; i < n; i++) {
            x[i] = fit_load(scales->values + i * QUANTCORE_SCALE_LANES + at);
            w[i] = fit_load(scales->weights + i * QUANTCORE_SCALE_LANES + at);
            highest = fit_greater(highest, x[i]);
        }
        fit_ints is_zero = highest < fit_all(1e-15f);
        fit_floats inverse = most / highest, scale = one / inverse, best = zero;
        for (int i = 0; i < n; i++) {
            fit_floats difference = x[i] - scale * fit_byte(fit_nearest(inverse * x[i]));
            best += w[i] * difference * difference;
        }
        for (int s = -4; s <= 4; s++) {
            if (s == 0) continue;
            fit_floats candidate = fit_all(0.1f * (float)s + most_code) / highest, error = zero;
            scale = one / candidate;
            for (int i = 0; i < n; i++) {
                fit_floats difference = x[i] - scale * fit_lesser(fit_nearest(candidate * x[i]), most);
                error += w[i] * difference * difference;
            }
            fit_ints is_better = error < best;
            best = fit_select(is_better, error, best);
            inverse = fit_select(is_better, candidate, inverse);
        }
        fit_floats xl = zero, l2 = zero;
        for (int i = 0; i < n; i++) {
            fit_floats l = fit_lesser(fit_nearest(inverse * x[i]), most);
            code[i] = fit_byte(l);
            xl += w[i] * x[i] * l, l2 += w[i] * l * l;
        }
        for (int times = 0; times < 5; times++) {
            fit_ints has_changed = {0};
            for (int i = 0; i < n; i++) {
                fit_floats wx = w[i] * x[i], rest_xl = xl - wx * code[i], rest_l2 = l2 - w[i] * code[i] * code[i];
                fit_floats l = fit_lesser(fit_nearest(x[i] * rest_l2 / rest_xl), most);
                fit_ints is_better = (rest_xl > zero) & (rest_l2 > zero) & (l != code[i]);
                rest_xl += wx * l, rest_l2 += w[i] * l * l;
                is_better &= rest_xl * rest_xl * l2 > xl * xl * rest_l2;
                code[i] = fit_select(is_better, fit_byte(l), code[i]);
                xl = fit_select(is_better, rest_xl, xl), l2 = fit_select(is_better, rest_l2, l2);
                has_changed |= is_better;
            }
            if (!fit_any(has_changed)) break;
        }
        for (int i = 0; i < n; i++)
            fit_store(scales->codes + i * QUANTCORE_SCALE_LANES + at, fit_select(is_zero, zero, code[i]));
        fit_store(scales->scales + at, fit_select(is_zero | ~(l2 > zero), zero, xl / l2));
    }
}

#endif
