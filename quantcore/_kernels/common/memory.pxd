# memory.pxd: prefetching the data that come next while the CPU computes from L1.
from libc.stdint cimport int64_t, uint8_t

cdef enum:
    PART = 256  # elements that are processed while as many further on are prefetched


cdef extern from *:
    void __builtin_prefetch(const void* address) noexcept nogil


cdef inline void prefetch_run(const uint8_t* start, int64_t n_bytes) noexcept nogil:
    """Prefetch the cache lines of a run."""
    cdef int64_t i
    for i in range((n_bytes + 63) // 64):
        __builtin_prefetch(start + 64 * i)
