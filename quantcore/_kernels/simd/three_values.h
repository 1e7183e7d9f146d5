/* three_values.h: the search for a scale of values -1, 0 and 1, all shifted by an eighth up or down, as IQ1 makes it.
 *
 * The elements of a sub-block are ranked; those below a first cut become -1, those from a second one on 1. Sums over
 * the ranked elements give what every pair of cuts is worth. Sub-blocks are the lanes of vectors, so that each is
 * searched in the order of the definition, in which a later candidate has to beat the best one so far.
 *
 * Of a tie in value the earlier element has the lower rank. */
#ifndef QUANTCORE_THREE_VALUES_H
#define QUANTCORE_THREE_VALUES_H
#include <float.h>
#include <stdint.h>

#include "grid_search.h"
#include "lane_bits.h"

/* What was found in each lane: the cuts (in elements), or -1 where no candidate is worth anything; which of the
 * shifts, down (1) or up (0): bit 0 for the second half of IQ1_M's sub-block, bit 1 for the first one; for IQ1_S bit
 * 0 for all. */
typedef struct {
    float scale[VECTOR_LANES];
    int32_t first_cut[VECTOR_LANES];
    int32_t second_cut[VECTOR_LANES];
    int32_t shifts[VECTOR_LANES];
} quantcore_cuts;

/* The rank of each of n elements. */
QUANTCORE_INLINE void quantcore_rank(const float *x, int n, int32_t *ranks) {
    int_lanes lane_numbers;
    for (int i = 0; i < VECTOR_LANES; i++) lane_numbers[i] = i;
    for (int v = 0; v < n; v += VECTOR_LANES) {
        lanes ours = lanes_load(x + v);
        int_lanes rank = {0};
        for (int j = 0; j < v; j++) rank -= lanes_of(x[j]) <= ours;
        for (int j = 0; j < VECTOR_LANES; j++) {
            lanes other = lanes_of(x[v + j]);
            rank -= (other < ours) | ((other == ours) & (lane_numbers > j));
        }
        for (int j = v + VECTOR_LANES; j < n; j++) rank -= lanes_of(x[j]) < ours;
        ints_store(ranks + v, rank);
    }
}

typedef struct {
    lanes score, scale;
    int_lanes cuts; /* first cut * 4096 + second cut * 64 + shifts */
} quantcore_best;

QUANTCORE_INLINE void quantcore_consider(lanes sum_qx, lanes sum_q2, int32_t cuts, quantcore_best *best) {
    lane_mask wins = lanes_both(lanes_above(sum_q2, lanes_of(0)), lanes_above(sum_qx * sum_qx, best->score * sum_q2));
    if (lanes_any(wins)) {
        lanes scale = sum_qx / sum_q2;
        best->score = lanes_chosen(wins, scale * sum_qx, best->score);
        best->scale = lanes_chosen(wins, scale, best->scale);
        best->cuts = (int_lanes)lanes_chosen(wins, (lanes)ints_of(cuts), (lanes)best->cuts);
    }
}

QUANTCORE_INLINE void quantcore_keep_cuts(const quantcore_best *best, quantcore_cuts *found) {
    for (int i = 0; i < VECTOR_LANES; i++) {
        found->scale[i] = best->scale[i];
        found->first_cut[i] = best->cuts[i] < 0 ? -1 : best->cuts[i] >> 12;
        found->second_cut[i] = best->cuts[i] >> 6 & 63;
        found->shifts[i] = best->cuts[i] & 63;
    }
}

/* IQ1_S: `count` sub-blocks of 32, up to VECTOR_LANES; *ranks: of all their elements. */
static inline void quantcore_cut_32(
    const float *x, const float *weights, int count, int32_t *ranks, quantcore_cuts *found
) {
    enum { SIZE = 32 };
    const float low[2] = {-1 + 0.125f, -1 - 0.125f}, high[2] = {1 + 0.125f, 1 - 0.125f};
    float products[SIZE][VECTOR_LANES] = {{0}}, masses[SIZE][VECTOR_LANES] = {{0}};
    lanes sum_x[SIZE + 1], sum_w[SIZE + 1], upper_x[2][SIZE + 1], upper_w[2][SIZE + 1];
    quantcore_best best = {lanes_of(-FLT_MAX), lanes_of(0.0f), ints_of(-1)};
    for (int lane = 0; lane < count; lane++) {
        const float *xs = x + SIZE * lane, *ws = weights + SIZE * lane;
        quantcore_rank(xs, SIZE, ranks + SIZE * lane);
        for (int j = 0; j < SIZE; j++) {
            products[ranks[SIZE * lane + j]][lane] = ws[j] * xs[j];
            masses[ranks[SIZE * lane + j]][lane] = ws[j];
        }
    }
    sum_x[0] = sum_w[0] = lanes_of(0.0f);
    for (int j = 0; j < SIZE; j++) {
        sum_x[j + 1] = sum_x[j] + lanes_load(products[j]);
        sum_w[j + 1] = sum_w[j] + lanes_load(masses[j]);
    }
    for (int shift = 0; shift < 2; shift++)
        for (int j = 0; j <= SIZE; j++) {
            upper_x[shift][j] = (sum_x[SIZE] - sum_x[j]) * high[shift];
            upper_w[shift][j] = (sum_w[SIZE] - sum_w[j]) * high[shift] * high[shift];
        }
    for (int first = 0; first <= SIZE; first++) {
        lanes lower_up_x = sum_x[first] * low[0], lower_down_x = sum_x[first] * low[1];
        lanes lower_up_w = sum_w[first] * low[0] * low[0], lower_down_w = sum_w[first] * low[1] * low[1];
        for (int second = first; second <= SIZE; second++) {
            /* The middle is shifted by as much in both cases, up or down. */
            lanes middle_x = (sum_x[second] - sum_x[first]) * 0.125f;
            lanes middle_w = (sum_w[second] - sum_w[first]) * 0.125f * 0.125f;
            int32_t cuts = first << 12 | second << 6;
            quantcore_consider(lower_up_x + middle_x + upper_x[0][second], lower_up_w + middle_w + upper_w[0][second],
                               cuts, &best);
            quantcore_consider(lower_down_x - middle_x + upper_x[1][second],
                               lower_down_w + middle_w + upper_w[1][second], cuts | 1, &best);
        }
    }
    quantcore_keep_cuts(&best, found);
}

