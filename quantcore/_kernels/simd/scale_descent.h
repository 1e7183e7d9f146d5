/* scale_descent.h: ggml's search for the scale of a sub-block of 3-bit codes (make_q3_quants), sub-blocks side by side.
 *
 * Codes l start as those of the inverse scale that takes the extreme to -4. Then, one element after the other, a code
 * is changed to the nearest one for the least-squares scale of all others, if that explains more of the squares
 * weighted by x * x; up to five times around. A round that changes nothing ends it, since the next would not change
 * anything.
 *
 * A change takes a sum of x * x * x * l over all others that is positive. At first its terms all have the sign of the
 * inverse scale, and rounded sums are monotonous, so that only sub-blocks with a negative extreme can ever change: they
 * are brought together. Each step waits for the one before it, so all of a tile's vectors take each step together. */
#ifndef QUANTCORE_SCALE_DESCENT_H
#define QUANTCORE_SCALE_DESCENT_H
#include "scale_search.h"

enum {
    DESCENT_ABREAST = 128, /* sub-blocks of a tile */
    DESCENT_VECTORS = DESCENT_ABREAST / VECTOR_LANES,
    DESCENT_SIZE = 16,
    DESCENT_ROUNDS = 5
};

/* Codes and sums of 16 elements in lanes before any change. */
static inline void quantcore_start_descent(
    const lanes *x, lanes inverse, lanes *xxx, float *codes, lanes *sum_xl, lanes *sum_ll
) {
    const lanes lowest = lanes_of(-4), highest = lanes_of(3);
    *sum_xl = *sum_ll = lanes_of(0);
    for (int i = 0; i < DESCENT_SIZE; i++) {
        lanes xx = x[i] * x[i], l = lanes_rounded(lanes_greatest(lanes_least(inverse * x[i], highest), lowest));
        xxx[i] = xx * x[i];
        lanes_store(codes + i * VECTOR_LANES, l);
        *sum_xl += xxx[i] * l;
        *sum_ll += xx * l * l;
    }
}

static inline lanes quantcore_fitted(lanes sum_xl, lanes sum_ll) {
    return lanes_chosen(lanes_above(sum_ll, lanes_of(0)), sum_xl / sum_ll, lanes_of(0));
}

/* The search for n <= DESCENT_ABREAST sub-blocks, one after the other. Those that were brought together have a `slot`
 * each, in which their codes are found (quantcore_descended); the others have -1, and the codes of x * inverse, rounded
 * and clamped, or zeros if `inverse` is 0. The arrays have room for DESCENT_ABREAST numbers (`codes`: sub-blocks). */
static void quantcore_descend(
    const float *x, int64_t n, float *scale, float *inverse, int32_t *slot, float *codes
) {
    lanes xs[DESCENT_VECTORS][DESCENT_SIZE], xxx[DESCENT_VECTORS][DESCENT_SIZE];
    lanes sum_xl[DESCENT_VECTORS], sum_ll[DESCENT_VECTORS], extreme;
    float inverses[DESCENT_ABREAST], fitted[DESCENT_ABREAST];
    int32_t chosen[DESCENT_ABREAST];
    int active[DESCENT_VECTORS], n_active = 0, n_chosen = 0;
    const lanes zero = lanes_of(0), lowest = lanes_of(-4), highest = lanes_of(3);

    for (int64_t k = 0; k < n; k += VECTOR_LANES) {
        quantcore_rows_to_lanes(
            x + k * DESCENT_SIZE, NULL, DESCENT_SIZE, n - k, xs[0]
        );
        lane_mask is_zero = quantcore_lane_extremes(xs[0], DESCENT_SIZE, &extreme);
        lanes start = lanes_of(-4) / extreme;
        quantcore_start_descent(xs[0], start, xxx[0], codes, sum_xl, sum_ll);
        lanes_store(inverse + k, lanes_chosen(is_zero, zero, start));
        lanes_store(scale + k, lanes_chosen(is_zero, zero, quantcore_fitted(sum_xl[0], sum_ll[0])));
    }
    for (int64_t k = 0; k < n; k++) {
        int is_chosen = inverse[k] > 0;
        slot[k] = is_chosen ? n_chosen : -1;
        chosen[n_chosen] = (int32_t)k;
        n_chosen += is_chosen;
    }
    for (int k = 0; k * VECTOR_LANES < n_chosen; k++) {
        for (int j = k * VECTOR_LANES; j < (k + 1) * VECTOR_LANES; j++)
            inverses[j] = j < n_chosen ? inverse[chosen[j]] : 0;
        quantcore_rows_to_lanes(
            x, chosen + k * VECTOR_LANES, DESCENT_SIZE, n_chosen - k * VECTOR_LANES, xs[k]
        );
        quantcore_start_descent(
            xs[k], lanes_load(inverses + k * VECTOR_LANES), xxx[k],
            codes + k * VECTOR_LANES * DESCENT_SIZE, sum_xl + k, sum_ll + k
        );
        active[n_active++] = k;
    }

    for (int round = 0; round < DESCENT_ROUNDS && n_active; round++) {
        lane_mask is_changed[DESCENT_VECTORS];
        int n_changed = 0;
        for (int i = 0; i < DESCENT_SIZE; i++)
            for (int a = 0; a < n_active; a++) {
                int k = active[a];
                float *code = codes + (k * DESCENT_SIZE + i) * VECTOR_LANES;
                lanes xi = xs[k][i], xx = xi * xi, xxxi = xxx[k][i], old = lanes_load(code);
                lanes others_xl = sum_xl[k] - xxxi * old, others_ll = sum_ll[k] - xx * old * old;
                lanes new = lanes_greatest(lanes_least(xi * others_ll / others_xl, highest), lowest);
                new = lanes_rounded(new);
                lanes new_xl = others_xl + xxxi * new, new_ll = others_ll + xx * new * new;
                lane_mask is_better = lanes_above(new_xl * new_xl * sum_ll[k], sum_xl[k] * sum_xl[k] * new_ll);
                /* Where one of both is NaN, so is one of the products. */
                is_better = lanes_both(is_better, lanes_above(lanes_least(others_xl, new_ll), zero));
                is_better = lanes_both(is_better, lanes_differ(new, old));
                lanes_store(code, lanes_chosen(is_better, new, old));
                sum_xl[k] = lanes_chosen(is_better, new_xl, sum_xl[k]);
                sum_ll[k] = lanes_chosen(is_better, new_ll, sum_ll[k]);
                is_changed[k] = i ? lanes_either(is_better, is_changed[k]) : is_better;
            }
        for (int a = 0; a < n_active; a++) {
            active[n_changed] = active[a];
            n_changed += lanes_any(is_changed[active[a]]);
        }
        n_active = n_changed;
    }
    for (int k = 0; k * VECTOR_LANES < n_chosen; k++)
        lanes_store(fitted + k * VECTOR_LANES, quantcore_fitted(sum_xl[k], sum_ll[k]));
    for (int j = 0; j < n_chosen; j++) scale[chosen[j]] = fitted[j];
}

/* The codes in that slot, from 0 to 7. */
static inline void quantcore_descended(const float *codes, int32_t slot, int32_t *out) {
    codes += slot / VECTOR_LANES * VECTOR_LANES * DESCENT_SIZE + slot % VECTOR_LANES;
    for (int i = 0; i < DESCENT_SIZE; i++) out[i] = (int32_t)codes[i * VECTOR_LANES] + 4;
}

#endif
