# _core.pyx: the one door between Python and the kernels: memoryviews become pointers here, the GIL is released here.
# Nothing is checked: quantcore/_arrays.py has done that. The functions are called by several threads with one Chunks.
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint64_t

from quantcore._kernels.floats cimport size_of
from quantcore._kernels.table cimport N_FORMATS, BlockKernels, CodingRows, GroupLayout, KernelTable

cdef extern from "cpu.h":
    int quantcore_x86_64_level() noexcept nogil

cdef extern from "atomics.h":
    int64_t quantcore_take(int64_t* counter, int64_t step) noexcept nogil
    int64_t quantcore_read(int64_t* value) noexcept nogil
    void quantcore_lower(int64_t* value, int64_t candidate) noexcept nogil

cdef KernelTable* TABLE = NULL


def x86_64_level():
    """The x86-64 psABI level (1 to 4) that this CPU and its operating system support; 0 on other architectures."""
    return quantcore_x86_64_level()


def use(table):
    """Take a level's kernels (the capsule `table` of its module). Called once, at import."""
    global TABLE
    TABLE = <KernelTable*> PyCapsule_GetPointer(table, "quantcore._kernels.table")


def block_sizes():
    """{ggml type id: (block_size, bytes_per_block)} as the kernels were compiled."""
    cdef int i
    return {
        TABLE.formats[i].id: (TABLE.formats[i].block_size, TABLE.formats[i].bytes_per_block)
        for i in range(N_FORMATS)
    }


cdef class Chunks:
    """Items 0 to total, handed out in ascending chunks to any number of threads.

    `first_bad` is the lowest item that a kernel could not take (-1: none). Chunks above it are no longer handed out
    unless `goes_on`, all below it have been, so the figure does not depend on the number of threads.
    """

    cdef int64_t total, size, position, lowest_bad, is_cancelled
    cdef bint goes_on

    def __init__(self, int64_t total, int64_t size, bint goes_on=False):
        self.goes_on = goes_on
        self.total = total
        self.size = size
        self.position = 0
        self.lowest_bad = INT64_MAX
        self.is_cancelled = 0

    def cancel(self):
        """Hand out no more chunks; those under way are finished."""
        quantcore_take(&self.is_cancelled, 1)

    @property
    def first_bad(self):
        return -1 if self.lowest_bad == INT64_MAX else self.lowest_bad

    @property
    def is_done(self):
        """Whether no chunk will be handed out any more."""
        cdef int64_t position = quantcore_read(&self.position)
        if position >= self.total or quantcore_read(&self.is_cancelled):
            return True
        return position > quantcore_read(&self.lowest_bad) and not self.goes_on

    cdef int64_t take(self, int64_t* most) noexcept nogil:
        """The first item of the next chunk, or -1; also after `most` chunks, which are counted down."""
        cdef int64_t start
        if most[0] <= 0:
            return -1
        most[0] -= 1
        start = quantcore_take(&self.position, self.size)
        if start >= self.total or quantcore_read(&self.is_cancelled):
            return -1
        if start > quantcore_read(&self.lowest_bad) and not self.goes_on:
            return -1
        return start

    cdef int64_t count(self, int64_t start) noexcept nogil:
        return min(self.size, self.total - start)

    cdef void report(self, int64_t start, int64_t bad) noexcept nogil:
        if bad >= 0:
            quantcore_lower(&self.lowest_bad, start + bad)


cdef BlockKernels* kernels_of(int type_id) noexcept nogil:
    cdef int i
    for i in range(N_FORMATS):
        if TABLE.formats[i].id == type_id:
            return &TABLE.formats[i]
    return NULL


def quantize_blocks(int type_id, const uint8_t[::1] values, int dtype, uint8_t[::1] out, Chunks chunks, int64_t most):
    """Quantize chunks of blocks until none are left. `values` are the raw bytes of an array of element type `dtype`."""
    cdef BlockKernels* kernels = kernels_of(type_id)
    cdef int64_t stride = kernels.block_size * size_of(dtype)
    cdef int64_t start
    if chunks.total == 0:
        return
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            chunks.report(
                start,
                kernels.quantize(
                    &values[0] + start * stride, dtype, chunks.count(start), &out[0] + start * kernels.bytes_per_block
                ),
            )
            start = chunks.take(&most)


