/* nibbles.h: coding and decoding of 4-bit codes with the permutations and widenings of AVX2 and AVX-512.
 *
 * Coding is a search over 15 midpoints, laid out as a binary tree: node k has its children at 2k and 2k+1, the leaves are
 * 16 to 31, so the code is the leaf less 16 after four steps of "twice the node, and one more if x is greater". A register
 * holds the tree (AVX-512) or half of it (AVX2), and one permutation looks up all lanes' nodes. Decoding is a look-up in a
 * table of 16 floats. Every path computes the same comparisons and products, so the bytes are the same.
 * pair32, search32 and lookup32 have two codes to a byte, the first one high; centred32 is GGUF's order (element j low, j + 16 high)
 * and the value code - 8. No pointers overlap. */
#ifndef QUANTCORE_NIBBLES_H
#define QUANTCORE_NIBBLES_H
#include <stdint.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

enum { QUANTCORE_GROUP = 32 }; /* elements that are searched together */

/* The code of sorted value q of the FP4 table, which orders its magnitudes 0 .0052 .1667 .25 .333 .5 .667 1 as 0 1 6 7 4 5
 * 2 3 and has both 7 and 8 at zero: codes 0 and 8. */
static inline int32_t quantcore_fp4_code(int32_t q) {
    int32_t magnitude = q <= 7 ? 7 - q : q - 8;
    int32_t sign = (q < 7) | (q == 8);
    return (magnitude ^ ((magnitude & 2) << 1)) | sign << 3;
}

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)

static inline __m512i quantcore_search16(const float *x, __m512 inverse, __m512 tree, int is_fp4) {
    const __m512i one = _mm512_set1_epi32(1);
    __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x), inverse);
    __m512i node = one;
    for (int level = 0; level < 4; level++) {
        __m512 midpoint = _mm512_permutexvar_ps(node, tree);
        __mmask16 is_greater = _mm512_cmp_ps_mask(v, midpoint, _CMP_GT_OQ);
        node = _mm512_add_epi32(node, node);
        node = _mm512_mask_add_epi32(node, is_greater, node, one);
    }
    __m512i q = _mm512_sub_epi32(node, _mm512_set1_epi32(16));
    if (!is_fp4) return q;
    const __m512i codes = _mm512_setr_epi32(11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3);
    return _mm512_permutexvar_epi32(q, codes);
}

static inline void quantcore_pair16(__m512i code, uint8_t *out) {
    __m512i pair = _mm512_or_si512(_mm512_slli_epi32(code, 4), _mm512_srli_epi64(code, 32));
    _mm_storel_epi64((__m128i *)out, _mm512_cvtepi64_epi8(pair));
}

static inline void quantcore_pair32(const int32_t *codes, uint8_t *out) {
    quantcore_pair16(_mm512_loadu_si512(codes), out);
    quantcore_pair16(_mm512_loadu_si512(codes + 16), out + 8);
}

static inline void quantcore_search32(const float *x, float inverse, const float *tree, int is_fp4, uint8_t *out) {
    __m512 wide_inverse = _mm512_set1_ps(inverse), wide_tree = _mm512_loadu_ps(tree);
    quantcore_pair16(quantcore_search16(x, wide_inverse, wide_tree, is_fp4), out);
    quantcore_pair16(quantcore_search16(x + 16, wide_inverse, wide_tree, is_fp4), out + 8);
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

static inline __m256i quantcore_search8(const float *x, __m256 inverse, __m256 upper, __m256 lowest, int is_fp4) {
    __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x), inverse);
    __m256i node = _mm256_set1_epi32(1);
    for (int level = 0; level < 4; level++) {
        __m256 midpoint = _mm256_permutevar8x32_ps(level < 3 ? upper : lowest, node);
        __m256i is_greater = _mm256_castps_si256(_mm256_cmp_ps(v, midpoint, _CMP_GT_OQ));
        node = _mm256_sub_epi32(_mm256_add_epi32(node, node), is_greater);
    }
    __m256i q = _mm256_sub_epi32(node, _mm256_set1_epi32(16));
    if (!is_fp4) return q;
    const __m256i codes = _mm256_setr_epi8(11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3,
                                           11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3);
    return _mm256_and_si256(_mm256_shuffle_epi8(codes, q), _mm256_set1_epi32(15));
}

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

static inline void quantcore_search32(const float *x, float inverse, const float *tree, int is_fp4, uint8_t *out) {
    __m256 wide_inverse = _mm256_set1_ps(inverse), upper = _mm256_loadu_ps(tree), lowest = _mm256_loadu_ps(tree + 8);
    int32_t codes[QUANTCORE_GROUP];
    for (int part = 0; part < 4; part++) {
        __m256i code = quantcore_search8(x + 8 * part, wide_inverse, upper, lowest, is_fp4);
        _mm256_storeu_si256((__m256i *)(codes + 8 * part), code);
    }
    quantcore_pair32(codes, out);
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

/* Without permutations of floats: the code is the number of midpoints below x, counted; this loop vectorises anywhere. */
static inline void quantcore_search32(const float *x, float inverse, const float *tree, int is_fp4, uint8_t *out) {
    int32_t codes[QUANTCORE_GROUP];
    for (int j = 0; j < QUANTCORE_GROUP; j++) {
        float v = x[j] * inverse;
        int32_t q = 0;
        q += (v > tree[1]) + (v > tree[2]) + (v > tree[3]) + (v > tree[4]) + (v > tree[5]);
        q += (v > tree[6]) + (v > tree[7]) + (v > tree[8]) + (v > tree[9]) + (v > tree[10]);
        q += (v > tree[11]) + (v > tree[12]) + (v > tree[13]) + (v > tree[14]) + (v > tree[15]);
        codes[j] = is_fp4 ? quantcore_fp4_code(q) : q;
    }
    quantcore_pair32(codes, out);
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
