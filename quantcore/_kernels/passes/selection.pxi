# selection.pxi: counts of the halves of a whole array's keys.
from libc.stdint cimport int64_t, uint8_t, uint32_t

from quantcore._kernels.common.floats cimport TILE, loaded, size_of
from quantcore._kernels.passes.selection cimport N_HALVES, count_lower, count_upper, keys_of


cdef void count_halves(
    const uint8_t* values, int dtype, int64_t n, const uint32_t* uppers, int n_uppers, uint32_t* counts
) noexcept nogil:
    cdef float staged[TILE]
    cdef uint32_t keys[TILE]
    cdef int64_t done = 0, part, itemsize = size_of(dtype)
    cdef int i
    while done < n:
        part = min(<int64_t> TILE, n - done)
        keys_of(loaded(values, dtype, done, part, staged), part, keys)
        if n_uppers == 0:
            count_upper(keys, part, values + (done + part) * itemsize, itemsize, counts)
        for i in range(n_uppers):
            count_lower(keys, part, uppers[i], counts + i * N_HALVES)
        done += part