def dequantize_blocks(int type_id, const uint8_t[::1] data, uint8_t[::1] out, int dtype, Chunks chunks, int64_t most):
    """Dequantize chunks of blocks until none are left. `out` are the raw bytes of an array of element type `dtype`."""
    cdef BlockKernels* kernels = kernels_of(type_id)
    cdef int64_t stride = kernels.block_size * size_of(dtype)
    cdef int64_t start
    if chunks.total == 0:
        return
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            chunks.report(
                start,
                kernels.dequantize(
                    &data[0] + start * kernels.bytes_per_block, chunks.count(start), &out[0] + start * stride, dtype
                ),
            )
            start = chunks.take(&most)


def walk_strings(const uint8_t[::1] buffer, int64_t offset, int64_t n_strings):
    """Walk over up to n_strings strings (a 64-bit length, then that many bytes) that lie whole in the buffer.

    Returns how many there were and the offset behind the last one: (n, offset).
    """
    cdef int64_t n = 0, size = buffer.shape[0]
    cdef uint64_t length
    cdef int j
    while n < n_strings and size - offset >= 8:
        length = 0
        for j in range(8):
            length |= <uint64_t> buffer[offset + j] << (8 * j)
        if length > <uint64_t> (size - offset - 8):
            break
        offset += 8 + <int64_t> length
        n += 1
    return n, offset


def quantize_nibbles(
    const uint8_t[::1] values, int dtype, int block_size, int quant_type, const float[::1] tree, float[::1] scales,
    uint8_t[::1] out, Chunks chunks, int64_t most,
):
    """4-bit codes and their scales; `chunks` hand out elements, whole blocks at a time."""
    cdef int64_t itemsize = size_of(dtype), start
    if chunks.total == 0:
        return
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            chunks.report(
                start,
                TABLE.nibbles_quantize(
                    &values[0] + start * itemsize, dtype, chunks.count(start), block_size, quant_type, &tree[0],
                    &scales[0] + start // block_size, &out[0] + start // 2,
                ),
            )
            start = chunks.take(&most)


def quantize_nibbles_linear(
    const uint8_t[::1] values, int dtype, int block_size, int quant_type, const float[::1] tree, int super_block_size,
    uint8_t[::1] scales, float[::1] super_scales, uint8_t[::1] out, Chunks chunks, int64_t most,
):
    """4-bit codes, fitted to uint8 scales; `chunks` hand out elements, whole super-blocks at a time."""
    cdef int64_t itemsize = size_of(dtype), start
    if chunks.total == 0:
        return
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            chunks.report(
                start,
                TABLE.nibbles_quantize_linear(
                    &values[0] + start * itemsize, dtype, chunks.count(start), block_size, quant_type, &tree[0],
                    super_block_size, &scales[0] + start // block_size,
                    &super_scales[0] + start // (<int64_t> block_size * super_block_size), &out[0] + start // 2,
                ),
            )
            start = chunks.take(&most)


def dequantize_nibbles(
    const uint8_t[::1] data, int block_size, const float[::1] scales, const float[::1] table, uint8_t[::1] out,
    int dtype, Chunks chunks, int64_t most,
):
    """Decode 4-bit codes; `chunks` hand out elements, whole blocks at a time."""
    cdef int64_t itemsize = size_of(dtype), start
    if chunks.total == 0:
        return
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            TABLE.nibbles_dequantize(
                &data[0] + start // 2, chunks.count(start), block_size, &scales[0] + start // block_size, &table[0],
                &out[0] + start * itemsize, dtype,
            )
            start = chunks.take(&most)


def nearest_codes(const float[::1] x, float inverse, const float[::1] tree, uint8_t[::1] out):
    """The nearest of 256 sorted codes to each x * inverse, by the search tree of their midpoints."""
    if x.shape[0]:
        with nogil:
            TABLE.nearest_of_256(&x[0], x.shape[0], inverse, &tree[0], &out[0])


cdef GroupLayout layout_of(tuple layout):
    cdef GroupLayout result
    result.cols, result.size, result.per_row, result.sharing = layout
    return result


cdef CodingRows coding_rows_of(const float[:, ::1] parameters):
    """`parameters`: rows of scales, inverses, zero points, lowest and highest codes less the zero points."""
    cdef CodingRows rows
    rows.n_scales = parameters.shape[1]
    rows.scales, rows.inverses, rows.zero_points = &parameters[0, 0], &parameters[1, 0], &parameters[2, 0]
    rows.lows, rows.highs = &parameters[3, 0], &parameters[4, 0]
    return rows


