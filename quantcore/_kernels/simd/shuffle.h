/* shuffle.h: the elements of two vectors that constant places name, as GCC (from 4.7 on) and Clang each have it. */
#ifndef QUANTCORE_SHUFFLE_H
#define QUANTCORE_SHUFFLE_H

/* `places` is the type of a vector of integers as wide as the elements; GCC takes one, Clang the numbers themselves. */
#if defined(__clang__)
#define QUANTCORE_SHUFFLE(places, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define QUANTCORE_SHUFFLE(places, a, b, ...) __builtin_shuffle(a, b, (places){__VA_ARGS__})
#endif

#endif
