/* grid_near.h: which of the points near some digits is nearest to the elements.
 *
 * The distance is the sum over the elements of root * (scale * value - x)**2 in float32, one after the other; the
 * nearest is the first one of the least. But for rounding it is scale * (scale * quad - line) and what all points
 * share, where quad is the sum of root * value**2 and line that of 2 * root * x * value. These are computed once, and
 * tell the nearest point at any scale, unless another one comes as close as rounding could matter: then the distances
 * decide themselves. */
#ifndef QUANTCORE_GRID_NEAR_H
#define QUANTCORE_GRID_NEAR_H
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "lane_bits.h"

enum {
    QUANTCORE_COUNT_BITS = 511,
    QUANTCORE_ON_GRID = 512,
    QUANTCORE_PLACE_SHIFT = 10,
    QUANTCORE_MOST_TERMS = 32, /* of a group: 8 * 4 or 4 * 8 */
    QUANTCORE_MOST_NEAR = 304, /* points near some digits, up to whole vectors */
};

typedef float quantcore_two __attribute__((vector_size(8)));

QUANTCORE_INLINE void quantcore_store_four(float *x, quantcore_four lanes) { memcpy(x, &lanes, sizeof lanes); }

/* The number that packed digits are in their base. */
QUANTCORE_INLINE uint32_t quantcore_number_of(uint32_t code, int n_digits) {
    if (n_digits == 4) return code;
    code -= code >> 2 & 0x3333;
    code -= 7 * (code >> 4 & 0x0F0F);
    return (code & 255) + 81 * (code >> 8);
}

QUANTCORE_INLINE uint32_t quantcore_place_of(uint32_t code, int n_digits, const uint32_t *places) {
    return places[quantcore_number_of(code, n_digits)];
}

/* A group's terms of the distance at one scale, a row of 4 or 8 for each digit. */
QUANTCORE_INLINE void quantcore_terms_at(
    const float *x, const float *roots, float scale, int n_digits, float *terms
) {
    const int stride = n_digits == 8 ? 4 : 8;
    for (int i = 0; i < n_digits; i++)
        for (int k = 0; k < stride; k++) {
            float difference = scale * (float)(2 * k + 1) - x[i];
            terms[stride * i + k] = roots[i] * difference * difference;
        }
}

/* The nearest of n > 0 points by the distance itself; *failed where none is finite. The points are the lanes, and
 * permutations look the terms up; near[n] to near[n + 15] may be read. */
QUANTCORE_INLINE uint32_t quantcore_nearest_point(
    const float *terms, const uint16_t *near, int n, int n_digits, int *failed
) {
    const int width = n_digits == 8 ? 2 : 3, stride = n_digits == 8 ? 4 : 8;
    int found = -1;
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    const __m512i numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512 tables[8], least = _mm512_set1_ps(FLT_MAX);
    __m512i places = _mm512_setzero_si512();
    for (int i = 0; i < n_digits; i++)
        tables[i] = n_digits == 8 ? _mm512_broadcast_f32x4(_mm_loadu_ps(terms + stride * i))
                                  : _mm512_broadcast_f32x8(_mm256_loadu_ps(terms + stride * i));
    for (int j = 0; j < n; j += 16) {
        __mmask16 is_point = n - j >= 16 ? 0xFFFF : (__mmask16)((1 << (n - j)) - 1);
        __m512i codes = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(near + j)));
        __m512 sum = _mm512_setzero_ps();
        for (int i = 0; i < n_digits; i++) {
            __m512i digits = _mm512_srli_epi32(codes, width * i);
            sum = _mm512_add_ps(sum, n_digits == 8 ? _mm512_permutevar_ps(tables[i], digits)
                                                   : _mm512_permutexvar_ps(digits, tables[i]));
        }
        __mmask16 is_less = _mm512_mask_cmp_ps_mask(is_point, sum, least, _CMP_LT_OQ);
        least = _mm512_mask_mov_ps(least, is_less, sum);
        places = _mm512_mask_add_epi32(places, is_less, numbers, _mm512_set1_epi32(j));
    }
    float smallest = _mm512_reduce_min_ps(least);
    if (smallest < FLT_MAX) {
        __mmask16 is_smallest = _mm512_cmp_ps_mask(least, _mm512_set1_ps(smallest), _CMP_EQ_OQ);
        found = _mm512_mask_reduce_min_epi32(is_smallest, places);
    }
