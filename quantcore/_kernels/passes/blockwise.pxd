# blockwise.pxd: 4-bit codes in blocks of 32 to 4096 elements with one float32 scale per block; two codes per byte, the
# first in the high nibble. int4: two's complement, x = code * scale, scale = absmax / 7. NF4 and FP4:
# x = table[code] * absmax.
from libc.float cimport FLT_MAX
from libc.math cimport rintf
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from quantcore._kernels.common.bits cimport MAGNITUDE, bits_of, float_of
from quantcore._kernels.common.memory cimport prefetch_run

cdef extern from "nibble_search.h":
    ctypedef struct quantcore_search:
        pass
    quantcore_search quantcore_search_of(const float* midpoints, int is_fp4) noexcept nogil
    void quantcore_search32(
        const float* x, float inverse, const quantcore_search* search, int is_fp4, uint8_t* out
    ) noexcept nogil

cdef extern from "nibbles.h":
    void quantcore_pair32(const int32_t* codes, uint8_t* data) noexcept nogil
    void quantcore_lookup32(const uint8_t* data, float scale, const float* table, float* y) noexcept nogil

cdef enum QuantType:
    INT4 = 0
    FP4 = 1
    NF4 = 2

cdef enum:
    GROUP = 32  # elements that are searched together
    GROUP_BYTES = 16
    NIBBLE_TILE = 4096  # elements: the largest block; 16 KiB of float32
    NIBBLE_TILE_BYTES = 2048  # bytes of the codes of a tile
    NIBBLE_TILE_BLOCKS = 128  # the most blocks of a tile, of 32 elements each
    SCALES_PART = 256  # scales that are coded together
    LEAF = 128  # scales that are added up in lanes

# The cells of codebooks.py, into which the range of the dynamic map is cut: CELL neighbouring floats each.
cdef enum:
    CELL_BITS = 17
    CELL = 1 << CELL_BITS
    LOWEST_MAGNITUDE = 0x34800000  # 2**-22: smaller magnitudes are coded as 0
    HIGHEST_MAGNITUDE = 0x3F800000  # 1
    N_CELLS = ((HIGHEST_MAGNITUDE - LOWEST_MAGNITUDE) >> CELL_BITS) + 1  # of each sign


