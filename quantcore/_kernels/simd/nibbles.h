/* nibbles.h: packing of 4-bit codes and their decoding with the permutations and widenings of AVX2 and AVX-512.
 *
 * Decoding is a look-up in a table of 16 floats. Every path computes the same products, so the values are the same.
 * pair32 and lookup32 have two codes per byte, the first one high; centred32 is GGUF's order (element j low, j + 16
 * high) and the value code - 8. No pointers overlap. */
#ifndef QUANTCORE_NIBBLES_H
#define QUANTCORE_NIBBLES_H
#include <stdint.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

enum { QUANTCORE_GROUP = 32 }; /* elements that are coded and decoded together */

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)

static inline void quantcore_pair16(__m512i code, uint8_t *out) {
    __m512i pair = _mm512_or_si512(_mm512_slli_epi32(code, 4), _mm512_srli_epi64(code, 32));
    _mm_storel_epi64((__m128i *)out, _mm512_cvtepi64_epi8(pair));
}

static inline void quantcore_pair32(const int32_t *codes, uint8_t *out) {
    quantcore_pair16(_mm512_loadu_si512(codes), out);
    quantcore_pair16(_mm512_loadu_si512(codes + 16), out + 8);
}

static inline void quantcore_lookup32(const uint8_t *data, float scale, const float *table, float *y) {
    __m512 wide_scale = _mm512_set1_ps(scale), wide_table = _mm512_loadu_ps(table);
    __m128i bytes = _mm_loadu_si128((const __m128i *)data);
    __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15));
    __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
    __m512i first = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(high, low));
    __m512i second = _mm512_cvtepu8_epi32(_mm_unpackhi_epi8(high, low));
    _mm512_storeu_ps(y, _mm512_mul_ps(_mm512_permutexvar_ps(first, wide_table), wide_scale));
    _mm512_storeu_ps(y + 16, _mm512_mul_ps(_mm512_permutexvar_ps(second, wide_table), wide_scale));
}

static inline void quantcore_centred32(const uint8_t *data, float scale, float *y) {
    __m512 wide_scale = _mm512_set1_ps(scale);
    __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)data)), eight = _mm512_set1_epi32(8);
    __m512i low = _mm512_sub_epi32(_mm512_and_si512(codes, _mm512_set1_epi32(15)), eight);
    __m512i high = _mm512_sub_epi32(_mm512_srli_epi32(codes, 4), eight);
    _mm512_storeu_ps(y, _mm512_mul_ps(_mm512_cvtepi32_ps(low), wide_scale));
    _mm512_storeu_ps(y + 16, _mm512_mul_ps(_mm512_cvtepi32_ps(high), wide_scale));
}

#elif defined(__AVX2__)

static inline void quantcore_pair32(const int32_t *codes, uint8_t *out) {
    __m256i bytes = _mm256_setzero_si256();
    for (int part = 0; part < 4; part++) {
        __m256i code = _mm256_loadu_si256((const __m256i *)(codes + 8 * part));
        __m256i pair = _mm256_or_si256(_mm256_slli_epi32(code, 4), _mm256_srli_epi64(code, 32));
        pair = _mm256_and_si256(pair, _mm256_set1_epi64x(255));
        bytes = _mm256_or_si256(bytes, _mm256_slli_epi64(pair, 8 * part));
    }
    /* Byte p of 64-bit lane i belongs to place 4p + i. */
    const __m256i gather = _mm256_setr_epi8(0, 8, -1, -1, 1, 9, -1, -1, 2, 10, -1, -1, 3, 11, -1, -1,
                                            -1, -1, 0, 8, -1, -1, 1, 9, -1, -1, 2, 10, -1, -1, 3, 11);
    bytes = _mm256_shuffle_epi8(bytes, gather);
    _mm_storeu_si128((__m128i *)out,
                     _mm_or_si128(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)));
}

static inline __m256 quantcore_lookup8(__m128i codes, __m256 table, __m256 table_high) {
    __m256i code = _mm256_cvtepu8_epi32(codes);
    __m256 is_high = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table, code), _mm256_permutevar8x32_ps(table_high, code), is_high);
}

static inline void quantcore_lookup32(const uint8_t *data, float scale, const float *table, float *y) {
    __m256 wide_scale = _mm256_set1_ps(scale), low_table = _mm256_loadu_ps(table), high_table = _mm256_loadu_ps(table + 8);
    __m128i bytes = _mm_loadu_si128((const __m128i *)data);
    __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15));
    __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
    __m128i codes[2] = {_mm_unpacklo_epi8(high, low), _mm_unpackhi_epi8(high, low)};
    for (int part = 0; part < 2; part++) {
        __m256 first = quantcore_lookup8(codes[part], low_table, high_table);
        __m256 second = quantcore_lookup8(_mm_srli_si128(codes[part], 8), low_table, high_table);
        _mm256_storeu_ps(y + 16 * part, _mm256_mul_ps(first, wide_scale));
        _mm256_storeu_ps(y + 16 * part + 8, _mm256_mul_ps(second, wide_scale));
    }
}

static inline void quantcore_centred32(const uint8_t *data, float scale, float *y) {
    __m256 wide_scale = _mm256_set1_ps(scale);
    __m256i eight = _mm256_set1_epi32(8), mask = _mm256_set1_epi32(15);
    for (int part = 0; part < 2; part++) {
        __m256i codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(data + 8 * part)));
        __m256i low = _mm256_sub_epi32(_mm256_and_si256(codes, mask), eight);
        __m256i high = _mm256_sub_epi32(_mm256_srli_epi32(codes, 4), eight);
        _mm256_storeu_ps(y + 8 * part, _mm256_mul_ps(_mm256_cvtepi32_ps(low), wide_scale));
        _mm256_storeu_ps(y + 8 * part + 16, _mm256_mul_ps(_mm256_cvtepi32_ps(high), wide_scale));
    }
}

#else

static inline void quantcore_pair32(const int32_t *codes, uint8_t *out) {
    for (int j = 0; j < QUANTCORE_GROUP / 2; j++) out[j] = (uint8_t)(codes[2 * j] << 4 | codes[2 * j + 1]);
}

static inline void quantcore_lookup32(const uint8_t *data, float scale, const float *table, float *y) {
    for (int j = 0; j < QUANTCORE_GROUP / 2; j++) {
        y[2 * j] = table[data[j] >> 4] * scale;
        y[2 * j + 1] = table[data[j] & 15] * scale;
    }
}

static inline void quantcore_centred32(const uint8_t *data, float scale, float *y) {
    int8_t code[QUANTCORE_GROUP];
    for (int j = 0; j < 16; j++) {
        code[j] = (int8_t)((data[j] & 15) - 8);
        code[j + 16] = (int8_t)((data[j] >> 4) - 8);
    }
    for (int j = 0; j < QUANTCORE_GROUP; j++) y[j] = (float)code[j] * scale;
}

#endif
#endif
