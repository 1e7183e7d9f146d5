# grids.pxd: decoding of the IQ1, IQ2 and IQ3 types. The points of a whole tile are laid out as int8, eight at a time
# in a 64-bit integer, and become floats in loops that vectorise: a load that follows at once upon several smaller
# stores to the same place would wait for them.
from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from quantcore._kernels.common.memory cimport prefetch_run
from quantcore._kernels.table cimport GridPoints, Grids, GridSearch

cdef extern from "atomics.h":
    const void* quantcore_look(const void** place) noexcept nogil

cdef enum:
    GRID_BLOCK = 256
    GRID_TILE = 8
    BYTES_OF_ONE = 0x01010101
    IQ1_CENTRE = 16  # what stands for 0 in IQ1's points, whose values are in eighths


cdef inline const GridPoints* points_of(const Grids* grids, int grid) noexcept nogil:
    """What decoding looks up; another thread may be trying to publish it, too."""
    return <const GridPoints*> quantcore_look(<const void**> &grids.points[grid])


cdef inline const GridSearch* search_of(const Grids* grids, int grid) noexcept nogil:
    """What quantizing looks up."""
    return <const GridSearch*> quantcore_look(<const void**> &grids.searches[grid])


cdef inline uint32_t load16(const uint8_t* data) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, data, 2)
    return value


cdef inline uint32_t load32(const uint8_t* data) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, data, 4)
    return value


cdef inline uint64_t load64(const uint8_t* data) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, data, 8)
    return value


cdef inline void store16(uint8_t* data, uint32_t value) noexcept nogil:
    cdef uint16_t narrow = <uint16_t> value
    memcpy(data, &narrow, 2)


cdef inline void store32(uint8_t* data, uint32_t value) noexcept nogil:
    memcpy(data, &value, 4)


cdef inline void store64(uint8_t* data, uint64_t value) noexcept nogil:
    memcpy(data, &value, 8)


cdef inline void store_signed(uint64_t values, uint64_t signs, int8_t* staged) noexcept nogil:
    """Eight values that are above 0, with the signs (bytes of 0 or 255): no byte carries into the next one."""
    cdef uint64_t ones = <uint64_t> BYTES_OF_ONE << 32 | BYTES_OF_ONE
    cdef uint64_t result = (values ^ signs) + (signs & ones)
    memcpy(staged, &result, 8)


cdef inline void store_shifted(uint64_t values, uint32_t is_negative, int8_t* staged) noexcept nogil:
    """Eight values of 8, 16 or 24, and one added or taken off: no byte carries or borrows."""
    cdef uint64_t ones = <uint64_t> BYTES_OF_ONE << 32 | BYTES_OF_ONE
    cdef uint64_t result = values + ones - (ones << 1 if is_negative else <uint64_t> 0)
    memcpy(staged, &result, 8)


cdef inline void scale_runs(
    const int8_t* staged, int centre, const float* scales, int run, int64_t n, float* y, const uint8_t* ahead,
    int64_t stride
) noexcept nogil:
    """The values of n super-blocks, less `centre`, times the scale of their run (16 or 32 of them)."""
    cdef int64_t i
    cdef int part, j
    cdef const int8_t* values
    cdef float* target
    for i in range(n):
        prefetch_run(ahead + i * stride, stride)
        for part in range(GRID_BLOCK // run):
            values = staged + i * GRID_BLOCK + part * run
            target = y + i * GRID_BLOCK + part * run
            for j in range(run):
                target[j] = <float> (values[j] - centre) * scales[i * (GRID_BLOCK // run) + part]
