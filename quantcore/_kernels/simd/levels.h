/* levels.h: decoding of codes of 4, 2 or log2(3) bits that stand for whole numbers, 16 to a register of bytes: by a
 * look-up, which SSSE3 has for tables of 16, or by arithmetic.
 *
 * E2M1 is the float of 4 bits in MXFP4 and NVFP4, its values doubled. No pointers overlap. */
#ifndef QUANTCORE_LEVELS_H
#define QUANTCORE_LEVELS_H
#include "packing.h"

static const int8_t QUANTCORE_E2M1_LEVELS[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
static const int8_t QUANTCORE_E2M1_ASCENDING[15] = {-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12};
static const int8_t QUANTCORE_IQ4_LEVELS[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                1,    13,   25,  38,  53,  69,  89,  113};

/* The levels of 16 codes. */
static inline byte_lanes quantcore_look_up16(const int8_t *levels, byte_lanes codes) {
    byte_lanes found;
#if defined(__SSSE3__)
    found = (byte_lanes)_mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)levels), (__m128i)codes);
#else
    for (int j = 0; j < 16; j++) found[j] = (uint8_t)levels[codes[j]];
#endif
    return found;
}

/* The first 8 bytes of a, then those of b; and their last 8 bytes. */
static inline byte_lanes quantcore_first_halves(byte_lanes a, byte_lanes b) {
    typedef uint64_t quantcore_2_words __attribute__((vector_size(16)));
    return (byte_lanes)(quantcore_2_words){((quantcore_2_words)a)[0], ((quantcore_2_words)b)[0]};
}
static inline byte_lanes quantcore_last_halves(byte_lanes a, byte_lanes b) {
    typedef uint64_t quantcore_2_words __attribute__((vector_size(16)));
    return (byte_lanes)(quantcore_2_words){((quantcore_2_words)a)[1], ((quantcore_2_words)b)[1]};
}

/* 32 elements that share a scale: element j in the low nibble of byte j, j + 16 in the high one. */
static inline void quantcore_levels32(const uint8_t *data, const int8_t *levels, float scale, float *y) {
    byte_lanes bytes = bytes_load(data);
    quantcore_decode16(quantcore_look_up16(levels, bytes & 15), scale, 0, 0, y);
    quantcore_decode16(quantcore_look_up16(levels, bytes >> 4), scale, 0, 0, y + 16);
}

/* Twice 16 elements, each with a scale: element j in the low nibble of its byte j, j + 8 in the high one. */
static inline void quantcore_levels16_twice(const uint8_t *data, const int8_t *levels, const float *scales, float *y) {
    byte_lanes bytes = bytes_load(data);
    byte_lanes low = quantcore_look_up16(levels, bytes & 15), high = quantcore_look_up16(levels, bytes >> 4);
    quantcore_decode16(quantcore_first_halves(low, high), scales[0], 0, 0, y);
    quantcore_decode16(quantcore_last_halves(low, high), scales[1], 0, 0, y + 16);
}

/* Codes of 2 bits, less 1: those of 16 bytes, from the lowest bits on, go to four runs of 16, `stride` apart. */
static inline void quantcore_pairs16(const uint8_t *data, float scale, int stride, float *y) {
    byte_lanes rest = bytes_load(data);
    for (int k = 0; k < 4; k++) {
        quantcore_decode16((rest & 3) - 1, scale, 0, 0, y + k * stride);
        rest >>= 2;
    }
}

/* The same codes in the order of the bytes. */
static inline void quantcore_pairs64(const uint8_t *data, float scale, float *y) {
    byte_lanes levels[4];
#if defined(__SSE2__)
    byte_lanes rest = bytes_load(data);
    __m128i code[4];
    for (int k = 0; k < 4; k++) {
        code[k] = (__m128i)((rest & 3) - 1);
        rest >>= 2;
    }
    __m128i low[2] = {_mm_unpacklo_epi8(code[0], code[1]), _mm_unpacklo_epi8(code[2], code[3])};
    __m128i high[2] = {_mm_unpackhi_epi8(code[0], code[1]), _mm_unpackhi_epi8(code[2], code[3])};
    levels[0] = (byte_lanes)_mm_unpacklo_epi16(low[0], low[1]);
    levels[1] = (byte_lanes)_mm_unpackhi_epi16(low[0], low[1]);
    levels[2] = (byte_lanes)_mm_unpacklo_epi16(high[0], high[1]);
    levels[3] = (byte_lanes)_mm_unpackhi_epi16(high[0], high[1]);
#else
    for (int j = 0; j < 64; j++) levels[j / 16][j % 16] = (uint8_t)((data[j / 4] >> 2 * (j % 4) & 3) - 1);
#endif
    for (int k = 0; k < 4; k++) quantcore_decode16(levels[k], scale, 0, 0, y + 16 * k);
}

/* The highest digit to base 3, less 1, of bytes that count 256ths: 86 and 171 are the first with the digits 1 and 2. A
 * comparison that holds is -1. */
static inline byte_lanes quantcore_digits16(byte_lanes bytes) {
    return ~((byte_lanes)(bytes >= 86) + (byte_lanes)(bytes >= 171));
}

/* Five digits of each of 16 bytes, from the highest on, go to runs of 16 that begin `stride` apart. */
static inline void quantcore_fives16(const uint8_t *data, float scale, int stride, float *y) {
    byte_lanes rest = bytes_load(data);
    for (int k = 0; k < 5; k++) {
        quantcore_decode16(quantcore_digits16(rest), scale, 0, 0, y + k * stride);
        rest = rest + rest + rest;
    }
}

/* Four digits of each of 4 bytes go to runs of 4. */
static inline void quantcore_fours4(const uint8_t *data, float scale, float *y) {
    const uint8_t powers[4] = {1, 3, 9, 27};
    byte_lanes rests;
    for (int j = 0; j < 16; j++) rests[j] = (uint8_t)(data[j % 4] * powers[j / 4]);
    quantcore_decode16(quantcore_digits16(rests), scale, 0, 0, y);
}

#endif
