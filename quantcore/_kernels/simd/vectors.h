/* vectors.h: float32 vectors of a level's own width, in whose lanes blocks are worked on side by side. Arithmetic is
 * that of the vector types of GNU C; what they do not express well (minima, choices) is here. Nothing is contracted or
 * reordered, so that a lane computes what a scalar would. */
#ifndef QUANTCORE_VECTORS_H
#define QUANTCORE_VECTORS_H
#include <stdint.h>
#include <string.h>

#include "shuffle.h"

#if defined(__SSE4_1__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__)
enum { VECTOR_LANES = 16 };
typedef float lanes __attribute__((vector_size(64)));
typedef int32_t int_lanes __attribute__((vector_size(64)));
typedef __mmask16 lane_mask;
static inline lanes lanes_of(float x) { return _mm512_set1_ps(x); }
static inline lanes lanes_load(const float *x) { return _mm512_loadu_ps(x); }
static inline void lanes_store(float *x, lanes a) { _mm512_storeu_ps(x, a); }
/* b where either is NaN, as the instructions have it. */
static inline lanes lanes_least(lanes a, lanes b) { return _mm512_min_ps(a, b); }
static inline lanes lanes_greatest(lanes a, lanes b) { return _mm512_max_ps(a, b); }
static inline lanes lanes_magnitude(lanes a) { return _mm512_abs_ps(a); }
static inline lanes lanes_root(lanes a) { return _mm512_sqrt_ps(a); }
static inline lane_mask lanes_above(lanes a, lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
static inline lane_mask lanes_differ(lanes a, lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ); }
static inline lane_mask lanes_both(lane_mask a, lane_mask b) { return a & b; }
static inline lane_mask lanes_either(lane_mask a, lane_mask b) { return a | b; }
static inline lane_mask lanes_not(lane_mask a) { return (lane_mask)~a; }
static inline int lanes_any(lane_mask a) { return a != 0; }
static inline lanes lanes_chosen(lane_mask m, lanes a, lanes b) { return _mm512_mask_blend_ps(m, b, a); }
/* a - b where the mask is set, else a. */
static inline lanes lanes_less_where(lane_mask m, lanes a, lanes b) { return _mm512_mask_sub_ps(a, m, a, b); }
static inline int_lanes lanes_bits(lanes a) { return (int_lanes)_mm512_castps_si512(a); }
static inline int_lanes ints_of(int32_t x) { return (int_lanes)_mm512_set1_epi32(x); }
static inline int_lanes ints_least(int_lanes a, int_lanes b) {
    return (int_lanes)_mm512_min_epi32((__m512i)a, (__m512i)b);
}
static inline int_lanes ints_greatest(int_lanes a, int_lanes b) {
    return (int_lanes)_mm512_max_epi32((__m512i)a, (__m512i)b);
}
static inline void ints_store(int32_t *x, int_lanes a) { _mm512_storeu_si512(x, (__m512i)a); }
#elif defined(__AVX2__)
enum { VECTOR_LANES = 8 };
typedef float lanes __attribute__((vector_size(32)));
typedef int32_t int_lanes __attribute__((vector_size(32)));
typedef lanes lane_mask;
static inline lanes lanes_of(float x) { return _mm256_set1_ps(x); }
static inline lanes lanes_load(const float *x) { return _mm256_loadu_ps(x); }
static inline void lanes_store(float *x, lanes a) { _mm256_storeu_ps(x, a); }
static inline lanes lanes_least(lanes a, lanes b) { return _mm256_min_ps(a, b); }
static inline lanes lanes_greatest(lanes a, lanes b) { return _mm256_max_ps(a, b); }
static inline lanes lanes_magnitude(lanes a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
static inline lanes lanes_root(lanes a) { return _mm256_sqrt_ps(a); }
static inline lane_mask lanes_above(lanes a, lanes b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
static inline lane_mask lanes_differ(lanes a, lanes b) { return _mm256_cmp_ps(a, b, _CMP_NEQ_UQ); }
static inline lane_mask lanes_both(lane_mask a, lane_mask b) { return _mm256_and_ps(a, b); }
static inline lane_mask lanes_either(lane_mask a, lane_mask b) { return _mm256_or_ps(a, b); }
static inline lane_mask lanes_not(lane_mask a) { return (lane_mask)~(int_lanes)a; }
static inline int lanes_any(lane_mask a) { return _mm256_movemask_ps(a) != 0; }
static inline lanes lanes_chosen(lane_mask m, lanes a, lanes b) { return _mm256_blendv_ps(b, a, m); }
static inline lanes lanes_less_where(lane_mask m, lanes a, lanes b) { return a - (lanes)_mm256_and_ps(m, b); }
static inline int_lanes lanes_bits(lanes a) { return (int_lanes)_mm256_castps_si256(a); }
static inline int_lanes ints_of(int32_t x) { return (int_lanes)_mm256_set1_epi32(x); }
static inline int_lanes ints_least(int_lanes a, int_lanes b) {
    return (int_lanes)_mm256_min_epi32((__m256i)a, (__m256i)b);
}
static inline int_lanes ints_greatest(int_lanes a, int_lanes b) {
    return (int_lanes)_mm256_max_epi32((__m256i)a, (__m256i)b);
}
static inline void ints_store(int32_t *x, int_lanes a) { _mm256_storeu_si256((__m256i *)x, (__m256i)a); }
#elif defined(__SSE4_1__)
enum { VECTOR_LANES = 4 };
typedef float lanes __attribute__((vector_size(16)));
typedef int32_t int_lanes __attribute__((vector_size(16)));
typedef lanes lane_mask;
static inline lanes lanes_of(float x) { return _mm_set1_ps(x); }
static inline lanes lanes_load(const float *x) { return _mm_loadu_ps(x); }
static inline void lanes_store(float *x, lanes a) { _mm_storeu_ps(x, a); }
static inline lanes lanes_least(lanes a, lanes b) { return _mm_min_ps(a, b); }
static inline lanes lanes_greatest(lanes a, lanes b) { return _mm_max_ps(a, b); }
static inline lanes lanes_magnitude(lanes a) { return _mm_andnot_ps(_mm_set1_ps(-0.0f), a); }
static inline lanes lanes_root(lanes a) { return _mm_sqrt_ps(a); }
static inline lane_mask lanes_above(lanes a, lanes b) { return _mm_cmpgt_ps(a, b); }
static inline lane_mask lanes_differ(lanes a, lanes b) { return _mm_cmpneq_ps(a, b); }
static inline lane_mask lanes_both(lane_mask a, lane_mask b) { return _mm_and_ps(a, b); }
static inline lane_mask lanes_either(lane_mask a, lane_mask b) { return _mm_or_ps(a, b); }
static inline lane_mask lanes_not(lane_mask a) { return (lane_mask)~(int_lanes)a; }
static inline int lanes_any(lane_mask a) { return _mm_movemask_ps(a) != 0; }
static inline lanes lanes_chosen(lane_mask m, lanes a, lanes b) { return _mm_blendv_ps(b, a, m); }
static inline lanes lanes_less_where(lane_mask m, lanes a, lanes b) { return a - (lanes)_mm_and_ps(m, b); }
static inline int_lanes lanes_bits(lanes a) { return (int_lanes)_mm_castps_si128(a); }
static inline int_lanes ints_of(int32_t x) { return (int_lanes)_mm_set1_epi32(x); }
static inline int_lanes ints_least(int_lanes a, int_lanes b) {
    return (int_lanes)_mm_min_epi32((__m128i)a, (__m128i)b);
}
static inline int_lanes ints_greatest(int_lanes a, int_lanes b) {
    return (int_lanes)_mm_max_epi32((__m128i)a, (__m128i)b);
}
static inline void ints_store(int32_t *x, int_lanes a) { _mm_storeu_si128((__m128i *)x, (__m128i)a); }
#else
#include <math.h>
enum { VECTOR_LANES = 4 };
typedef float lanes __attribute__((vector_size(16)));
typedef int32_t int_lanes __attribute__((vector_size(16)));
typedef int_lanes lane_mask;
static inline lanes lanes_of(float x) { return (lanes){x, x, x, x}; }
static inline lanes lanes_load(const float *x) {
    lanes a;
    memcpy(&a, x, sizeof a);
    return a;
}
static inline void lanes_store(float *x, lanes a) { memcpy(x, &a, sizeof a); }
static inline lanes lanes_chosen(lane_mask m, lanes a, lanes b) {
    return (lanes)(((int_lanes)a & m) | ((int_lanes)b & ~m));
}
static inline lanes lanes_less_where(lane_mask m, lanes a, lanes b) { return a - (lanes)((int_lanes)b & m); }
static inline lane_mask lanes_above(lanes a, lanes b) { return a > b; }
static inline lane_mask lanes_differ(lanes a, lanes b) { return a != b; }
static inline lane_mask lanes_both(lane_mask a, lane_mask b) { return a & b; }
static inline lane_mask lanes_either(lane_mask a, lane_mask b) { return a | b; }
static inline lane_mask lanes_not(lane_mask a) { return (lane_mask)~a; }
static inline int lanes_any(lane_mask a) { return (a[0] | a[1] | a[2] | a[3]) != 0; }
static inline lanes lanes_least(lanes a, lanes b) { return lanes_chosen(a < b, a, b); }
static inline lanes lanes_greatest(lanes a, lanes b) { return lanes_chosen(a > b, a, b); }
static inline lanes lanes_magnitude(lanes a) { return (lanes)((int_lanes)a & INT32_MAX); }
static inline lanes lanes_root(lanes a) { return (lanes){sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])}; }
static inline int_lanes lanes_bits(lanes a) { return (int_lanes)a; }
static inline int_lanes ints_of(int32_t x) { return (int_lanes){x, x, x, x}; }
static inline int_lanes ints_least(int_lanes a, int_lanes b) { return (a & (a < b)) | (b & ~(a < b)); }
static inline int_lanes ints_greatest(int_lanes a, int_lanes b) { return (a & (a > b)) | (b & ~(a > b)); }
static inline void ints_store(int32_t *x, int_lanes a) { memcpy(x, &a, sizeof a); }
#endif

