/* halves.h: IEEE halves to float32 and back by the instructions of F16C and AVX-512, with integer arithmetic for
 * levels without them and for the elements left over. Both round to nearest even, keep subnormals, and make NaN
 * quiet with the upper bits of its payload, so the bits are the same. */
#ifndef QUANTCORE_HALVES_H
#define QUANTCORE_HALVES_H
#include <stdint.h>
#include <string.h>

#if defined(__F16C__)
#include <immintrin.h>
enum { QUANTCORE_WIDENS_HALVES = 1 }; /* by an instruction */
#else
enum { QUANTCORE_WIDENS_HALVES = 0 };
#endif

static inline float quantcore_float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline uint32_t quantcore_bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline float quantcore_float_of_half(uint32_t half) {
    uint32_t shifted = (half & 0x7FFF) << 13;
    /* A subnormal half is a multiple of 2^-24: borrow the exponent of 2^-14 and take 2^-14 off again. */
    float borrowed = quantcore_float_of(shifted + 0x38800000) - quantcore_float_of(0x38800000);
    uint32_t magnitude = shifted >= 0x00800000 ? shifted + 0x38000000 : quantcore_bits_of(borrowed);
    magnitude = shifted >= 0x0F800000 ? shifted + 0x70000000 : magnitude;
    magnitude |= (0x0F800000 - shifted) >> 31 << 22; /* set for NaN alone: the quiet bit */
    return quantcore_float_of(magnitude | (half & 0x8000) << 16);
}

/* The nearest half, inf from 65520 on. */
static inline uint32_t quantcore_half_of_float(float x) {
    uint32_t bits = quantcore_bits_of(x), magnitude = bits & 0x7FFFFFFF;
    /* Normal halves: re-bias the exponent by 112 and round away 13 mantissa bits (a carry walks into the exponent). */
    uint32_t normal = (magnitude - 0x38000000 + 0xFFF + (magnitude >> 13 & 1)) >> 13;
    /* Below 2^-14: adding 0.5 lines the value up with the half's last bit, and the addition rounds. */
    uint32_t subnormal = quantcore_bits_of(quantcore_float_of(magnitude) + 0.5f) - 0x3F000000;
    uint32_t half = magnitude >= 0x38800000 ? normal : subnormal;
    half = magnitude >= 0x477FF000 ? 0x7C00 : half;
    uint32_t is_nan = (0x7F800000 - magnitude) >> 31;
    half |= (0 - is_nan) & (0x200 | (magnitude >> 13 & 0x3FF));
    return half | (bits >> 16 & 0x8000);
}

static inline void quantcore_widen_halves(const uint16_t *half, int64_t n, float *x) {
    int64_t j = 0;
#if defined(__AVX512F__)
    for (; j + 16 <= n; j += 16)
        _mm512_storeu_ps(x + j, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(half + j))));
#elif defined(__F16C__)
    for (; j + 8 <= n; j += 8)
        _mm256_storeu_ps(x + j, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(half + j))));
#endif
    for (; j < n; j++) x[j] = quantcore_float_of_half(half[j]);
}

static inline void quantcore_narrow_floats(const float *x, int64_t n, uint16_t *half) {
    int64_t j = 0;
#if defined(__AVX512F__)
    for (; j + 16 <= n; j += 16)
        _mm256_storeu_si256((__m256i *)(half + j), _mm512_cvtps_ph(_mm512_loadu_ps(x + j), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    for (; j + 8 <= n; j += 8)
        _mm_storeu_si128((__m128i *)(half + j), _mm256_cvtps_ph(_mm256_loadu_ps(x + j), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; j < n; j++) half[j] = (uint16_t)quantcore_half_of_float(x[j]);
}

#endif
