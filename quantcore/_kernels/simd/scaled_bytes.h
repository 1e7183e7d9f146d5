/* scaled_bytes.h: y = scale * code - minimum of codes that are bytes, by the instructions that widen while they load; a
 * loop of casts vectorises everywhere, but to more shuffles. */
#ifndef QUANTCORE_SCALED_BYTES_H
#define QUANTCORE_SCALED_BYTES_H
#include <stdint.h>
#include <string.h>

#if defined(__SSE4_1__)
#include <immintrin.h>
#endif

/* n is a constant and a multiple of 16. */
static inline void quantcore_scale_bytes(const uint8_t *codes, const int n, float scale, float minimum, float *y) {
#if defined(__AVX512F__)
    const __m512 d = _mm512_set1_ps(scale), m = _mm512_set1_ps(minimum);
    for (int i = 0; i < n; i += 16) {
        __m512 code = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(codes + i))));
        _mm512_storeu_ps(y + i, _mm512_sub_ps(_mm512_mul_ps(d, code), m));
    }
#elif defined(__AVX2__)
    const __m256 d = _mm256_set1_ps(scale), m = _mm256_set1_ps(minimum);
    for (int i = 0; i < n; i += 8) {
        __m256 code = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(codes + i))));
        _mm256_storeu_ps(y + i, _mm256_sub_ps(_mm256_mul_ps(d, code), m));
    }
#elif defined(__SSE4_1__)
    const __m128 d = _mm_set1_ps(scale), m = _mm_set1_ps(minimum);
    for (int i = 0; i < n; i += 4) {
        int32_t four;
        memcpy(&four, codes + i, 4);
        __m128 code = _mm_cvtepi32_ps(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(four)));
        _mm_storeu_ps(y + i, _mm_sub_ps(_mm_mul_ps(d, code), m));
    }
#else
    for (int i = 0; i < n; i++) y[i] = scale * (float)codes[i] - minimum;
#endif
}

#endif