/* IQ1_M: sub-blocks of 16 likewise, each half with a shift of its own. */
static inline void quantcore_cut_16(
    const float *x, const float *weights, int count, int32_t *ranks, quantcore_cuts *found
) {
    enum { SIZE = 16 };
    const float low[2] = {-1 + 0.125f, -1 - 0.125f}, middle[2] = {0.125f, -0.125f}, high[2] = {1 + 0.125f, 1 - 0.125f};
    float products[2][SIZE][VECTOR_LANES] = {{{0}}}, masses[2][SIZE][VECTOR_LANES] = {{{0}}};
    lanes sum_x[2][SIZE + 1], sum_w[2][SIZE + 1], whole_x[2][2], whole_w[2][2];
    /* Of a half and a shift: what the weights up to a cut change, if it is the first one, or the second one. */
    lanes first_w[2][2][SIZE + 1], second_w[2][2][SIZE + 1];
    quantcore_best best = {lanes_of(-FLT_MAX), lanes_of(0.0f), ints_of(-1)};
    for (int lane = 0; lane < count; lane++) {
        const float *xs = x + SIZE * lane, *ws = weights + SIZE * lane;
        quantcore_rank(xs, SIZE, ranks + SIZE * lane);
        for (int j = 0; j < SIZE; j++) {
            products[j / 8][ranks[SIZE * lane + j]][lane] = ws[j] * xs[j];
            masses[j / 8][ranks[SIZE * lane + j]][lane] = ws[j];
        }
    }
    for (int half = 0; half < 2; half++) {
        sum_x[half][0] = sum_w[half][0] = lanes_of(0.0f);
        for (int j = 0; j < SIZE; j++) {
            sum_x[half][j + 1] = sum_x[half][j] + lanes_load(products[half][j]);
            sum_w[half][j + 1] = sum_w[half][j] + lanes_load(masses[half][j]);
        }
        for (int shift = 0; shift < 2; shift++) {
            whole_x[half][shift] = sum_x[half][SIZE] * high[shift];
            whole_w[half][shift] = sum_w[half][SIZE] * high[shift] * high[shift];
            for (int j = 0; j <= SIZE; j++) {
                first_w[half][shift][j] =
                    sum_w[half][j] * (low[shift] * low[shift] - middle[shift] * middle[shift]);
                second_w[half][shift][j] =
                    sum_w[half][j] * (middle[shift] * middle[shift] - high[shift] * high[shift]);
            }
        }
    }
    for (int first = 0; first <= SIZE; first++)
        for (int second = first; second <= SIZE; second++) {
            lanes qx[2][2], q2[2][2];
            for (int half = 0; half < 2; half++) {
                lanes below = sum_x[half][first] + sum_x[half][second];
                for (int shift = 0; shift < 2; shift++) {
                    qx[half][shift] = whole_x[half][shift] - below;
                    q2[half][shift] =
                        whole_w[half][shift] + first_w[half][shift][first] + second_w[half][shift][second];
                }
            }
            for (int shifts = 0; shifts < 4; shifts++)
                quantcore_consider(qx[0][shifts >> 1] + qx[1][shifts & 1], q2[0][shifts >> 1] + q2[1][shifts & 1],
                                   first << 12 | second << 6 | shifts, &best);
        }
    quantcore_keep_cuts(&best, found);
}

/* The point for a group of 8 whose digits are `code`: itself, or the one near it that fits best at a scale. */
QUANTCORE_INLINE uint32_t quantcore_shifted_point(
    const float *x, const float *weights, uint32_t code, float scale, float shift, const uint32_t *places,
    const uint16_t *near, int *was_on_grid, int *failed
) {
    float terms[QUANTCORE_MOST_TERMS];
    uint32_t place = quantcore_place_of(code, 8, places);
    if (place & QUANTCORE_ON_GRID) return code;
    *was_on_grid = 0;
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < 4; k++) {
            float difference = scale * ((float)(k - 1) + shift) - x[i];
            terms[4 * i + k] = weights[i] * difference * difference;
        }
    return quantcore_nearest_point(terms, near + (place >> QUANTCORE_PLACE_SHIFT), place & QUANTCORE_COUNT_BITS, 8,
                                   failed);
}

#endif
