/* nibble_search.h: the NF4 and FP4 codes of 32 values: x * inverse, a search over 15 midpoints, two codes per byte.
 *
 * A code is the number of midpoints below the value. Instead of comparing with all of them, the value's cell is
 * computed, one of 32 equal parts of its range, so small that at most one midpoint lies in it. The number of midpoints
 * below the cell is looked up, and so is the only one to compare with. Cells only choose the comparison, so their
 * rounding does not affect the result. Values are up to 1 in magnitude, and below 1.5 where the scale was rounded. A
 * pair of registers holds the table of 32 midpoints in AVX-512, one holds 16 bytes at the levels below, which compare
 * in 16 bits first.
 *
 * FP4 has three midpoints about 0, closer than any cell: 0 itself is compared separately. Its sorted values are coded
 * 11 10 13 12 15 14 9 0 8 1 6 7 4 5 2 3: magnitudes 0 .0052 .1667 .25 .333 .5 .667 1 are 0 1 6 7 4 5 2 3, the sign is
 * 8, and what is above 0 and rounds to it is -0, as in bitsandbytes. No pointers overlap. */
#ifndef QUANTCORE_NIBBLE_SEARCH_H
#define QUANTCORE_NIBBLE_SEARCH_H
#include <math.h>
#include <stdint.h>

#if defined(__SSSE3__)
#include <immintrin.h>
#endif

static const uint8_t QUANTCORE_FP4_CODES[16] = {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3};

#if defined(__SSSE3__)

/* The 15 midpoints without the 0 of FP4; returns how many they are. */
static inline int quantcore_searched(const float *midpoints, int is_fp4, float *searched) {
    int n = 0;
    for (int k = 0; k < 15; k++)
        if (!is_fp4 || k != 7) searched[n++] = midpoints[k];
    return n;
}

#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)

/* 32 cells of 1/13, counted modulo 32: 24 of them hold the midpoints, with at most one each. The other 8 belong to the
 * values from 12/13 to 20/13 and from -20/13 to -12/13 both, which 0 separates. Both codes of a cell are looked up
 * together, at the places that they have in the result: the first of a pair in bits 4 to 7, the second one in bits 16
 * to 19, those above the midpoint 4 bits further up. `second_codes` are 8 bits further up. */
typedef struct {
    __m512 midpoints[2];
    __m512i codes[2], second_codes[2];
} quantcore_search;

static inline quantcore_search quantcore_search_of(const float *midpoints, int is_fp4) {
    quantcore_search search;
    float searched[15], of_cells[32];
    int32_t codes[32];
    int n = quantcore_searched(midpoints, is_fp4, searched), next = 0;
    for (int cell = -12; cell < 20; cell++) {
        int i = cell & 31, is_shared = cell >= 12;
        int has_midpoint = !is_shared && next < n && floorf(13 * searched[next]) == (float)cell;
        of_cells[i] = has_midpoint ? searched[next] : 0;
        /* Of FP4's values in order, 7 is below 0 and 8 above. */
        int below = is_shared ? 0 : next + (is_fp4 && cell >= 0), above = is_shared ? 15 : below + has_midpoint;
        if (is_fp4) below = QUANTCORE_FP4_CODES[below], above = QUANTCORE_FP4_CODES[above];
        codes[i] = (below | above << 4) * (1 << 4 | 1 << 16);
        next += has_midpoint;
    }
    for (int half = 0; half < 2; half++) {
        search.midpoints[half] = _mm512_loadu_ps(of_cells + 16 * half);
        search.codes[half] = _mm512_loadu_si512(codes + 16 * half);
        search.second_codes[half] = _mm512_slli_epi32(search.codes[half], 8);
    }
    return search;
}

static inline __m512i quantcore_search16(
    const float *x, __m512 inverse, const quantcore_search *search, const __m512i *codes, int is_fp4) {
    const __m512 cells = _mm512_set1_ps(13), integers = _mm512_set1_ps(12582912); /* 1.5 * 2**23 */
    __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x), inverse);
    __m512 shifted = _mm512_fmadd_round_ps(v, cells, integers, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512i cell = _mm512_castps_si512(shifted);
    __m512 midpoint = _mm512_permutex2var_ps(search->midpoints[0], cell, search->midpoints[1]);
    __mmask16 is_greater = _mm512_cmp_ps_mask(v, midpoint, _CMP_GT_OQ);
    /* 0 and -0 have code 0 in FP4. */
    __mmask16 has_code = is_fp4 ? _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NEQ_UQ) : 0xFFFF;
    __m512i both = _mm512_maskz_permutex2var_epi32(has_code, codes[0], cell, codes[1]);
    return _mm512_mask_srli_epi32(both, is_greater, both, 4);
}

