/* lane_bits.h: lanes as bits of an integer, and what else searches in lanes need beyond vectors.h. */
#ifndef QUANTCORE_LANE_BITS_H
#define QUANTCORE_LANE_BITS_H
#include "vectors.h"

#define QUANTCORE_INLINE static inline __attribute__((always_inline))

QUANTCORE_INLINE int_lanes ints_load(const int32_t *x) {
    int_lanes a;
    memcpy(&a, x, sizeof a);
    return a;
}

QUANTCORE_INLINE lanes ints_to_lanes(int_lanes a) { return __builtin_convertvector(a, lanes); }

QUANTCORE_INLINE int_lanes lane_numbers(void) {
    int_lanes numbers;
    for (int i = 0; i < VECTOR_LANES; i++) numbers[i] = i;
    return numbers;
}

/* A bit for each lane that is negative, the first lane's lowest. */
QUANTCORE_INLINE uint32_t sign_bits(int_lanes a) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    return _mm512_movepi32_mask((__m512i)a);
#elif defined(__AVX2__)
    return (uint32_t)_mm256_movemask_ps((__m256)a);
#elif defined(__SSE4_1__)
    return (uint32_t)_mm_movemask_ps((__m128)a);
#else
    return (uint32_t)((a[0] < 0) | (a[1] < 0) << 1 | (a[2] < 0) << 2 | (a[3] < 0) << 3);
#endif
}

QUANTCORE_INLINE uint32_t mask_bits(lane_mask mask) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    return mask;
#else
    return sign_bits((int_lanes)mask);
#endif
}

/* Where x is smaller than *least, it becomes *least, and `code` becomes *codes. NaN is never smaller. */
QUANTCORE_INLINE void lanes_keep_least(lanes x, int_lanes code, lanes *least, int_lanes *codes) {
    lane_mask is_less = lanes_above(*least, x);
    *codes = (int_lanes)lanes_chosen(is_less, (lanes)code, (lanes)*codes);
    *least = lanes_least(x, *least);
}

#endif
