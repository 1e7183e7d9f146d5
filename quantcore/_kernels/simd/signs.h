/* signs.h: what Q1_0 takes from its values: one bit each, by the instructions that collect the results of a comparison,
 * and the sums of magnitudes of several rows at once, each in the order of its elements. */
#ifndef QUANTCORE_SIGNS_H
#define QUANTCORE_SIGNS_H
#include "vectors.h"

enum { SUMMED_ROWS = 16 };

/* Eight values to a byte, the first one lowest: 1 for 0, -0 and what is above. */
static inline uint8_t quantcore_signs8(const float *x) {
#if defined(__AVX__)
    return (uint8_t)_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x), _mm256_setzero_ps(), _CMP_GE_OQ));
#elif defined(__SSE4_1__)
    int low = _mm_movemask_ps(_mm_cmpge_ps(_mm_loadu_ps(x), _mm_setzero_ps()));
    int high = _mm_movemask_ps(_mm_cmpge_ps(_mm_loadu_ps(x + 4), _mm_setzero_ps()));
    return (uint8_t)(low | high << 4);
#else
    uint8_t bits = 0;
    for (int j = 0; j < 8; j++) bits |= (uint8_t)((x[j] >= 0) << j);
    return bits;
#endif
}

/* Of 1 to SUMMED_ROWS rows of n (a multiple of 4) values. `sums` has room for SUMMED_ROWS. */
static inline void quantcore_sum_magnitudes(const float *x, int64_t rows, int64_t n, float *sums) {
    typedef int32_t four_ints __attribute__((vector_size(16)));
    quantcore_four total[SUMMED_ROWS / 4] = {{0}}, a[4], b[4];
    const float *from[SUMMED_ROWS];
    /* Instead of rows beyond, the last one is added again. */
    for (int r = 0; r < SUMMED_ROWS; r++) from[r] = x + (r < rows ? r : rows - 1) * n;
    for (int64_t i = 0; i < n; i += 4)
        for (int quad = 0; quad < SUMMED_ROWS / 4; quad++) {
            for (int k = 0; k < 4; k++) memcpy(a + k, from[4 * quad + k] + i, 16);
            quantcore_transpose4(a, b);
            for (int k = 0; k < 4; k++) total[quad] += (quantcore_four)((four_ints)b[k] & INT32_MAX);
        }
    memcpy(sums, total, sizeof total);
}

#endif
