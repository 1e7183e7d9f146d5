/* narrow.h: the lowest bytes of int32. A loop of casts vectorises everywhere, but with more shuffles and masks than
 * necessary, and not to the single instruction that AVX-512 has for it. */
#ifndef QUANTCORE_NARROW_H
#define QUANTCORE_NARROW_H
#include <stdint.h>

#if defined(__SSE2__)
#include <immintrin.h>

static inline void quantcore_narrow16(const int32_t *codes, uint8_t *bytes) {
#if defined(__AVX512F__)
    __m128i narrow = _mm512_cvtepi32_epi8(_mm512_loadu_si512(codes));
#else
    const __m128i *part = (const __m128i *)codes;
    const __m128i lowest = _mm_set1_epi32(255);
    __m128i first = _mm_and_si128(_mm_loadu_si128(part), lowest);
    __m128i second = _mm_and_si128(_mm_loadu_si128(part + 1), lowest);
    __m128i third = _mm_and_si128(_mm_loadu_si128(part + 2), lowest);
    __m128i fourth = _mm_and_si128(_mm_loadu_si128(part + 3), lowest);
    __m128i narrow = _mm_packus_epi16(_mm_packs_epi32(first, second), _mm_packs_epi32(third, fourth));
#endif
    _mm_storeu_si128((__m128i *)bytes, narrow);
}

#else

static inline void quantcore_narrow16(const int32_t *codes, uint8_t *bytes) {
    for (int j = 0; j < 16; j++) bytes[j] = (uint8_t)codes[j];
}

#endif

/* n is a constant and a multiple of 16. */
static inline __attribute__((always_inline)) void quantcore_narrow(const int32_t *codes, int n, uint8_t *bytes) {
    int j = 0;
#if defined(__AVX2__) && !defined(__AVX512F__)
    const __m256i lowest = _mm256_set1_epi32(255), order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (; j + 32 <= n; j += 32) {
        const __m256i *part = (const __m256i *)(codes + j);
        __m256i first = _mm256_and_si256(_mm256_loadu_si256(part), lowest);
        __m256i second = _mm256_and_si256(_mm256_loadu_si256(part + 1), lowest);
        __m256i third = _mm256_and_si256(_mm256_loadu_si256(part + 2), lowest);
        __m256i fourth = _mm256_and_si256(_mm256_loadu_si256(part + 3), lowest);
        __m256i narrow = _mm256_packus_epi16(_mm256_packs_epi32(first, second), _mm256_packs_epi32(third, fourth));
        _mm256_storeu_si256((__m256i *)(bytes + j), _mm256_permutevar8x32_epi32(narrow, order));
    }
#endif
    for (; j < n; j += 16) quantcore_narrow16(codes + j, bytes + j);
}

#endif
