/* scale_min_search.h: ggml's search for the scale and the minimum of a sub-block, x = scale * code + minimum, with one
 * sub-block in each lane of a vector, so that every lane adds in the order of the elements.
 *
 * A candidate divides the range into some more or fewer steps than there are codes, rounds, and fits scale and minimum
 * to the codes by weighted least squares; it is kept if its error is smaller than that of the best one so far, whose
 * minimum then is the one from which the next candidates measure. */
#ifndef QUANTCORE_SCALE_MIN_SEARCH_H
#define QUANTCORE_SCALE_MIN_SEARCH_H
#include "fit_lanes.h"

/* Element i of all sub-blocks is row i of `x`; a row has 2048 / n lanes for sub-blocks of n elements. `minimum` is 0 or
 * negative. The codes of the best candidate are those of code_scale * (x - code_minimum). */
typedef struct {
    float x[2048];
    float weights[2048];
    float scale[128];
    float minimum[128];
    float code_scale[128];
    float code_minimum[128];
} __attribute__((aligned(64))) quantcore_fit;

/* Four runs of four elements become four rows of four lanes. */
typedef float fit_quad __attribute__((vector_size(16)));
typedef float fit_loose __attribute__((vector_size(16), aligned(4), may_alias));

static inline void fit_turn(const float *x, int64_t run, float *rows, int stride) {
    fit_quad a = *(const fit_loose *)x, b = *(const fit_loose *)(x + run);
    fit_quad c = *(const fit_loose *)(x + 2 * run), d = *(const fit_loose *)(x + 3 * run);
#if defined(__SSE2__)
    fit_quad ac_low = _mm_unpacklo_ps(a, c), bd_low = _mm_unpacklo_ps(b, d);
    fit_quad ac_high = _mm_unpackhi_ps(a, c), bd_high = _mm_unpackhi_ps(b, d);
    *(fit_quad *)rows = _mm_unpacklo_ps(ac_low, bd_low);
    *(fit_quad *)(rows + stride) = _mm_unpackhi_ps(ac_low, bd_low);
    *(fit_quad *)(rows + 2 * stride) = _mm_unpacklo_ps(ac_high, bd_high);
    *(fit_quad *)(rows + 3 * stride) = _mm_unpackhi_ps(ac_high, bd_high);
#else
    fit_quad ac_low = {a[0], c[0], a[1], c[1]}, bd_low = {b[0], d[0], b[1], d[1]};
    fit_quad ac_high = {a[2], c[2], a[3], c[3]}, bd_high = {b[2], d[2], b[3], d[3]};
    *(fit_quad *)rows = (fit_quad){ac_low[0], bd_low[0], ac_low[1], bd_low[1]};
    *(fit_quad *)(rows + stride) = (fit_quad){ac_low[2], bd_low[2], ac_low[3], bd_low[3]};
    *(fit_quad *)(rows + 2 * stride) = (fit_quad){ac_high[0], bd_high[0], ac_high[1], bd_high[1]};
    *(fit_quad *)(rows + 3 * stride) = (fit_quad){ac_high[2], bd_high[2], ac_high[3], bd_high[3]};
#endif
}

/* 8 super-blocks of 256 elements, n in a sub-block, to rows: lane 8 * j + b is sub-block j of super-block b. */
static inline void quantcore_turn(const float *x, const int n, float *rows) {
    for (int j = 0; j < 256 / n; j++)
        for (int b = 0; b < 8; b += 4)
            for (int i = 0; i < n; i += 4)
                fit_turn(x + b * 256 + j * n + i, 256, rows + i * (2048 / n) + 8 * j + b, 2048 / n);
}

/* How scaled values become codes. ggml adds 1.5 * 2**23 and takes the mantissa, of which only the lowest 23 bits count,
 * and clamps last: that is rounding to the nearest even for values below 2**22 (where clamping may come first), and
 * wraps around above. */
enum { FIT_INSIDE, FIT_CLAMPED, FIT_WRAPPED };

static inline __attribute__((always_inline)) fit_floats fit_code(fit_floats v, fit_floats most, const int how) {
    const fit_floats magic = fit_all(12582912.0f);
    if (how == FIT_CLAMPED) v = fit_lesser(fit_greater(v, fit_all(0.0f)), most);
    fit_floats sum = v + magic;
    if (how == FIT_WRAPPED) {
        fit_ints low = (fit_ints)magic, high = (fit_ints)(most + magic);
        fit_ints bits = ((fit_ints)sum & 0x7FFFFF) | 0x4B000000;
        fit_ints is_low = bits < low, is_high = bits > high;
        sum = (fit_floats)((low & is_low) | (high & is_high) | (bits & ~(is_low | is_high)));
    }
    return sum - magic;
}

