/* narrow.h: int32 codes to bytes. A loop of casts vectorises everywhere, but to a chain of shuffles; AVX-512 has one
 * instruction for it, which gcc does not choose by itself. */
#ifndef QUANTCORE_NARROW_H
#define QUANTCORE_NARROW_H
#include <stdint.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

/* n is a constant and a multiple of 16. */
static inline void quantcore_narrow(const int32_t *codes, int n, uint8_t *bytes) {
#if defined(__AVX512F__)
    for (int j = 0; j < n; j += 16)
        _mm_storeu_si128((__m128i *)(bytes + j), _mm512_cvtepi32_epi8(_mm512_loadu_si512(codes + j)));
#else
    for (int j = 0; j < n; j++) bytes[j] = (uint8_t)codes[j];
#endif
}

#endif
