/* packing.h: codes of 3 to 6 bits as GGUF blocks hold them, put together from bytes and decoded, in vectors of 16 bytes
 * as GNU C has them; only the gathering of single bits and the widening to floats have their own instructions. Codes of
 * blocks of 32 are nibbles, element j low and j + 16 high, and with five bits, 32 bits of their own. */
#ifndef QUANTCORE_PACKING_H
#define QUANTCORE_PACKING_H
#include <stdint.h>
#include <string.h>

#include "shuffle.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

typedef uint8_t byte_lanes __attribute__((vector_size(16)));

static inline byte_lanes bytes_load(const uint8_t *data) {
    byte_lanes a;
    memcpy(&a, data, sizeof a);
    return a;
}

static inline void bytes_store(uint8_t *data, byte_lanes a) { memcpy(data, &a, sizeof a); }

/* Bit 4 of each of 16 codes. */
static inline uint32_t quantcore_fifth_bits(byte_lanes codes) {
#if defined(__SSE2__)
    return (uint32_t)_mm_movemask_epi8(_mm_slli_epi16((__m128i)codes, 3));
#else
    uint32_t bits = 0;
    for (int j = 0; j < 16; j++) bits |= (uint32_t)(codes[j] >> 4 & 1) << j;
    return bits;
#endif
}

/* The nibbles of 32 codes. */
static inline void quantcore_pack_nibbles(const uint8_t *codes, uint8_t *nibbles) {
    bytes_store(nibbles, (bytes_load(codes) & 15) | bytes_load(codes + 16) << 4);
}

/* 4 bytes of fifth bits, 16 bytes of nibbles. */
static inline void quantcore_pack_fives(const uint8_t *codes, uint8_t *out) {
    uint32_t bits = quantcore_fifth_bits(bytes_load(codes)) | quantcore_fifth_bits(bytes_load(codes + 16)) << 16;
    for (int k = 0; k < 4; k++) out[k] = (uint8_t)(bits >> 8 * k);
    quantcore_pack_nibbles(codes, out + 4);
}

/* y = code * scale + shift for 16 signed codes; `is_shifted` is a constant (a sum with zero would lose the sign of
 * zeros). The codes come in a register: written to memory they would be read back by wider loads, which stall. */
static inline void quantcore_decode16(byte_lanes codes, float scale, int is_shifted, float shift, float *y) {
#if defined(__AVX512F__)
    __m512 x = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)codes)) * _mm512_set1_ps(scale);
    if (is_shifted) x += _mm512_set1_ps(shift);
    _mm512_storeu_ps(y, x);
#elif defined(__AVX2__)
    __m128i part = (__m128i)codes;
    for (int j = 0; j < 16; j += 8, part = _mm_srli_si128(part, 8)) {
        __m256 x = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(part)) * _mm256_set1_ps(scale);
        if (is_shifted) x += _mm256_set1_ps(shift);
        _mm256_storeu_ps(y + j, x);
    }
#elif defined(__SSE4_1__)
    __m128i part = (__m128i)codes;
    for (int j = 0; j < 16; j += 4, part = _mm_srli_si128(part, 4)) {
        __m128 x = _mm_cvtepi32_ps(_mm_cvtepi8_epi32(part)) * _mm_set1_ps(scale);
        if (is_shifted) x += _mm_set1_ps(shift);
        _mm_storeu_ps(y + j, x);
    }
#else
    int8_t code[16];
    memcpy(code, &codes, 16);
    for (int j = 0; j < 16; j++) y[j] = is_shifted ? (float)code[j] * scale + shift : (float)code[j] * scale;
#endif
}

/* 16 bytes of nibbles. */
static inline void quantcore_decode_nibbles(const uint8_t *nibbles, float scale, float shift, float *y) {
    byte_lanes packed = bytes_load(nibbles);
    quantcore_decode16(packed & 15, scale, 1, shift, y);
    quantcore_decode16(packed >> 4, scale, 1, shift, y + 16);
}

