# refine.pxi: effort="best". A block whose bytes are the reference's is looked at again: its format's `fit` searches
# more widely for scales, minima and codes, by the sum over weight * (x - decoded)**2, where a weight is the element's
# importance, or 1. What it finds is decoded by the format's own kernel and kept only where that sum, taken in float64,
# is smaller; else the reference's bytes stay. What a format needs for that stands in its file: `refine_scales(...)`.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from quantcore._kernels.common.bits cimport MAGNITUDE, bits_of, float_of
from quantcore._kernels.table cimport (
    MOST_ELEMENTS,
    MOST_RUNS,
    BlockFormat,
    BlockParts,
    FirstScales,
    FitBlock,
    LevelSet,
    PackBlock,
    Refinement,
    ScaledBlock,
    ScaleNumbers,
)

cdef extern from "candidates.h":
    enum:
        CANDIDATES "QUANTCORE_CANDIDATES"
    LevelSet quantcore_whole_levels(int lowest, int highest) noexcept nogil
    LevelSet quantcore_uneven_levels(const signed char* levels, int n) noexcept nogil
    double quantcore_weighed_error(const float* x, const float* y, const float* weights, int n) noexcept nogil

cdef enum:
    MOST_BLOCK_BYTES = 256
    LARGEST_EXPONENT = 100  # of the powers of two that values are scaled by: both they and their inverses are normal


cdef inline int32_t exponent_of(const float* x, int n) noexcept nogil:
    """The exponent of the largest magnitude, within the limits of what values are scaled by."""
    cdef uint32_t largest = 0
    cdef int j
    for j in range(n):
        largest = max(largest, bits_of(x[j]) & MAGNITUDE)
    return min(max(<int32_t> (largest >> 23) - 127, -LARGEST_EXPONENT), LARGEST_EXPONENT)


cdef inline float power_of_two(int32_t exponent) noexcept nogil:
    return float_of(<uint32_t> (exponent + 127) << 23)


cdef inline void scale_block(const float* x, const float* weights, int n, ScaledBlock* block) noexcept nogil:
    """Values and weights of usual size, whatever theirs is; weights of 1 if there are none."""
    cdef int32_t exponent = exponent_of(x, n)
    cdef float factor
    cdef int j
    block.up, block.down = power_of_two(exponent), power_of_two(-exponent)
    for j in range(n):
        block.x[j] = x[j] * block.down
    if weights == NULL:
        for j in range(n):
            block.weights[j] = 1
    else:
        factor = power_of_two(-exponent_of(weights, n))
        for j in range(n):
            block.weights[j] = weights[j] * factor


cdef void refine_blocks(
    const BlockFormat* format, const float* x, int64_t n, const float* weights, uint8_t* out
) noexcept nogil:
    """Replace those of n blocks, at most a tile of them, that can be coded with a smaller error."""
    cdef float decoded[TILE]
    cdef float changed[MOST_ELEMENTS]
    cdef uint8_t candidate[MOST_BLOCK_BYTES]
    cdef ScaledBlock block
    cdef BlockParts parts
    cdef const Refinement* refinement = &format.refinement
    cdef const float* xb
    cdef const float* wb = NULL
    cdef int64_t i
    cdef int size = format.block_size
    cdef double error
    format.dequantize_tile(out, n, decoded, out, 0)
    for i in range(n):
        xb = x + i * size
        if weights != NULL:
            wb = weights + i * size
        error = quantcore_weighed_error(xb, decoded + i * size, wb, size)
        if error == 0:
            continue
        scale_block(xb, wb, size, &block)
        block.reference = parts.reference = out + i * format.bytes_per_block
        block.decoded = decoded + i * size
        refinement.fit(refinement, &block, size // refinement.run, &parts)
        refinement.pack(&parts, candidate)
        if format.dequantize_tile(candidate, 1, changed, out, 0) >= 0:
            continue
        # Smaller by so much that it is so in whatever order the sum is taken.
        if quantcore_weighed_error(xb, changed, wb, size) < error * (1.0 - 1e-9):
            memcpy(out + i * format.bytes_per_block, candidate, format.bytes_per_block)


cdef Refinement* refine(int type_id, int run, FitBlock fit, PackBlock pack) noexcept:
    """Enter how a format is refined into the table; the rest of the facts are what `fit` needs of them."""
    cdef Refinement* refinement = &TABLE.formats[type_id].refinement
    refinement.fit, refinement.pack, refinement.run = fit, pack, run
    return refinement