/* 1.5 * 2^23: sums with it are integers, rounded half to even, as long as the other addend is below 2^22. */
#define QUANTCORE_ROUNDER 12582912.0f

static inline lanes lanes_rounded(lanes a) { return (a + lanes_of(QUANTCORE_ROUNDER)) - lanes_of(QUANTCORE_ROUNDER); }

/* The same as an integer; beyond 2^22, and for NaN, what the mantissa of the sum says (ggml's result as well). */
static inline int_lanes lanes_rounded_bits(lanes a) {
    return (lanes_bits(a + lanes_of(QUANTCORE_ROUNDER)) & ints_of(0x7FFFFF)) - ints_of(0x400000);
}

static inline int32_t quantcore_nearest(float x) {
    float sum = x + QUANTCORE_ROUNDER;
    int32_t bits;
    memcpy(&bits, &sum, 4);
    return (bits & 0x7FFFFF) - 0x400000;
}

/* Four rows of four numbers become their columns. */
typedef float quantcore_four __attribute__((vector_size(16)));
typedef int32_t quantcore_four_places __attribute__((vector_size(16)));

static inline void quantcore_transpose4(const quantcore_four *rows, quantcore_four *columns) {
    quantcore_four ab = QUANTCORE_SHUFFLE(quantcore_four_places, rows[0], rows[1], 0, 4, 1, 5);
    quantcore_four cd = QUANTCORE_SHUFFLE(quantcore_four_places, rows[2], rows[3], 0, 4, 1, 5);
    quantcore_four ab_end = QUANTCORE_SHUFFLE(quantcore_four_places, rows[0], rows[1], 2, 6, 3, 7);
    quantcore_four cd_end = QUANTCORE_SHUFFLE(quantcore_four_places, rows[2], rows[3], 2, 6, 3, 7);
    columns[0] = QUANTCORE_SHUFFLE(quantcore_four_places, ab, cd, 0, 1, 4, 5);
    columns[1] = QUANTCORE_SHUFFLE(quantcore_four_places, ab, cd, 2, 3, 6, 7);
    columns[2] = QUANTCORE_SHUFFLE(quantcore_four_places, ab_end, cd_end, 0, 1, 4, 5);
    columns[3] = QUANTCORE_SHUFFLE(quantcore_four_places, ab_end, cd_end, 2, 3, 6, 7);
}

#endif
