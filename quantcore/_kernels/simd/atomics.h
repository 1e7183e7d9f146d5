/* atomics.h: the atomic operations of threads that share an array, or what is made once for all (GCC and Clang
 * builtins). */
#ifndef QUANTCORE_ATOMICS_H
#define QUANTCORE_ATOMICS_H
#include <stdint.h>

static inline int64_t quantcore_take(int64_t *counter, int64_t step) {
    return __atomic_fetch_add(counter, step, __ATOMIC_RELAXED);
}

static inline int64_t quantcore_read(int64_t *value) { return __atomic_load_n(value, __ATOMIC_RELAXED); }

static inline void quantcore_lower(int64_t *value, int64_t candidate) {
    int64_t seen = __atomic_load_n(value, __ATOMIC_RELAXED);
    while (candidate < seen &&
           !__atomic_compare_exchange_n(value, &seen, candidate, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

/* What was published, or NULL. */
static inline const void *quantcore_look(const void **place) { return __atomic_load_n(place, __ATOMIC_ACQUIRE); }

/* Publish what was made, unless another thread was earlier; returns what is published now. */
static inline const void *quantcore_publish(const void **place, const void *made) {
    const void *seen = 0;
    if (__atomic_compare_exchange_n(place, &seen, made, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) return made;
    return seen;
}
#endif
