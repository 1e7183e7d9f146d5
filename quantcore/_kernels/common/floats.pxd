# floats.pxd: converts one tile of user values to float32 and back, so that kernels only see float32 in L1.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from quantcore._kernels.common.bits cimport INFINITE, MAGNITUDE, bf16_bits_of, bits_of, f32_of_bf16

cdef extern from "halves.h":
    void quantcore_widen_halves(const uint16_t* half, int64_t n, float* x) noexcept nogil
    void quantcore_narrow_floats(const float* x, int64_t n, uint16_t* half) noexcept nogil

# Element types of the user's arrays. The boundary (_base/arrays.py) uses the same numbers.
cdef enum Dtype:
    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2
    FLOAT64 = 3

cdef enum:
    TILE = 2048  # elements: 8 KiB of float32


cdef inline int64_t size_of(int dtype) noexcept nogil:
    return 4 if dtype == FLOAT32 else 8 if dtype == FLOAT64 else 2


cdef inline void load_tile(const uint8_t* values, int dtype, int64_t n, float* x) noexcept nogil:
    """Convert n values of a type other than float32 into x. A float64 beyond float32's range becomes inf."""
    cdef int64_t j
    cdef const uint16_t* half = <const uint16_t*> values
    cdef const double* wide = <const double*> values
    if dtype == FLOAT16:
        quantcore_widen_halves(half, n, x)
    elif dtype == BFLOAT16:
        for j in range(n):
            x[j] = f32_of_bf16(half[j])
    else:
        for j in range(n):
            x[j] = <float> wide[j]


cdef inline void widen_tile(const uint8_t* values, int dtype, int64_t n, float* staged, double* x) noexcept nogil:
    """Convert n values of a type other than float64 into x, through `staged` if they are not float32."""
    cdef int64_t j
    cdef const float* narrow = <const float*> values
    if dtype != FLOAT32:
        load_tile(values, dtype, n, staged)
        narrow = staged
    for j in range(n):
        x[j] = narrow[j]


cdef inline void store_tile(const float* y, int64_t n, int dtype, uint8_t* values) noexcept nogil:
    """Convert n float32 to float16 or bfloat16, rounded to nearest even."""
    cdef int64_t j
    cdef uint16_t* half = <uint16_t*> values
    if dtype == FLOAT16:
        quantcore_narrow_floats(y, n, half)
    else:
        for j in range(n):
            half[j] = <uint16_t> bf16_bits_of(y[j])


cdef inline const float* loaded(const uint8_t* values, int dtype, int64_t at, int64_t n, float* staged) noexcept nogil:
    """n values from `at` as float32: in place, or converted into `staged`."""
    if dtype == FLOAT32:
        return <const float*> values + at
    load_tile(values + at * size_of(dtype), dtype, n, staged)
    return staged


cdef inline float* place(uint8_t* values, int dtype, int64_t at, float* staged) noexcept nogil:
    """Where a kernel writes float32, which `keep` then converts if necessary."""
    return <float*> values + at if dtype == FLOAT32 else staged


cdef inline void keep(const float* y, int64_t n, uint8_t* values, int dtype, int64_t at) noexcept nogil:
    if dtype != FLOAT32:
        store_tile(y, n, dtype, values + at * size_of(dtype))


cdef inline int64_t first_from(const float* x, int64_t n, uint32_t limit) noexcept nogil:
    """The index of the first element whose magnitude has bits >= the limit, or -1."""
    cdef int64_t j
    cdef uint32_t largest = 0
    for j in range(n):
        largest = max(largest, bits_of(x[j]) & MAGNITUDE)
    if largest < limit:
        return -1
    for j in range(n):
        if (bits_of(x[j]) & MAGNITUDE) >= limit:
            return j
    return -1