#elif defined(__AVX2__)
    const __m256i numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256 tables[8], least = _mm256_set1_ps(FLT_MAX);
    __m256i places = _mm256_setzero_si256();
    for (int i = 0; i < n_digits; i++)
        tables[i] = n_digits == 8 ? _mm256_broadcast_ps((const __m128 *)(terms + stride * i))
                                  : _mm256_loadu_ps(terms + stride * i);
    for (int j = 0; j < n; j += 8) {
        __m256i codes = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(near + j)));
        __m256i place = _mm256_add_epi32(numbers, _mm256_set1_epi32(j));
        __m256 is_point = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), place));
        __m256 sum = _mm256_setzero_ps();
        for (int i = 0; i < n_digits; i++) {
            __m256i digits = _mm256_srli_epi32(codes, width * i);
            sum = _mm256_add_ps(sum, n_digits == 8 ? _mm256_permutevar_ps(tables[i], digits)
                                                   : _mm256_permutevar8x32_ps(tables[i], digits));
        }
        __m256 is_less = _mm256_and_ps(is_point, _mm256_cmp_ps(sum, least, _CMP_LT_OQ));
        least = _mm256_blendv_ps(least, sum, is_less);
        places = _mm256_blendv_epi8(places, place, _mm256_castps_si256(is_less));
    }
    __m128 four = _mm_min_ps(_mm256_castps256_ps128(least), _mm256_extractf128_ps(least, 1));
    four = _mm_min_ps(four, _mm_movehl_ps(four, four));
    float smallest = _mm_cvtss_f32(_mm_min_ss(four, _mm_shuffle_ps(four, four, 1)));
    if (smallest < FLT_MAX) {
        __m256 is_smallest = _mm256_cmp_ps(least, _mm256_set1_ps(smallest), _CMP_EQ_OQ);
        places = _mm256_blendv_epi8(_mm256_set1_epi32(INT32_MAX), places, _mm256_castps_si256(is_smallest));
        __m128i first = _mm_min_epi32(_mm256_castsi256_si128(places), _mm256_extracti128_si256(places, 1));
        first = _mm_min_epi32(first, _mm_shuffle_epi32(first, 0x4E));
        found = _mm_cvtsi128_si32(_mm_min_epi32(first, _mm_shuffle_epi32(first, 0xB1)));
    }
#else
    float least = FLT_MAX;
    for (int j = 0; j < n; j++) {
        uint32_t code = near[j];
        float sum = terms[code & (stride - 1)];
        for (int i = 1; i < n_digits; i++) sum += terms[stride * i + (code >> width * i & (stride - 1))];
        if (sum < least) {
            least = sum;
            found = j;
        }
    }
#endif
    *failed |= found < 0;
    return near[found < 0 ? 0 : found];
}

/* What a group needs for distances as lines: terms of quad and line for each digit, a row of 4 or 8 for each, and how
 * far apart two lines have to be to tell which point is nearer. */
typedef struct {
    float quads[QUANTCORE_MOST_TERMS];
    float lines[QUANTCORE_MOST_TERMS];
#if !defined(__AVX2__)
    quantcore_two pairs[QUANTCORE_MOST_TERMS]; /* quad and line beside each other */
    quantcore_two firsts[64];                  /* their sums over the first three of eight digits */
#endif
    float margin; /* 0: lines cannot tell */
} quantcore_line_terms;

QUANTCORE_INLINE void quantcore_set_line_terms(
    const float *x, const float *roots, float least_scale, float largest_scale, int n_digits,
    quantcore_line_terms *terms
) {
    const int stride = n_digits == 8 ? 4 : 8;
    const float reach = (n_digits == 8 ? 5.0f : 15.0f) * largest_scale;
    float bound = 0.0f;
    for (int i = 0; i < n_digits; i++) {
        const quantcore_four odd = {1, 3, 5, 7}, higher = {9, 11, 13, 15};
        quantcore_four root = roots[i] - (quantcore_four){0}, twice = 2.0f * roots[i] * x[i] - (quantcore_four){0};
        bound += roots[i] * ((fabsf(x[i]) + reach) * (fabsf(x[i]) + reach));
        quantcore_store_four(terms->quads + stride * i, root * (odd * odd));
        quantcore_store_four(terms->lines + stride * i, twice * odd);
        if (n_digits == 4) {
            quantcore_store_four(terms->quads + stride * i + 4, root * (higher * higher));
            quantcore_store_four(terms->lines + stride * i + 4, twice * higher);
        }
    }
#if !defined(__AVX2__)
    for (int i = 0; i < n_digits * stride; i++) terms->pairs[i] = (quantcore_two){terms->quads[i], terms->lines[i]};
    for (int i = 0; n_digits == 8 && i < 27; i++) {
        const int first = i / 9, second = i / 3 % 3, third = i % 3;
        terms->firsts[first | second << 2 | third << 4] =
            terms->pairs[first] + terms->pairs[4 + second] + terms->pairs[8 + third];
    }
#endif
    /* The rounding of a distance is below 14 * 2**-24 of the bound, that of a line times the scale below 12 * 2**-24;
     * twice both are less than 2**-18. Nothing is near an underflow or an overflow. */
    terms->margin = bound > 1e-30f && bound < 1e30f && least_scale > 1e-18f ? bound / 262144.0f / least_scale : 0.0f;
}

