/* range_search.h: ggml's search for the scale and the minimum of a block of 32 by weighted least squares
 * (make_qkx3_quants), with blocks side by side in lanes: each lane adds up its own block in ggml's order. */
#ifndef QUANTCORE_RANGE_SEARCH_H
#define QUANTCORE_RANGE_SEARCH_H
#include "scale_search.h"

enum {
    RANGE_SIZE = 32,
    RANGE_CANDIDATES = 37, /* the range, from the least value or 0 on, in top - 0.9 to top + 0.9 steps, 0.05 apart */
    RANGE_TOGETHER = 2     /* vectors whose chains of additions overlap */
};

/* Elements of some vectors of blocks, and their weights. */
struct quantcore_range_blocks {
    lanes x[RANGE_SIZE][RANGE_TOGETHER], w[RANGE_SIZE][RANGE_TOGETHER];
};

/* The best so far: x = code * scale + low, with the codes of inverse * (x - from). */
struct quantcore_range {
    lanes scale, low, inverse, from, error;
};

#define EACH_RANGE(k) _Pragma("GCC unroll 2") for (int k = 0; k < RANGE_TOGETHER; k++)

static inline lanes quantcore_range_code(lanes x, lanes inverse, lanes from, lanes top) {
    /* A product of 0 and an infinite inverse has code 0. */
    return lanes_rounded(lanes_least(lanes_greatest(inverse * (x - from), lanes_of(0)), top));
}

static inline void quantcore_range_errors(
    const struct quantcore_range_blocks *blocks, lanes (*codes)[RANGE_TOGETHER], const lanes *scale, const lanes *low,
    lanes *errors
) {
    lanes sums[RANGE_TOGETHER], scales[RANGE_TOGETHER], lows[RANGE_TOGETHER];
    EACH_RANGE(k) sums[k] = lanes_of(0), scales[k] = scale[k], lows[k] = low[k];
    for (int i = 0; i < RANGE_SIZE; i++)
        EACH_RANGE(k) {
            lanes difference = scales[k] * codes[i][k] + lows[k] - blocks->x[i][k];
            sums[k] += blocks->w[i][k] * (difference * difference);
        }
    EACH_RANGE(k) errors[k] = sums[k];
}

static inline void quantcore_fit_range(
    const struct quantcore_range_blocks *blocks, float most, struct quantcore_range *range
) {
    lanes codes[RANGE_SIZE][RANGE_TOGETHER], high[RANGE_TOGETHER], low[RANGE_TOGETHER], scale[RANGE_TOGETHER];
    lanes sum_w[RANGE_TOGETHER], sum_x[RANGE_TOGETHER], inverse[RANGE_TOGETHER], error[RANGE_TOGETHER];
    lane_mask is_flat[RANGE_TOGETHER];
    const lanes zero = lanes_of(0), top = lanes_of(most);

    EACH_RANGE(k) {
        low[k] = high[k] = blocks->x[0][k];
        sum_w[k] = blocks->w[0][k], sum_x[k] = sum_w[k] * low[k];
    }
    for (int i = 1; i < RANGE_SIZE; i++)
        EACH_RANGE(k) {
            lanes x = blocks->x[i][k], w = blocks->w[i][k];
            /* Of zeros of both signs, the first one stays. */
            low[k] = lanes_least(x, low[k]), high[k] = lanes_greatest(x, high[k]);
            sum_w[k] += w, sum_x[k] += w * x;
        }
    EACH_RANGE(k) {
        low[k] = lanes_chosen(lanes_above(low[k], zero), zero, low[k]);
        is_flat[k] = lanes_not(lanes_above(high[k], low[k]));
        inverse[k] = top / (high[k] - low[k]);
        scale[k] = lanes_of(1) / inverse[k];
        /* Where the inverse is infinite, ggml's first codes are all 0. */
        inverse[k] = lanes_chosen(lanes_above(inverse[k], lanes_of(0x1.FFFFFEp127f)), zero, inverse[k]);
        range[k].scale = scale[k], range[k].low = range[k].from = low[k], range[k].inverse = inverse[k];
    }
    for (int i = 0; i < RANGE_SIZE; i++)
        EACH_RANGE(k) codes[i][k] = quantcore_range_code(blocks->x[i][k], inverse[k], low[k], top);
    quantcore_range_errors(blocks, codes, scale, low, error);
    EACH_RANGE(k) range[k].error = error[k];

    for (int step = 0; step < RANGE_CANDIDATES; step++) {
        lanes steps = lanes_of(-0.9f + 0.05f * (float)step + most), from[RANGE_TOGETHER];
        lanes sum_l[RANGE_TOGETHER], sum_ll[RANGE_TOGETHER], sum_xl[RANGE_TOGETHER], determinant[RANGE_TOGETHER];
        EACH_RANGE(k) {
            from[k] = range[k].low, inverse[k] = steps / (high[k] - from[k]);
            sum_l[k] = sum_ll[k] = sum_xl[k] = zero;
        }
        for (int i = 0; i < RANGE_SIZE; i++)
            EACH_RANGE(k) {
                lanes x = blocks->x[i][k], l = quantcore_range_code(x, inverse[k], from[k], top);
                lanes wl = blocks->w[i][k] * l;
                codes[i][k] = l;
                sum_l[k] += wl, sum_ll[k] += wl * l, sum_xl[k] += wl * x;
            }
        EACH_RANGE(k) {
            determinant[k] = sum_w[k] * sum_ll[k] - sum_l[k] * sum_l[k];
            scale[k] = (sum_w[k] * sum_xl[k] - sum_x[k] * sum_l[k]) / determinant[k];
            low[k] = (sum_ll[k] * sum_x[k] - sum_l[k] * sum_xl[k]) / determinant[k];
            lane_mask is_positive = lanes_above(low[k], zero);
            if (lanes_any(is_positive)) {
                low[k] = lanes_chosen(is_positive, zero, low[k]);
                scale[k] = lanes_chosen(is_positive, sum_xl[k] / sum_ll[k], scale[k]);
            }
        }
        quantcore_range_errors(blocks, codes, scale, low, error);
        EACH_RANGE(k) {
            lane_mask is_better = lanes_both(lanes_above(range[k].error, error[k]), lanes_above(determinant[k], zero));
            range[k].scale = lanes_chosen(is_better, scale[k], range[k].scale);
            range[k].low = lanes_chosen(is_better, low[k], range[k].low);
            range[k].inverse = lanes_chosen(is_better, inverse[k], range[k].inverse);
            range[k].from = lanes_chosen(is_better, from[k], range[k].from);
            range[k].error = lanes_chosen(is_better, error[k], range[k].error);
        }
    }
    EACH_RANGE(k) {
        range[k].scale = lanes_chosen(is_flat[k], zero, range[k].scale);
        range[k].inverse = lanes_chosen(is_flat[k], zero, range[k].inverse);
        range[k].low = lanes_chosen(is_flat[k], range[k].from, range[k].low);
    }
}