/* So many vectors of sub-blocks are searched together: their chains of additions and their divisions overlap. With 16
 * registers of 256 bits, more than two are no faster. */
#if FIT_LANES == 8
#define FIT_VECTORS 2
#else
#define FIT_VECTORS 4
#endif
#define FIT_EACH(k) for (int k = 0; k < FIT_VECTORS; k++)

typedef struct {
    fit_floats l[FIT_VECTORS], l2[FIT_VECTORS], xl[FIT_VECTORS];
} fit_sums;

/* The codes of x, and their weighted sums: of code, code**2 and x * code. */
static inline __attribute__((always_inline)) fit_sums fit_codes(
    const float *x, const float *w, const int n, const fit_floats inverse[FIT_VECTORS],
    const fit_floats minimum[FIT_VECTORS], fit_floats most, const int how, fit_floats *codes) {
    fit_floats by[FIT_VECTORS], from[FIT_VECTORS];
    fit_sums sums = {0};
    FIT_EACH(k) by[k] = inverse[k], from[k] = minimum[k];
    for (int i = 0; i < n; i++)
        FIT_EACH(k) {
            int at = i * (2048 / n) + k * FIT_LANES;
            fit_floats xk = fit_load(x + at), code = fit_code(by[k] * (xk - from[k]), most, how);
            fit_floats weighted = fit_load(w + at) * code;
            codes[FIT_VECTORS * i + k] = code;
            sums.l[k] += weighted, sums.l2[k] += weighted * code, sums.xl[k] += weighted * xk;
        }
    return sums;
}

static inline __attribute__((always_inline)) void fit_errors(
    const float *x, const float *w, const int n, const fit_floats scale[FIT_VECTORS],
    const fit_floats minimum[FIT_VECTORS], const fit_floats *codes, const int is_absolute,
    fit_floats error[FIT_VECTORS]) {
    fit_floats by[FIT_VECTORS], from[FIT_VECTORS], sum[FIT_VECTORS] = {{0}};
    FIT_EACH(k) by[k] = scale[k], from[k] = minimum[k];
    for (int i = 0; i < n; i++)
        FIT_EACH(k) {
            int at = i * (2048 / n) + k * FIT_LANES;
            fit_floats difference = by[k] * codes[FIT_VECTORS * i + k] + from[k] - fit_load(x + at);
            sum[k] += fit_load(w + at) * (is_absolute ? fit_magnitude(difference) : difference * difference);
        }
    FIT_EACH(k) error[k] = sum[k];
}

/* Whether one of the ends is too large to be rounded by adding. */
static inline int fit_wraps(const fit_floats ends[2 * FIT_VECTORS]) {
    fit_ints is_large = {0};
    for (int k = 0; k < 2 * FIT_VECTORS; k++) is_large |= ~(fit_magnitude(ends[k]) <= fit_all(4194303.0f));
    return fit_any(is_large);
}

/* The candidates: (most + first + step * s) steps to the range, s = 0 to n_steps. */
typedef struct {
    float most, first, step;
    int n_steps;
} quantcore_candidates;

/* is_absolute: the error is the sum of magnitudes instead of squares. is_guarded: ggml clamps before it rounds, so that
 * no candidate wraps around. */