static inline void quantcore_search32(
    const float *x, float inverse, const quantcore_search *search, int is_fp4, uint8_t *out) {
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    __m512 wide_inverse = _mm512_set1_ps(inverse);
    __m512i first = quantcore_search16(x, wide_inverse, search, search->codes, is_fp4);
    __m512i second = quantcore_search16(x + 16, wide_inverse, search, search->second_codes, is_fp4);
    /* 0xCA: bits of b where a is set, else of c. */
    __m512i both = _mm512_ternarylogic_epi64(_mm512_set1_epi32(0x00FF00FF), first, second, 0xCA);
    __m512i pairs = _mm512_ternarylogic_epi64(_mm512_set1_epi32(0xF0F0), both, _mm512_srli_epi64(both, 48), 0xCA);
    _mm_storeu_si128((__m128i *)out, _mm_shuffle_epi8(_mm512_cvtepi64_epi16(pairs), order));
}

#elif defined(__SSSE3__)

/* 16 or 32 values at once in the registers of SSE or AVX2, whose packings and look-ups work on 16 bytes each. */
#if defined(__AVX2__)
#define QUANTCORE_WIDE(name) _mm256_##name
typedef __m256 quantcore_floats;
typedef __m256i quantcore_bytes;
#else
#define QUANTCORE_WIDE(name) _mm_##name
typedef __m128 quantcore_floats;
typedef __m128i quantcore_bytes;
#endif

/* Cells of 1/16. How many midpoints are below a cell, the highest midpoint never counted: below[0] from cell 0 on,
 * below[1] from cell -16 on. The next midpoint is the one to compare with: bytes[i] are byte i of all of them, keys the
 * lower and the upper bytes of them as 16 bits, in units of 2**-15. */
typedef struct {
    quantcore_bytes below[2], keys[2], bytes[4];
} quantcore_search;

static inline quantcore_bytes quantcore_table(const uint8_t *bytes) {
    __m128i table = _mm_loadu_si128((const __m128i *)bytes);
#if defined(__AVX2__)
    return _mm256_broadcastsi128_si256(table);
#else
    return table;
#endif
}

static inline quantcore_search quantcore_search_of(const float *midpoints, int is_fp4) {
    quantcore_search search;
    float searched[16] = {0};
    uint8_t below[32], keys[2][16], bytes[4][16];
    int n = quantcore_searched(midpoints, is_fp4, searched), next = 0;
    for (int cell = -16; cell < 16; cell++) {
        below[cell & 31] = (uint8_t)next;
        next += next < n - 1 && floorf(16 * searched[next]) == (float)cell;
    }
    for (int i = 0; i < 16; i++) {
        int32_t key = _mm_cvtss_si32(_mm_set_ss(32768 * searched[i]));
        for (int j = 0; j < 2; j++) keys[j][i] = (uint8_t)(key >> 8 * j);
        for (int j = 0; j < 4; j++) bytes[j][i] = ((const uint8_t *)(searched + i))[j];
    }
    for (int i = 0; i < 2; i++) search.below[i] = quantcore_table(below + 16 * i);
    for (int i = 0; i < 2; i++) search.keys[i] = quantcore_table(keys[i]);
    for (int i = 0; i < 4; i++) search.bytes[i] = quantcore_table(bytes[i]);
    return search;
}

/* Four masks of 32 bits as bytes. */
static inline quantcore_bytes quantcore_packed(const quantcore_bytes *masks) {
    return QUANTCORE_WIDE(packs_epi16)(QUANTCORE_WIDE(packs_epi32)(masks[0], masks[1]),
                                       QUANTCORE_WIDE(packs_epi32)(masks[2], masks[3]));
}

/* Which of v are greater than their next midpoint. */
static inline quantcore_bytes quantcore_greater(
    const quantcore_floats *v, quantcore_bytes next, const quantcore_search *search) {
    quantcore_bytes byte[4], is_greater[4];
    for (int i = 0; i < 4; i++) byte[i] = QUANTCORE_WIDE(shuffle_epi8)(search->bytes[i], next);
    quantcore_bytes half[4] = {
        QUANTCORE_WIDE(unpacklo_epi8)(byte[0], byte[1]), QUANTCORE_WIDE(unpacklo_epi8)(byte[2], byte[3]),
        QUANTCORE_WIDE(unpackhi_epi8)(byte[0], byte[1]), QUANTCORE_WIDE(unpackhi_epi8)(byte[2], byte[3])};
    for (int i = 0; i < 4; i += 2) {
        is_greater[i] =
            (quantcore_bytes)(v[i] > (quantcore_floats)QUANTCORE_WIDE(unpacklo_epi16)(half[i], half[i + 1]));
        is_greater[i + 1] =
            (quantcore_bytes)(v[i + 1] > (quantcore_floats)QUANTCORE_WIDE(unpackhi_epi16)(half[i], half[i + 1]));
    }
    return quantcore_packed(is_greater);
}