/* 4 bytes of fifth bits, 16 bytes of nibbles; the codes less `centre`. */
static inline void quantcore_decode_fives(
    const uint8_t *data, uint8_t centre, float scale, int is_shifted, float shift, float *y
) {
    const byte_lanes bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    typedef uint32_t words __attribute__((vector_size(16)));
    uint32_t word;
    memcpy(&word, data, 4);
    byte_lanes packed = bytes_load(data + 4), bits = (byte_lanes)(words){word, word, word, word};
    byte_lanes first = QUANTCORE_SHUFFLE(byte_lanes, bits, bits, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    byte_lanes second = QUANTCORE_SHUFFLE(byte_lanes, bits, bits, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    byte_lanes low = (byte_lanes)((first & bit) == bit) & 16, high = (byte_lanes)((second & bit) == bit) & 16;
    quantcore_decode16(((packed & 15) | low) - centre, scale, is_shifted, shift, y);
    quantcore_decode16(((packed >> 4) | high) - centre, scale, is_shifted, shift, y + 16);
}

/* A super-block of 256 6-bit codes, in two halves of four runs of 32: the lower four bits of the runs 0 and 2, then of
 * 1 and 3, share bytes; the upper two of all four do. 128 bytes of those, and 64 bytes of these. */
static inline void quantcore_pack_sixes(const uint8_t *codes, uint8_t *lower, uint8_t *upper) {
    for (int half = 0; half < 2; half++, codes += 128, lower += 64, upper += 32)
        for (int j = 0; j < 32; j += 16) {
            byte_lanes a = bytes_load(codes + j), b = bytes_load(codes + j + 32);
            byte_lanes c = bytes_load(codes + j + 64), d = bytes_load(codes + j + 96);
            bytes_store(lower + j, (a & 15) | c << 4);
            bytes_store(lower + j + 32, (b & 15) | d << 4);
            bytes_store(upper + j, a >> 4 | (b >> 4) << 2 | (c >> 4) << 4 | (d >> 4) << 6);
        }
}

/* y = (code - 32) * scale, with a scale for each 16 of them. */
static inline void quantcore_decode_sixes(const uint8_t *lower, const uint8_t *upper, const float *scales, float *y) {
    for (int half = 0; half < 2; half++, lower += 64, upper += 32, scales += 8, y += 128)
        for (int part = 0; part < 2; part++) {
            byte_lanes a = bytes_load(lower + 16 * part), b = bytes_load(lower + 16 * part + 32);
            byte_lanes high = bytes_load(upper + 16 * part);
            float *to = y + 16 * part;
            quantcore_decode16(((a & 15) | (high & 3) << 4) - 32, scales[part], 0, 0, to);
            quantcore_decode16(((b & 15) | (high >> 2 & 3) << 4) - 32, scales[part + 2], 0, 0, to + 32);
            quantcore_decode16((a >> 4 | (high >> 4 & 3) << 4) - 32, scales[part + 4], 0, 0, to + 64);
            quantcore_decode16((b >> 4 | (high >> 6) << 4) - 32, scales[part + 6], 0, 0, to + 96);
        }
}

/* A super-block of 256 3-bit codes, in eight runs of 32: a bit of the run k, the third of its codes, in each of 32
 * bytes; the lower two bits of four runs share bytes. 32 bytes of those, and 64 bytes of these. */
static inline void quantcore_pack_threes(const uint8_t *codes, uint8_t *upper, uint8_t *lower) {
    for (int j = 0; j < 32; j += 16) {
        byte_lanes bits = {0};
        for (int half = 0; half < 2; half++) {
            byte_lanes a = bytes_load(codes + 128 * half + j), b = bytes_load(codes + 128 * half + j + 32);
            byte_lanes c = bytes_load(codes + 128 * half + j + 64), d = bytes_load(codes + 128 * half + j + 96);
            bits |= (a >> 2 | (b >> 2) << 1 | (c >> 2) << 2 | (d >> 2) << 3) << 4 * half;
            bytes_store(lower + 32 * half + j, (a & 3) | (b & 3) << 2 | (c & 3) << 4 | d << 6);
        }
        bytes_store(upper + j, bits);
    }
}

/* y = (code - 4) * scale, with a scale for each 16 of them. */
static inline void quantcore_decode_threes(const uint8_t *upper, const uint8_t *lower, const float *scales, float *y) {
#pragma GCC unroll 2
    for (int j = 0; j < 32; j += 16) {
        byte_lanes bits = bytes_load(upper + j), first = bytes_load(lower + j), second = bytes_load(lower + j + 32);
#pragma GCC unroll 4
        for (int run = 0; run < 4; run++, bits >>= 1, first >>= 2, second >>= 2) {
            const float *scale = scales + 2 * run + j / 16;
            float *to = y + 32 * run + j;
            quantcore_decode16(((first & 3) | (bits & 1) << 2) - 4, scale[0], 0, 0, to);
            quantcore_decode16(((second & 3) | (bits >> 4 & 1) << 2) - 4, scale[8], 0, 0, to + 128);
        }
    }
}

/* 16 6-bit multiples in 12 bytes: the lower four bits in eight bytes, j and j + 8 in one; the upper two in four, j,
 * j + 4, j + 8 and j + 12 in one. */
static inline void quantcore_pack_multiples(const int32_t *multiples, uint8_t *out) {
    for (int j = 0; j < 8; j++) out[j] = (uint8_t)((multiples[j] & 15) | (multiples[j + 8] & 15) << 4);
    for (int j = 0; j < 4; j++)
        out[8 + j] = (uint8_t)(multiples[j] >> 4 | multiples[j + 4] >> 4 << 2 | multiples[j + 8] >> 4 << 4 |
                               multiples[j + 12] >> 4 << 6);
}

static inline void quantcore_unpack_multiples(const uint8_t *packed, int32_t *multiples) {
    for (int j = 0; j < 8; j++) {
        multiples[j] = (packed[j] & 15) | (packed[8 + j % 4] >> 2 * (j / 4) & 3) << 4;
        multiples[j + 8] = packed[j] >> 4 | (packed[8 + j % 4] >> (4 + 2 * (j / 4)) & 3) << 4;
    }
}

#endif
