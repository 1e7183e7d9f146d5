# scales.pxi: 8-bit codes for the scales of 4-bit codes, for _core.pyx. Items are scales, in whole runs or
# super-blocks.


cdef class SumRuns(Kernel):
    """The float64 sum of each run."""

    cdef const float* scales
    cdef double* sums
    cdef int64_t run_size

    def __init__(self, object scales, int64_t run_size, object sums):
        self.scales, self.run_size = <const float*> self.read(scales, 4), run_size
        self.sums = <double*> self.write(sums, 8)

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        TABLE.runs_sum(self.scales + first, n, self.run_size, self.sums + first // self.run_size)
        return -1


cdef class QuantizeScales(Kernel):
    """Codes of the dynamic map for scales minus `offset`, and the absmax of each super-block."""

    cdef const float* scales
    cdef const int32_t* cells
    cdef uint8_t* codes
    cdef float* super_scales
    cdef int super_block_size
    cdef float offset

    def __init__(
        self, object scales, int super_block_size, float offset, object cells, object codes, object super_scales
    ):
        self.scales, self.super_block_size, self.offset = <const float*> self.read(scales, 4), super_block_size, offset
        self.cells = <const int32_t*> self.read(cells, 4)
        self.codes = self.write(codes, 1)
        self.super_scales = <float*> self.write(super_scales, 4)

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        TABLE.scales_quantize(
            self.scales + first, n, self.super_block_size, self.offset, self.cells, self.codes + first,
            self.super_scales + first // self.super_block_size,
        )
        return -1


cdef class DequantizeScales(Kernel):
    """Decodes 8-bit codes of scales: values of `table` times the super-scales plus `offset`."""

    cdef const uint8_t* codes
    cdef const float* super_scales
    cdef const float* table
    cdef float* scales
    cdef int super_block_size
    cdef float offset

    def __init__(
        self, object codes, int super_block_size, object super_scales, float offset, object table, object scales
    ):
        self.codes, self.super_block_size, self.offset = self.read(codes, 1), super_block_size, offset
        self.super_scales = <const float*> self.read(super_scales, 4)
        self.table = <const float*> self.read(table, 4)
        self.scales = <float*> self.write(scales, 4)

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        TABLE.scales_dequantize(
            self.codes + first, n, self.super_block_size, self.super_scales + first // self.super_block_size,
            self.offset, self.table, self.scales + first,
        )
        return -1
