/* squares.h: sums of squares of several rows at once, each in the order of its elements: a row alone would wait for
 * every addition. */
#ifndef QUANTCORE_SQUARES_H
#define QUANTCORE_SQUARES_H
#include "vectors.h"

enum { SQUARED_ROWS = 8 };

/* Adds the squares of n numbers (a multiple of 4) of each of 1 to SQUARED_ROWS rows, `stride` apart, to `sums`, which
 * have room for SQUARED_ROWS. */
static inline void quantcore_add_squares(const float *x, int64_t stride, int64_t rows, int64_t n, float *sums) {
    const float *from[SQUARED_ROWS];
    quantcore_four total[SQUARED_ROWS / 4], a[4], b[4];
    /* Instead of rows beyond, the last one is added again. */
    for (int r = 0; r < SQUARED_ROWS; r++) from[r] = x + (r < rows ? r : rows - 1) * stride;
    memcpy(total, sums, sizeof total);
    for (int64_t i = 0; i < n; i += 4)
        for (int quad = 0; quad < SQUARED_ROWS / 4; quad++) {
            for (int k = 0; k < 4; k++) memcpy(a + k, from[4 * quad + k] + i, 16);
            quantcore_transpose4(a, b);
            for (int k = 0; k < 4; k++) total[quad] += b[k] * b[k];
        }
    memcpy(sums, total, sizeof total);
}

#endif
