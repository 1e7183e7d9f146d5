/* fit_lanes.h: vectors of float32, as wide as the CPU level has them, for searches with a sub-block or a super-block in
 * each lane. Comparisons give masks: all bits of a lane, or none. */
#ifndef QUANTCORE_FIT_LANES_H
#define QUANTCORE_FIT_LANES_H
#include <stdint.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define FIT_LANES 16
#elif defined(__AVX2__)
#define FIT_LANES 8
#else
#define FIT_LANES 4
#endif

typedef float fit_floats __attribute__((vector_size(4 * FIT_LANES)));
typedef int32_t fit_ints __attribute__((vector_size(4 * FIT_LANES)));

static inline fit_floats fit_all(float value) { return value - (fit_floats){0}; }
static inline fit_floats fit_load(const float *x) { return *(const fit_floats *)x; }
static inline void fit_store(float *x, fit_floats a) { *(fit_floats *)x = a; }

static inline fit_floats fit_select(fit_ints mask, fit_floats a, fit_floats b) {
    return (fit_floats)((mask & (fit_ints)a) | (~mask & (fit_ints)b));
}

#if FIT_LANES == 16
static inline fit_floats fit_greater(fit_floats a, fit_floats b) { return _mm512_max_ps(a, b); }
static inline fit_floats fit_lesser(fit_floats a, fit_floats b) { return _mm512_min_ps(a, b); }
static inline int fit_any(fit_ints mask) { return _mm512_movepi32_mask((__m512i)mask) != 0; }
#elif FIT_LANES == 8
static inline fit_floats fit_greater(fit_floats a, fit_floats b) { return _mm256_max_ps(a, b); }
static inline fit_floats fit_lesser(fit_floats a, fit_floats b) { return _mm256_min_ps(a, b); }
static inline int fit_any(fit_ints mask) { return _mm256_movemask_ps((__m256)mask) != 0; }
#elif defined(__SSE2__)
static inline fit_floats fit_greater(fit_floats a, fit_floats b) { return _mm_max_ps(a, b); }
static inline fit_floats fit_lesser(fit_floats a, fit_floats b) { return _mm_min_ps(a, b); }
static inline int fit_any(fit_ints mask) { return _mm_movemask_ps((__m128)mask) != 0; }
#else
/* The second one if they are equal or one is a NaN, as x86 has it. */
static inline fit_floats fit_greater(fit_floats a, fit_floats b) { return fit_select(a > b, a, b); }
static inline fit_floats fit_lesser(fit_floats a, fit_floats b) { return fit_select(a < b, a, b); }
static inline int fit_any(fit_ints mask) { return (mask[0] | mask[1] | mask[2] | mask[3]) != 0; }
#endif

static inline fit_floats fit_magnitude(fit_floats a) { return (fit_floats)((fit_ints)a & INT32_MAX); }

#endif