/* Pairs of codes as 16 bits, four from each quarter of x in every 16 bytes. */
static inline quantcore_bytes quantcore_search_wide(
    const float *x, float inverse, const quantcore_search *search, int is_fp4) {
    enum { LANES = sizeof(quantcore_floats) / 4 };
    quantcore_floats v[4];
    quantcore_bytes fixed[4], is_positive[4];
    for (int i = 0; i < 4; i++) {
        v[i] = QUANTCORE_WIDE(loadu_ps)(x + LANES * i) * QUANTCORE_WIDE(set1_ps)(inverse);
        fixed[i] = QUANTCORE_WIDE(cvtps_epi32)(v[i] * QUANTCORE_WIDE(set1_ps)(32768));
        is_positive[i] = (quantcore_bytes)(v[i] > QUANTCORE_WIDE(setzero_ps)());
    }
    /* Packing saturates what is not within -1 to 1. The upper five bits are the cell. */
    quantcore_bytes low = QUANTCORE_WIDE(packs_epi32)(fixed[0], fixed[1]);
    quantcore_bytes high = QUANTCORE_WIDE(packs_epi32)(fixed[2], fixed[3]);
    quantcore_bytes cell =
        QUANTCORE_WIDE(packs_epi16)(QUANTCORE_WIDE(srai_epi16)(low, 11), QUANTCORE_WIDE(srai_epi16)(high, 11));
    /* A byte with its highest bit set looks up 0. */
    quantcore_bytes code = QUANTCORE_WIDE(shuffle_epi8)(search->below[0], cell);
    code |= QUANTCORE_WIDE(shuffle_epi8)(search->below[1], cell ^ QUANTCORE_WIDE(set1_epi8)(-128));
    quantcore_bytes lower_bytes = QUANTCORE_WIDE(shuffle_epi8)(search->keys[0], code);
    quantcore_bytes upper_bytes = QUANTCORE_WIDE(shuffle_epi8)(search->keys[1], code);
    quantcore_bytes low_key = QUANTCORE_WIDE(unpacklo_epi8)(lower_bytes, upper_bytes);
    quantcore_bytes high_key = QUANTCORE_WIDE(unpackhi_epi8)(lower_bytes, upper_bytes);
    quantcore_bytes is_equal = QUANTCORE_WIDE(cmpeq_epi16)(low, low_key) | QUANTCORE_WIDE(cmpeq_epi16)(high, high_key);
    quantcore_bytes is_greater = QUANTCORE_WIDE(packs_epi16)(QUANTCORE_WIDE(cmpgt_epi16)(low, low_key),
                                                             QUANTCORE_WIDE(cmpgt_epi16)(high, high_key));
    /* Where 16 bits do not decide, for one value in some thousands, all are compared in full. */
    if (__builtin_expect(QUANTCORE_WIDE(movemask_epi8)(is_equal), 0)) is_greater = quantcore_greater(v, code, search);
    code = QUANTCORE_WIDE(sub_epi8)(code, is_greater);
    if (is_fp4) {
        code = QUANTCORE_WIDE(sub_epi8)(code, quantcore_packed(is_positive));
        code = QUANTCORE_WIDE(shuffle_epi8)(quantcore_table(QUANTCORE_FP4_CODES), code);
    }
    return QUANTCORE_WIDE(maddubs_epi16)(code, QUANTCORE_WIDE(set1_epi16)(1 << 8 | 16));
}

static inline void quantcore_search32(
    const float *x, float inverse, const quantcore_search *search, int is_fp4, uint8_t *out) {
#if defined(__AVX2__)
    const __m128i order = _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
    __m256i pairs = quantcore_search_wide(x, inverse, search, is_fp4);
    __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    bytes = _mm_shuffle_epi8(bytes, order);
#else
    __m128i first = quantcore_search_wide(x, inverse, search, is_fp4);
    __m128i second = quantcore_search_wide(x + 16, inverse, search, is_fp4);
    __m128i bytes = _mm_packus_epi16(first, second);
#endif
    _mm_storeu_si128((__m128i *)out, bytes);
}

#else

typedef struct {
    const float *midpoints;
} quantcore_search;

static inline quantcore_search quantcore_search_of(const float *midpoints, int is_fp4) {
    (void)is_fp4;
    return (quantcore_search){midpoints};
}

/* Without look-ups in registers, midpoints below the value are counted, by a loop that vectorises anywhere. */
static inline void quantcore_search32(
    const float *x, float inverse, const quantcore_search *search, int is_fp4, uint8_t *out) {
    const float *m = search->midpoints;
    int32_t codes[32];
    for (int j = 0; j < 32; j++) {
        float v = x[j] * inverse;
        int32_t q = 0;
        q += (v > m[0]) + (v > m[1]) + (v > m[2]) + (v > m[3]) + (v > m[4]);
        q += (v > m[5]) + (v > m[6]) + (v > m[7]) + (v > m[8]) + (v > m[9]);
        q += (v > m[10]) + (v > m[11]) + (v > m[12]) + (v > m[13]) + (v > m[14]);
        codes[j] = q;
    }
    if (is_fp4)
        for (int j = 0; j < 32; j++) codes[j] = QUANTCORE_FP4_CODES[codes[j]];
    for (int j = 0; j < 16; j++) out[j] = (uint8_t)(codes[2 * j] << 4 | codes[2 * j + 1]);
}

#endif
#endif
