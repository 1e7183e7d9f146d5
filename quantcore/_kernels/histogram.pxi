# histogram.pxi: histograms of channels. Values lie as outer x channels x inner; long runs of a channel are counted
# where they are, short ones are brought together first, a few channels at a time.
from libc.stdint cimport int64_t, uint8_t

from quantcore._kernels.floats cimport TILE, loaded, size_of
from quantcore._kernels.histogram cimport Histogram, count_tile
from quantcore._kernels.memory cimport prefetch_run
from quantcore._kernels.table cimport MOST_CHANNELS, SHORTEST_RUN

cdef enum:
    GATHERED = 256  # values of each channel that are brought together
    ROWS_AHEAD = 16  # rows are too far apart for the CPU to guess the next one


cdef int64_t count_run(
    const uint8_t* values, int dtype, int64_t n, Histogram* histogram
) noexcept nogil:
    cdef float staged[TILE]
    cdef const float* x
    cdef int64_t done = 0, part, itemsize = size_of(dtype)
    while done < n:
        part = min(<int64_t> TILE, n - done)
        x = loaded(values, dtype, done, part, staged)
        if count_tile(histogram, x, part, values + (done + part) * itemsize, itemsize) < 0:
            return -1
        done += part
    return 0


cdef int64_t count_gathered(
    const uint8_t* values, int dtype, int64_t outer, int64_t channels, int64_t inner, int64_t n_channels,
    Histogram* histograms,
) noexcept nogil:
    cdef float gathered[MOST_CHANNELS][GATHERED]
    cdef float staged[MOST_CHANNELS * SHORTEST_RUN]
    cdef const float* x
    cdef const uint8_t* source
    cdef int64_t o, c, i, n = 0
    for o in range(outer):
        source = values + o * channels * inner * size_of(dtype)
        x = loaded(source, dtype, 0, n_channels * inner, staged)
        prefetch_run(source + ROWS_AHEAD * channels * inner * size_of(dtype), n_channels * inner * size_of(dtype))
        for c in range(n_channels):
            for i in range(inner):
                gathered[c][n + i] = x[c * inner + i]
        n += inner
        if n + inner > GATHERED or o == outer - 1:
            for c in range(n_channels):
                if count_tile(&histograms[c], gathered[c], n, <const uint8_t*> gathered[c], 4) < 0:
                    return -1
            n = 0
    return 0


cdef int64_t count_channels(
    const uint8_t* values, int dtype, int64_t outer, int64_t channels, int64_t inner, int64_t n_channels,
    Histogram* histograms,
) noexcept nogil:
    """`values` begin with the first of n_channels channels. Short runs: at most MOST_CHANNELS; long ones: one."""
    cdef int64_t o, itemsize = size_of(dtype)
    if inner < SHORTEST_RUN and channels > 1:
        return count_gathered(values, dtype, outer, channels, inner, n_channels, histograms)
    for o in range(outer):
        if count_run(values + o * channels * inner * itemsize, dtype, inner, histograms) < 0:
            return -1
    return 0