def extremes_of_groups(
    const uint8_t[::1] values, int dtype, tuple layout, int32_t[::1] lowest, int32_t[::1] highest, Chunks chunks,
    int64_t most,
):
    """Keys of the extremes of each group; `chunks` hand out groups. `layout`: (cols, size, per_row, sharing)."""
    cdef GroupLayout groups = layout_of(layout)
    cdef int64_t start
    if chunks.total == 0:
        return
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            TABLE.groups_extremes(
                &values[0], dtype, &groups, start, chunks.count(start), &lowest[0], &highest[0]
            )
            start = chunks.take(&most)


def extremes_of_columns(
    const uint8_t[::1] values, int dtype, int64_t width, int32_t[:, ::1] lowest, int32_t[:, ::1] highest,
    Chunks chunks, int64_t most,
):
    """Keys of the extremes of each column, a row of them for each chunk; `chunks` hand out rows."""
    cdef int64_t start, itemsize = size_of(dtype), i
    if chunks.total == 0 or width == 0:
        return
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            i = start // chunks.size
            TABLE.columns_extremes(
                &values[0] + start * width * itemsize, dtype, chunks.count(start), width, &lowest[i, 0], &highest[i, 0]
            )
            start = chunks.take(&most)


def quantize_groups(
    const uint8_t[::1] values, int dtype, tuple layout, const float[:, ::1] parameters, uint8_t[::1] out, Chunks chunks,
    int64_t most,
):
    """Affine codes, a scale for each group; `chunks` hand out groups. `parameters`: see coding_rows_of."""
    cdef GroupLayout groups = layout_of(layout)
    cdef CodingRows rows
    cdef int64_t start
    if chunks.total == 0:
        return
    rows = coding_rows_of(parameters)
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            chunks.report(
                0,
                TABLE.groups_quantize(&values[0], dtype, &groups, start, chunks.count(start), &rows, &out[0]),
            )
            start = chunks.take(&most)


def quantize_columns(
    const uint8_t[::1] values, int dtype, const float[:, ::1] parameters, uint8_t[::1] out, Chunks chunks, int64_t most
):
    """Affine codes, a scale for each column of a row; `chunks` hand out rows."""
    cdef int64_t start, itemsize = size_of(dtype), width = parameters.shape[1]
    cdef CodingRows rows
    if chunks.total == 0 or width == 0:
        return
    rows = coding_rows_of(parameters)
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            chunks.report(
                start,
                TABLE.columns_quantize(
                    &values[0] + start * width * itemsize, dtype, chunks.count(start), width, &rows,
                    &out[0] + start * width,
                ),
            )
            start = chunks.take(&most)


def dequantize_groups(
    const uint8_t[::1] codes, bint is_signed, tuple layout, const float[:, ::1] parameters, uint8_t[::1] out, int dtype,
    Chunks chunks, int64_t most,
):
    """Decode affine codes, a scale for each group; `chunks` hand out groups."""
    cdef GroupLayout groups = layout_of(layout)
    cdef CodingRows rows
    cdef int64_t start
    if chunks.total == 0:
        return
    rows = coding_rows_of(parameters)
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            TABLE.groups_dequantize(
                &codes[0], is_signed, &groups, start, chunks.count(start), &rows, &out[0], dtype
            )
            start = chunks.take(&most)


def dequantize_columns(
    const uint8_t[::1] codes, bint is_signed, const float[:, ::1] parameters, uint8_t[::1] out, int dtype, Chunks chunks,
    int64_t most,
):
    """Decode affine codes, a scale for each column of a row; `chunks` hand out rows."""
    cdef int64_t start, itemsize = size_of(dtype), width = parameters.shape[1]
    cdef CodingRows rows
    if chunks.total == 0 or width == 0:
        return
    rows = coding_rows_of(parameters)
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            TABLE.columns_dequantize(
                &codes[0] + start * width, is_signed, chunks.count(start), width, &rows,
                &out[0] + start * width * itemsize, dtype,
            )
            start = chunks.take(&most)


include "core_fake_quant.pxi"
include "core_statistics.pxi"
include "core_errors.pxi"