/* Quads and lines of VECTOR_LANES points. */
#if defined(__AVX2__)
QUANTCORE_INLINE void quantcore_set_lines(
    const quantcore_line_terms *terms, const uint16_t *near, int n_digits, float *quads, float *lines
) {
    const int width = n_digits == 8 ? 2 : 3, stride = n_digits == 8 ? 4 : 8;
#if defined(__AVX512F__)
    __m512i codes = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)near));
    __m512 quad = _mm512_setzero_ps(), line = _mm512_setzero_ps();
    for (int i = 0; i < n_digits; i++) {
        const float *quad_row = terms->quads + stride * i, *line_row = terms->lines + stride * i;
        __m512i digits = _mm512_srli_epi32(codes, width * i);
        if (n_digits == 8) {
            quad = _mm512_add_ps(quad, _mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(quad_row)), digits));
            line = _mm512_add_ps(line, _mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(line_row)), digits));
        } else {
            quad = _mm512_add_ps(
                quad, _mm512_permutexvar_ps(digits, _mm512_broadcast_f32x8(_mm256_loadu_ps(quad_row))));
            line = _mm512_add_ps(
                line, _mm512_permutexvar_ps(digits, _mm512_broadcast_f32x8(_mm256_loadu_ps(line_row))));
        }
    }
#else
    __m256i codes = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)near));
    __m256 quad = _mm256_setzero_ps(), line = _mm256_setzero_ps();
    for (int i = 0; i < n_digits; i++) {
        const float *quad_row = terms->quads + stride * i, *line_row = terms->lines + stride * i;
        __m256i digits = _mm256_srli_epi32(codes, width * i);
        if (n_digits == 8) {
            quad = _mm256_add_ps(quad, _mm256_permutevar_ps(_mm256_broadcast_ps((const __m128 *)quad_row), digits));
            line = _mm256_add_ps(line, _mm256_permutevar_ps(_mm256_broadcast_ps((const __m128 *)line_row), digits));
        } else {
            quad = _mm256_add_ps(quad, _mm256_permutevar8x32_ps(_mm256_loadu_ps(quad_row), digits));
            line = _mm256_add_ps(line, _mm256_permutevar8x32_ps(_mm256_loadu_ps(line_row), digits));
        }
    }
#endif
    lanes_store(quads, (lanes)quad);
    lanes_store(lines, (lanes)line);
}
#else
QUANTCORE_INLINE void quantcore_set_lines(
    const quantcore_line_terms *terms, const uint16_t *near, int n_digits, float *quads, float *lines
) {
    const int width = n_digits == 8 ? 2 : 3, stride = n_digits == 8 ? 4 : 8;
    for (int j = 0; j < VECTOR_LANES; j++) {
        uint32_t code = near[j];
        quantcore_two sum = n_digits == 8 ? terms->firsts[code & 63] : terms->pairs[code & (stride - 1)];
        for (int i = n_digits == 8 ? 3 : 1; i < n_digits; i++)
            sum += terms->pairs[stride * i + (code >> width * i & (stride - 1))];
        quads[j] = sum[0];
        lines[j] = sum[1];
    }
}
#endif

/* A group's nearest of n points at the scales of the lanes, of which `ours` are wanted, a bit for each. */
QUANTCORE_INLINE int_lanes quantcore_nearest_points(
    const float *x, const float *roots, lanes scales, uint32_t ours, const float *quads, const float *lines,
    float margin, const uint16_t *near, int n, int n_digits, int *failed
) {
    lanes least = lanes_of(FLT_MAX), next = least;
    int_lanes points = {0};
    uint32_t doubtful = ours;
    if (margin > 0.0f) {
        for (int j = 0; j < n; j++) {
            lanes height = scales * quads[j] - lines[j];
            next = lanes_least(lanes_greatest(height, least), next);
            lanes_keep_least(height, ints_of(near[j]), &least, &points);
        }
        doubtful &= ~mask_bits(lanes_above(next, least + margin));
    }
    for (; doubtful; doubtful &= doubtful - 1) {
        float terms[QUANTCORE_MOST_TERMS];
        int lane = __builtin_ctz(doubtful);
        quantcore_terms_at(x, roots, scales[lane], n_digits, terms);
        points[lane] = (int32_t)quantcore_nearest_point(terms, near, n, n_digits, failed);
    }
    return points;
}

#endif
