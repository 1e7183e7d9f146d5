/* sums.h: the sums of errors.pxd over whole stripes, in exactly the order written there, as a loop over lanes gives them,
 * with three optimisations that gcc does not make. Floats are widened by the instruction that loads them (gcc loads a
 * whole register and takes it apart); a few lanes' sums stay in registers over all stripes; and products that are
 * exact, those of two floats, are added by a fused multiply-add, which then rounds no differently. */
#ifndef QUANTCORE_SUMS_H
#define QUANTCORE_SUMS_H
#include <stdint.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define WIDTH 8
typedef __m512d doubles;
static inline doubles load(const double *x) { return _mm512_loadu_pd(x); }
static inline doubles widened(const float *x) { return _mm512_cvtps_pd(_mm256_loadu_ps(x)); }
static inline void store(double *x, doubles a) { _mm512_storeu_pd(x, a); }
static inline doubles magnitude(doubles a) { return _mm512_abs_pd(a); }
static inline doubles greater(doubles a, doubles b) { return _mm512_max_pd(a, b); }
#elif defined(__AVX__)
#define WIDTH 4
typedef __m256d doubles;
static inline doubles load(const double *x) { return _mm256_loadu_pd(x); }
static inline doubles widened(const float *x) { return _mm256_cvtps_pd(_mm_loadu_ps(x)); }
static inline void store(double *x, doubles a) { _mm256_storeu_pd(x, a); }
static inline doubles magnitude(doubles a) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), a); }
static inline doubles greater(doubles a, doubles b) { return _mm256_max_pd(a, b); }
#elif defined(__SSE2__)
#define WIDTH 2
typedef __m128d doubles;
static inline doubles load(const double *x) { return _mm_loadu_pd(x); }
static inline doubles widened(const float *x) {
    return _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)x)));
}
static inline void store(double *x, doubles a) { _mm_storeu_pd(x, a); }
static inline doubles magnitude(doubles a) { return _mm_andnot_pd(_mm_set1_pd(-0.0), a); }
static inline doubles greater(doubles a, doubles b) { return _mm_max_pd(a, b); }
#else
#include <string.h>
#define WIDTH 2
typedef double doubles __attribute__((vector_size(16)));
typedef int64_t masks __attribute__((vector_size(16)));
static inline doubles load(const double *x) {
    doubles a;
    memcpy(&a, x, sizeof a);
    return a;
}
static inline doubles widened(const float *x) { return (doubles){x[0], x[1]}; }
static inline void store(double *x, doubles a) { memcpy(x, &a, sizeof a); }
static inline doubles magnitude(doubles a) { return (doubles)((masks)a & INT64_MAX); }
static inline doubles greater(doubles a, doubles b) {
    masks choice = a > b;
    return (doubles)(((masks)a & choice) | ((masks)b & ~choice));
}
#endif

/* a * b + c: rounded once, but the same if a * b is exact. */
static inline doubles plus_exact(doubles a, doubles b, doubles c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_pd(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_pd(a, b, c);
#else
    return a * b + c;
#endif
}

static inline doubles plus_rounded(doubles a, doubles b, doubles c) { return a * b + c; }

/* n elements, in stripes of four rows of `lanes`. `sums` has rows of `lanes` too: the sums of x**2, y**2, x * y,
 * (x - y)**2 and |x - y|, and the largest |x - y|. */
#define ADD_STRIPES(name, real, get, plus)                                                                           \
    static inline void name(const real *x, const real *y, int64_t n, int lanes, double *sums) {                      \
        for (int j = 0; j < lanes; j += WIDTH) {                                                                     \
            double *lane = sums + j;                                                                                 \
            doubles xx = load(lane), yy = load(lane + lanes), xy = load(lane + 2 * lanes);                           \
            doubles dd = load(lane + 3 * lanes), sum = load(lane + 4 * lanes), largest = load(lane + 5 * lanes);     \
            for (int64_t i = j; i < n; i += 4 * lanes) {                                                             \
                doubles x0 = get(x + i), x1 = get(x + i + lanes);                                                    \
                doubles x2 = get(x + i + 2 * lanes), x3 = get(x + i + 3 * lanes);                                    \
                doubles y0 = get(y + i), y1 = get(y + i + lanes);                                                    \
                doubles y2 = get(y + i + 2 * lanes), y3 = get(y + i + 3 * lanes);                                    \
                xx += plus(x0, x0, x1 * x1) + plus(x2, x2, x3 * x3);                                                 \
                yy += plus(y0, y0, y1 * y1) + plus(y2, y2, y3 * y3);                                                 \
                xy += plus(x0, y0, x1 * y1) + plus(x2, y2, x3 * y3);                                                 \
                x0 = magnitude(x0 - y0), x1 = magnitude(x1 - y1);                                                    \
                x2 = magnitude(x2 - y2), x3 = magnitude(x3 - y3);                                                    \
                dd += (x0 * x0 + x1 * x1) + (x2 * x2 + x3 * x3);                                                     \
                sum += (x0 + x1) + (x2 + x3);                                                                        \
                largest = greater(greater(greater(x0, x1), greater(x2, x3)), largest);                               \
            }                                                                                                        \
            store(lane, xx), store(lane + lanes, yy), store(lane + 2 * lanes, xy);                                   \
            store(lane + 3 * lanes, dd), store(lane + 4 * lanes, sum), store(lane + 5 * lanes, largest);             \
        }                                                                                                            \
    }

ADD_STRIPES(quantcore_add_floats, float, widened, plus_exact)
ADD_STRIPES(quantcore_add_doubles, double, load, plus_rounded)

#undef ADD_STRIPES
#undef WIDTH
#endif