cdef inline uint32_t absmax_bits(const float* x, int64_t n) noexcept nogil:
    """The bits of the largest magnitude; with NaN or inf they are INFINITE or above."""
    cdef int64_t i
    cdef int j
    cdef uint32_t largest = 0, of_group
    # A constant number of elements compiles to vector instructions without a loop.
    for i in range(n // GROUP):
        of_group = 0
        for j in range(GROUP):
            of_group = max(of_group, bits_of(x[GROUP * i + j]) & MAGNITUDE)
        largest = max(largest, of_group)
    for i in range(n // GROUP * GROUP, n):
        largest = max(largest, bits_of(x[i]) & MAGNITUDE)
    return largest


cdef inline void int4_code32(const float* x, float divisor, uint8_t* out) noexcept nogil:
    """32 codes clip(rint(x / divisor), -7, 7); the clamp on the floats keeps the cast defined, NaN included."""
    cdef int32_t code[GROUP]
    cdef int j
    cdef float v
    for j in range(GROUP):
        v = x[j] / divisor
        v = float_of(min(bits_of(v) & MAGNITUDE, <uint32_t> 0x40E00000) | (bits_of(v) & ~<uint32_t> MAGNITUDE))
        code[j] = <int32_t> rintf(v) & 15
    quantcore_pair32(code, out)


cdef inline void code_groups(
    const float* x, int64_t n, int block_size, const float* factors, const int quant_type,
    const quantcore_search* shared_search, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    # A local copy, which no store can change, stays in registers.
    cdef quantcore_search search = shared_search[0]
    cdef int64_t i
    cdef int shift = 0
    while GROUP << shift < block_size:
        shift += 1
    for i in range(n // GROUP):
        if quant_type == INT4:
            int4_code32(x, factors[i >> shift], out)
        else:
            quantcore_search32(x, factors[i >> shift], &search, quant_type == FP4, out)
        prefetch_run(ahead, stride)
        x += GROUP
        out += GROUP_BYTES
        ahead += stride


cdef inline void code_blocks(
    const float* x, int64_t n, int block_size, const float* scales, int quant_type,
    const quantcore_search* search, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Code n <= NIBBLE_TILE elements (a multiple of 32) in blocks with their scales (for NF4 and FP4: the absmax).

    Dividing for all blocks first avoids waiting for a division between blocks; a loop per type keeps its constants in
    registers. Data at `ahead` are prefetched meanwhile, `stride` bytes per 32 elements.
    """
    cdef float factors[NIBBLE_TILE_BLOCKS]
    cdef int64_t n_blocks = (n + block_size - 1) // block_size, i
    if quant_type == INT4:
        for i in range(n_blocks):
            # If the scale is 0, all values are 0 or so small that a scale of 1 codes them as 0.
            factors[i] = scales[i] if scales[i] > 0 else <float> 1.0
        code_groups(x, n, block_size, factors, INT4, search, out, ahead, stride)
        return
    for i in range(n_blocks):
        # 1e-38 keeps the inverse finite; a block of zeros gets the codes of 0.
        factors[i] = <float> 1.0 / max(scales[i], <float> 1e-38)
    if quant_type == FP4:
        code_groups(x, n, block_size, factors, FP4, search, out, ahead, stride)
    else:
        code_groups(x, n, block_size, factors, NF4, search, out, ahead, stride)


cdef inline void decode_block(
    const uint8_t* data, int64_t n, float scale, const float* table, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil:
    """Decode n elements (a multiple of 32) of one block; `ahead` as for code_blocks."""
    cdef int64_t j
    for j in range(n // GROUP):
        prefetch_run(ahead + stride * j, stride)
        quantcore_lookup32(data + GROUP_BYTES * j, scale, table, y + GROUP * j)


cdef inline double sum_of_leaf(const float* x, int64_t n) noexcept nogil:
    """The sum of n <= LEAF elements in eight lanes; the elements after the last whole row are added to their total."""
    cdef double lanes[8]
    cdef double total = 0
    cdef int64_t whole = n // 8 * 8, start, j
    if whole:
        for j in range(8):
            lanes[j] = x[j]
        for start in range(8, whole, 8):
            for j in range(8):
                lanes[j] += x[start + j]
        total = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))
    for j in range(whole, n):
        total += x[j]
    return total


cdef inline float centred_absmax(const float* x, int64_t n, float offset) noexcept nogil:
    """The largest magnitude of x - offset."""
    cdef int64_t j
    cdef uint32_t largest = 0
    for j in range(n):
        largest = max(largest, bits_of(x[j] - offset) & MAGNITUDE)
    return float_of(largest)


cdef inline int32_t place_of(float v) noexcept nogil:
    """An integer in the order of the floats, for those that the dynamic map distinguishes; CELL of them form a cell."""
    cdef uint32_t magnitude = bits_of(v) & MAGNITUDE
    magnitude = max(<uint32_t> LOWEST_MAGNITUDE, min(<uint32_t> HIGHEST_MAGNITUDE, magnitude))
    return <int32_t> (magnitude - <uint32_t> LOWEST_MAGNITUDE) ^ (<int32_t> bits_of(v) >> 31)


cdef inline void dynamic_codes(
    const float* x, int64_t n, float offset, float inverse, const int32_t* cells, uint8_t* out
) noexcept nogil:
    """The codes of (x - offset) * inverse in the dynamic map, for n <= SCALES_PART elements.

    A cell holds at most one midpoint. Its entry is CELL times the code of its first place, plus the number that makes
    places beyond the midpoint carry into the next code.
    """
    cdef int32_t cell[SCALES_PART]
    cdef int32_t rest[SCALES_PART]
    cdef int32_t code[SCALES_PART]
    cdef int32_t place
    cdef int64_t j
    for j in range(n):
        place = place_of((x[j] - offset) * inverse)
        cell[j] = (place >> CELL_BITS) + N_CELLS
        rest[j] = place & (CELL - 1)
    for j in range(n):
        code[j] = (cells[cell[j]] + rest[j]) >> CELL_BITS
    for j in range(n):
        out[j] = <uint8_t> code[j]


cdef inline void decode_scales(
    const uint8_t* codes, int64_t n, float super_scale, float offset, const float* table, float* out
) noexcept nogil:
    """table[code] * super_scale + offset; near the end of float32's range, rounding may overflow."""
    cdef int64_t j
    cdef float v
    for j in range(n):
        v = table[codes[j]] * super_scale + offset
        out[j] = v if v <= <float> FLT_MAX else <float> FLT_MAX