static inline __attribute__((always_inline)) void fit_vectors(
    quantcore_fit *fit, int at, const int n, const quantcore_candidates *candidates, const int is_absolute,
    const int is_guarded) {
    const float *x = fit->x + at, *w = fit->weights + at;
    const fit_floats most = fit_all(candidates->most), zero = {0}, one = fit_all(1.0f);
    const fit_floats lowest = fit_all(-0.5f), beyond = fit_all(candidates->most + 0.5f);
    fit_floats codes[FIT_VECTORS * n];
    fit_floats low[FIT_VECTORS], high[FIT_VECTORS], sum_w[FIT_VECTORS], sum_x[FIT_VECTORS], range[FIT_VECTORS];
    fit_floats inverse[FIT_VECTORS], scale[FIT_VECTORS], minimum[FIT_VECTORS], from[FIT_VECTORS], error[FIT_VECTORS];
    fit_floats best_inverse[FIT_VECTORS], best_from[FIT_VECTORS], best_scale[FIT_VECTORS], best_error[FIT_VECTORS];
    fit_floats determinant[FIT_VECTORS], ends[2 * FIT_VECTORS];
    fit_ints is_flat[FIT_VECTORS], is_any = {0};

    FIT_EACH(k) {
        fit_floats lk = fit_load(x + k * FIT_LANES), hk = lk, sw = fit_load(w + k * FIT_LANES), sx = sw * lk;
        for (int i = 1; i < n; i++) {
            fit_floats xi = fit_load(x + i * (2048 / n) + k * FIT_LANES);
            fit_floats wi = fit_load(w + i * (2048 / n) + k * FIT_LANES);
            lk = fit_lesser(xi, lk), hk = fit_greater(xi, hk);
            sw += wi, sx += wi * xi;
        }
        low[k] = lk, high[k] = hk, sum_w[k] = sw, sum_x[k] = sx;
        from[k] = fit_select(lk > zero, zero, lk);
        is_flat[k] = hk == from[k];
        is_any |= ~is_flat[k];
        /* All codes of a flat sub-block are 0, with any range, and no candidate is better. */
        range[k] = fit_select(is_flat[k], one, hk - from[k]);
        inverse[k] = most / range[k];
        best_scale[k] = one / inverse[k];
        /* An infinite inverse (of a subnormal range) gives code 0 to all elements. */
        best_inverse[k] = fit_select(inverse[k] == fit_all(__builtin_inff()), zero, inverse[k]);
        best_from[k] = from[k];
    }
    fit_codes(x, w, n, best_inverse, from, most, FIT_CLAMPED, codes);
    fit_errors(x, w, n, best_scale, from, codes, is_absolute, best_error);

    const int n_steps = fit_any(is_any) ? candidates->n_steps : -1;
    for (int s = 0; s <= n_steps; s++) {
        fit_floats factor = fit_all(candidates->first + candidates->step * (float)s + candidates->most);
        fit_ints is_outside = {0}, is_positive = {0};
        fit_sums sums;
        FIT_EACH(k) {
            inverse[k] = factor / range[k];
            ends[2 * k] = inverse[k] * (low[k] - from[k]), ends[2 * k + 1] = inverse[k] * (high[k] - from[k]);
        }
        /* Rounding keeps the order, so what holds at both ends holds for all elements between them. */
        for (int k = 0; k < 2 * FIT_VECTORS; k++) is_outside |= ~((ends[k] >= lowest) & (ends[k] < beyond));
        if (!fit_any(is_outside))
            sums = fit_codes(x, w, n, inverse, from, most, FIT_INSIDE, codes);
        else if (is_guarded || !fit_wraps(ends))
            sums = fit_codes(x, w, n, inverse, from, most, FIT_CLAMPED, codes);
        else
            sums = fit_codes(x, w, n, inverse, from, most, FIT_WRAPPED, codes);
        FIT_EACH(k) {
            fit_floats l = sums.l[k], l2 = sums.l2[k], xl = sums.xl[k];
            determinant[k] = sum_w[k] * l2 - l * l;
            minimum[k] = (l2 * sum_x[k] - l * xl) / determinant[k];
            scale[k] = (sum_w[k] * xl - sum_x[k] * l) / determinant[k];
            is_positive |= minimum[k] > zero;
        }
        if (fit_any(is_positive))
            FIT_EACH(k) {
                scale[k] = fit_select(minimum[k] > zero, sums.xl[k] / sums.l2[k], scale[k]);
                minimum[k] = fit_select(minimum[k] > zero, zero, minimum[k]);
            }
        fit_errors(x, w, n, scale, minimum, codes, is_absolute, error);
        FIT_EACH(k) {
            fit_ints is_better = (determinant[k] > zero) & (error[k] < best_error[k]);
            best_error[k] = fit_select(is_better, error[k], best_error[k]);
            best_scale[k] = fit_select(is_better, scale[k], best_scale[k]);
            best_inverse[k] = fit_select(is_better, inverse[k], best_inverse[k]);
            best_from[k] = fit_select(is_better, from[k], best_from[k]);
            from[k] = fit_select(is_better, minimum[k], from[k]);
            range[k] = fit_select(is_better, high[k] - from[k], range[k]);
        }
    }
    FIT_EACH(k) {
        int to = at + k * FIT_LANES;
        fit_store(fit->scale + to, fit_select(is_flat[k], zero, best_scale[k]));
        fit_store(fit->minimum + to, from[k]);
        fit_store(fit->code_scale + to, fit_select(is_flat[k], zero, best_inverse[k]));
        fit_store(fit->code_minimum + to, best_from[k]);
    }
}

#define FIT_FUNCTION(name, n, is_absolute, is_guarded)                            \
    static void name(quantcore_fit *fit, const quantcore_candidates *candidates) {\
        for (int at = 0; at < 2048 / n; at += FIT_VECTORS * FIT_LANES)            \
            fit_vectors(fit, at, n, candidates, is_absolute, is_guarded);         \
    }

FIT_FUNCTION(quantcore_fit32, 32, 0, 0)
FIT_FUNCTION(quantcore_fit16_absolute, 16, 1, 0)
FIT_FUNCTION(quantcore_fit32_weighted, 32, 0, 1)
FIT_FUNCTION(quantcore_fit16_weighted, 16, 0, 1)

#undef FIT_FUNCTION
#endif