#undef EACH_RANGE

/* The search for n blocks, one after the other, with codes from 0 to top and weights that are the given ones times
 * sqrt(mean square + x * x). Codes are those of inverse * (x - from). The arrays but x and `weights` have room for
 * RANGE_TOGETHER whole vectors at a time. */
static void quantcore_fit_ranges(
    const float *x, const float *weights, const float *mean_squares, int top, int64_t n, float *scale, float *low,
    float *inverse, float *from
) {
    for (int64_t first = 0; first < n; first += RANGE_TOGETHER * VECTOR_LANES) {
        struct quantcore_range_blocks blocks;
        struct quantcore_range range[RANGE_TOGETHER];
        lanes column[RANGE_SIZE];
        for (int k = 0; k < RANGE_TOGETHER; k++) {
            int64_t at = first + k * VECTOR_LANES, left = n - at > 0 ? n - at : 0;
            lanes surroundings = lanes_load(mean_squares + at);
            quantcore_rows_to_lanes(x + at * RANGE_SIZE, NULL, RANGE_SIZE, left, column);
            for (int i = 0; i < RANGE_SIZE; i++) blocks.x[i][k] = column[i];
            quantcore_rows_to_lanes(weights + at * RANGE_SIZE, NULL, RANGE_SIZE, left, column);
            for (int i = 0; i < RANGE_SIZE; i++)
                blocks.w[i][k] = column[i] * lanes_root(surroundings + blocks.x[i][k] * blocks.x[i][k]);
        }
        quantcore_fit_range(&blocks, (float)top, range);
        for (int k = 0; k < RANGE_TOGETHER; k++) {
            int64_t at = first + k * VECTOR_LANES;
            lanes_store(scale + at, range[k].scale), lanes_store(low + at, range[k].low);
            lanes_store(inverse + at, range[k].inverse), lanes_store(from + at, range[k].from);
        }
    }
}

static inline void quantcore_code_range(const float *x, float inverse, float from, int top, int32_t *codes) {
    for (int i = 0; i < RANGE_SIZE; i += VECTOR_LANES) {
        lanes l = lanes_greatest(lanes_of(inverse) * (lanes_load(x + i) - lanes_of(from)), lanes_of(0));
        ints_store(codes + i, lanes_rounded_bits(lanes_least(l, lanes_of((float)top))));
    }
}

#endif
