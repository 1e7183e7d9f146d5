# walk.pxi: the loop that takes every format's blocks through L1, tile by tile, and how a format registers itself. A
# format's file is included after this one and ends with its own `offer(...)`.
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset

from quantcore._kernels.common.floats cimport FLOAT32, TILE, load_tile, loaded, size_of, store_tile
from quantcore._kernels.table cimport (
    NEEDS_ROW_MEAN,
    NO_GRID,
    BlockFormat,
    DequantizeTile,
    QuantizeTile,
    RowImportance,
    TileImportance,
)

cdef extern from "squares.h":
    enum:
        SQUARED_ROWS
    void quantcore_add_squares(const float* x, int64_t stride, int64_t rows, int64_t n, float* sums) noexcept nogil

cdef enum:
    STAGED_COLS = 256  # of rows that are summed together
    MOST_WEIGHED = 64  # blocks in a tile of a format that takes importance: these have 32 elements at least


cdef void row_mean_squares(
    const uint8_t* values, int dtype, int64_t cols, int64_t n_rows, float* means
) noexcept nogil:
    """The mean of the squares of each of n_rows <= SQUARED_ROWS rows, summed in float32 in the order of the elements,
    as ggml does. `means` have room for SQUARED_ROWS. `cols` is a multiple of 4.
    """
    cdef float staged[SQUARED_ROWS * STAGED_COLS]
    cdef int64_t start = 0, n, row, size = size_of(dtype)
    memset(means, 0, SQUARED_ROWS * sizeof(float))
    if dtype == FLOAT32:
        quantcore_add_squares(<const float*> values, cols, n_rows, cols, means)
    else:
        while start < cols:
            n = min(<int64_t> STAGED_COLS, cols - start)
            for row in range(n_rows):
                load_tile(values + (row * cols + start) * size, dtype, n, staged + row * STAGED_COLS)
            quantcore_add_squares(staged, STAGED_COLS, n_rows, n, means)
            start += n
    for row in range(n_rows):
        means[row] = means[row] / <float> cols


cdef void weigh_blocks(
    const BlockFormat* format, const RowImportance* importance, int64_t first, int64_t n, float* weights
) noexcept nogil:
    """A weight for each element of the blocks first to first + n of the array."""
    cdef int64_t cols = importance.blocks_per_row * format.block_size
    cdef int64_t i = first, stop = first + n, row, in_row, run, j
    cdef const float* source
    while i < stop:
        row, in_row = i // importance.blocks_per_row, i % importance.blocks_per_row
        run = min(stop - i, importance.blocks_per_row - in_row)
        source = importance.weights + row // importance.rows_per_group * cols + in_row * format.block_size
        for j in range(run * format.block_size):
            weights[j] = source[j]
        weights += run * format.block_size
        i += run


cdef int64_t quantize_blocks(
    const BlockFormat* format, const uint8_t* values, int dtype, int64_t first, int64_t n,
    const RowImportance* importance, bint is_refined, uint8_t* out,
) noexcept nogil:
    cdef float staged[TILE]
    cdef float weights[TILE]
    cdef float mean_squares[MOST_WEIGHED]
    cdef TileImportance of_tile
    cdef const TileImportance* passed = NULL
    cdef const float* x
    cdef int64_t tile = TILE // format.block_size, stride = format.block_size * size_of(dtype)
    cdef float row_means[SQUARED_ROWS]
    cdef int64_t i = 0, j, count, bad, row, first_summed = 0, summed = 0
    if importance != NULL:
        of_tile.weights, of_tile.mean_squares = weights, mean_squares
        passed = &of_tile
    while i < n:
        count = min(tile, n - i)
        x = loaded(values, dtype, i * format.block_size, count * format.block_size, staged)
        if importance != NULL:
            weigh_blocks(format, importance, first + i, count, weights)
            if format.flags & NEEDS_ROW_MEAN:
                for j in range(count):
                    row = (first + i + j) // importance.blocks_per_row
                    if row >= first_summed + summed:
                        first_summed = row
                        summed = min(<int64_t> SQUARED_ROWS, (first + n - 1) // importance.blocks_per_row + 1 - row)
                        # `values` point to block `first`: a row that began before it lies in front of them.
                        row_mean_squares(
                            values + (row * importance.blocks_per_row - first) * stride, dtype,
                            importance.blocks_per_row * format.block_size, summed, row_means,
                        )
                    mean_squares[j] = row_means[row - first_summed]
        bad = format.quantize_tile(
            x, count, passed, out + i * format.bytes_per_block, values + (i + tile) * stride, stride
        )
        if bad >= 0:
            return i + bad
        if is_refined and format.refinement.fit != NULL:
            refine_blocks(format, x, count, weights if importance != NULL else NULL, out + i * format.bytes_per_block)
        i += count
    return -1


cdef int64_t dequantize_blocks(
    const BlockFormat* format, const uint8_t* data, int64_t n, uint8_t* values, int dtype
) noexcept nogil:
    cdef float staged[TILE]
    cdef float* y
    cdef int64_t tile = TILE // format.block_size, stride = format.block_size * size_of(dtype)
    cdef int64_t i = 0, count, bad, first_bad = -1
    while i < n:
        count = min(tile, n - i)
        y = <float*> values + i * format.block_size if dtype == FLOAT32 else staged
        bad = format.dequantize_tile(
            data + i * format.bytes_per_block, count, y, values + (i + tile) * stride, stride
        )
        if bad >= 0 and first_bad < 0:
            first_bad = i + bad
        if dtype != FLOAT32:
            store_tile(staged, count * format.block_size, dtype, values + i * stride)
        i += count
    return first_bad


cdef void offer(
    int type_id, int block_size, int bytes_per_block, QuantizeTile quantize_tile, DequantizeTile dequantize_tile,
    int flags=0, int grid=NO_GRID,
) noexcept:
    """Enter a format into the table, under ggml's id of it."""
    cdef BlockFormat* format = &TABLE.formats[type_id]
    format.block_size = block_size
    format.bytes_per_block = bytes_per_block
    format.flags = flags
    format.grid = grid
    format.quantize_tile = quantize_tile
    format.dequantize_tile = dequantize_tile
