# selection.pxi: digits of a whole array's keys.
from libc.stdint cimport int64_t, uint8_t, uint32_t

from quantcore._kernels.floats cimport FLOAT32, TILE, load_tile, size_of
from quantcore._kernels.selection cimport FIRST_SHIFT, Digits, count_first, count_later, keys_of


cdef void count_digits(
    const uint8_t* values, int dtype, int64_t n, const uint32_t* prefixes, int n_prefixes, int shift, Digits* digits
) noexcept nogil:
    cdef float staged[TILE]
    cdef uint32_t keys[TILE]
    cdef int64_t done = 0, part
    cdef int p
    while done < n:
        part = min(<int64_t> TILE, n - done)
        if dtype == FLOAT32:
            keys_of(<const float*> values + done, part, keys)
        else:
            load_tile(values + done * size_of(dtype), dtype, part, staged)
            keys_of(staged, part, keys)
        if shift == FIRST_SHIFT:
            count_first(keys, part, digits)
        else:
            for p in range(n_prefixes):
                count_later(keys, part, prefixes[p], shift, digits.counts[p])
        done += part
