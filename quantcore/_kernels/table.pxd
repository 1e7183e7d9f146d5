# table.pxd: the kernels of one CPU level: a function pointer each. Kernels are pure: pointers and counts in, no Python,
# no allocation, no checks; they return the first invalid block, or -1.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from quantcore._kernels.passes.histogram cimport N_BINS, Grid, Histogram

cdef extern from "candidates.h":
    ctypedef struct LevelSet "quantcore_level_set":
        int n
        float lowest
        float highest

# The importance matrix for rows of blocks: one weight per column, `weights` of one group of rows after the other
# (`rows_per_group` rows share a group's weights, such as the rows of an expert).
ctypedef struct RowImportance:
    const float* weights
    int64_t blocks_per_row
    int64_t rows_per_group

# The same for the blocks of a tile: a weight per element, and for each block the mean square of its whole row.
ctypedef struct TileImportance:
    const float* weights
    const float* mean_squares  # only for formats that were offered with NEEDS_ROW_MEAN

# A format's own part: n blocks, at most a tile (formats/walk.pxi). `x`, `y`: n * block_size float32; `importance` may
# be NULL. While it computes in L1, it may prefetch the blocks at `ahead`, `stride` bytes each. Returns the first block
# that cannot be coded, or whose scale is not finite, or -1.
ctypedef int64_t (*QuantizeTile)(
    const float* x, int64_t n, const TileImportance* importance, uint8_t* out, const uint8_t* ahead, int64_t stride
) noexcept nogil
ctypedef int64_t (*DequantizeTile)(
    const uint8_t* data, int64_t n, float* y, const uint8_t* ahead, int64_t stride
) noexcept nogil

# The grids of the IQ1, IQ2 and IQ3 types. A point has 8 digits of 0 to 2, or 4 of 0 to 7; points are in ascending order
# of their digits as a number, the first digit lowest. All of it is in _core, made when a format first needs it
# (core/grids.pxi), and the same for every level.
cdef enum:
    NO_GRID = 0
    GRID_IQ2_XXS = 1
    GRID_IQ2_XS = 2
    GRID_IQ2_S = 3
    GRID_IQ1 = 4
    GRID_IQ3_XXS = 5
    GRID_IQ3_S = 6
    N_GRIDS = 7

# For decoding: 8 or 4 int8 a point, and 8 bytes for every code of 8 signs (128 codes if their number is even): 255
# where the sign is negative.
ctypedef struct GridPoints:
    const uint8_t* values
    const uint64_t* signs

# For quantizing: what each number of digits has near it. `places`: the number of points in bits 0 to 8; in those from
# PLACE_SHIFT on the first of them in `near`, or, of a number that is a point itself (ON_GRID), its index. `near`:
# points as packed digits (2 or 3 bits each), by distance and then by index.
cdef enum:
    PLACE_COUNT = 511
    ON_GRID = 512
    PLACE_SHIFT = 10

ctypedef struct GridSearch:
    const uint32_t* places
    const uint16_t* near

ctypedef struct Grids:
    const GridPoints* points[N_GRIDS]
    const GridSearch* searches[N_GRIDS]

# For effort="best" (formats/refine.pxi). What a block's bytes are made of: the fp16 of which runs' scales and minima
# are multiples, where they are; for each run of elements that share a scale the code of the scale and, where there is
# one, of the minimum; for each element, which of the levels it has.
cdef enum:
    MOST_ELEMENTS = 256
    MOST_RUNS = 16

ctypedef struct BlockParts:
    const uint8_t* reference
    int32_t d
    int32_t dmin
    int32_t scales[MOST_RUNS]
    int32_t minima[MOST_RUNS]
    int32_t codes[MOST_ELEMENTS]

# A block's values and weights, both times a power of two that brings the largest to 1 to 2; `up` undoes that of the
# values, `down` is the power itself. `reference`: the reference's bytes;
# `decoded`: what they stand for.
ctypedef struct ScaledBlock:
    float x[MOST_ELEMENTS]
    float weights[MOST_ELEMENTS]
    float up
    float down
    const uint8_t* reference
    const float* decoded

# Finds parts that fit a block; packs them. `codes` may be changed by packing.
cdef struct Refinement
ctypedef void (*FitBlock)(
    const Refinement* refinement, const ScaledBlock* block, int n_runs, BlockParts* parts
) noexcept nogil
ctypedef void (*PackBlock)(BlockParts* parts, uint8_t* block) noexcept nogil

# The numbers that a scale may be: their codes ascend from 0 to `last` with them. `decode` takes CANDIDATES codes.
ctypedef struct ScaleNumbers:
    int32_t last
    int32_t (*nearest)(float magnitude) noexcept nogil
    void (*decode)(const int32_t* codes, float* scales) noexcept nogil

# The scales that are tried first: the extreme over `top`, over `top + step` and so on, `batches` times 16 of them. The
# highest magnitude among the levels is a little above `top`.
ctypedef struct FirstScales:
    float top
    float step
    int batches

# How a format is refined. `run`: elements that share a scale. `numbers`: what a scale may be that stands alone.
# Otherwise scales are multiples of an fp16 at byte `d_at`, and minima, if `highest_minimum` is not 0, of another one at
# `dmin_at`. `scales_at`, `scales_stride` and `scale_bits`: the bits of runs' scales beside points of a grid.
cdef struct Refinement:
    FitBlock fit
    PackBlock pack
    LevelSet levels
    const ScaleNumbers* numbers
    int run
    FirstScales first
    int lowest_multiple
    int highest_multiple
    int highest_minimum
    int d_at
    int dmin_at
    int scales_at
    int scales_stride
    int scale_bits

cdef enum:
    MOST_TYPES = 64  # ggml's type ids are below
    NEEDS_ROW_MEAN = 1

ctypedef struct BlockFormat:
    int block_size  # 0: no format has this id
    int bytes_per_block
    int flags
    int grid
    QuantizeTile quantize_tile
    DequantizeTile dequantize_tile
    Refinement refinement  # `fit` is NULL where there is nothing to refine

# Blocks first to first + n of an array (block `first` is where `values` and `out` point). values: n * block_size
# elements of a Dtype (common/floats.pxd); out: n * bytes_per_block bytes. `importance` may be NULL. `is_refined`: after
# the reference's bytes, look for better ones (formats/refine.pxi).
ctypedef int64_t (*QuantizeBlocks)(
    const BlockFormat* format, const uint8_t* values, int dtype, int64_t first, int64_t n,
    const RowImportance* importance, bint is_refined, uint8_t* out,
) noexcept nogil
ctypedef int64_t (*DequantizeBlocks)(
    const BlockFormat* format, const uint8_t* data, int64_t n, uint8_t* values, int dtype
) noexcept nogil

# 4-bit codes in blocks of block_size elements (blockwise.pxd), the last one may be short. `values` and `data` begin
# with a block; `midpoints` are those between the code's values, ascending (codebooks.py); `table` has its 16 values.
# quantize_linear: uint8 scales in super-blocks, codes fitted to them.
ctypedef int64_t (*NibblesQuantize)(
    const uint8_t* values, int dtype, int64_t n, int block_size, int quant_type, const float* midpoints, float* scales,
    uint8_t* out,
) noexcept nogil
ctypedef int64_t (*NibblesQuantizeLinear)(
    const uint8_t* values, int dtype, int64_t n, int block_size, int quant_type, const float* midpoints,
    int super_block_size, uint8_t* scales, float* super_scales, uint8_t* out,
) noexcept nogil
ctypedef void (*NibblesDequantize)(
    const uint8_t* data, int64_t n, int block_size, const float* scales, const float* table, uint8_t* values,
    int dtype,
) noexcept nogil
# The scales of 4-bit codes, minus `offset`, as codes of the dynamic map in super-blocks; `cells`: see codebooks.py.
# Decoding works with any `table` of 256 values. Sums are computed per run. A last run or super-block may be short.
ctypedef void (*RunsSum)(const float* x, int64_t n, int64_t run, double* sums) noexcept nogil
ctypedef void (*ScalesQuantize)(
    const float* scales, int64_t n, int super_block_size, float offset, const int32_t* cells, uint8_t* codes,
    float* super_scales,
) noexcept nogil
ctypedef void (*ScalesDequantize)(
    const uint8_t* codes, int64_t n, int super_block_size, const float* super_scales, float offset, const float* table,
    float* scales,
) noexcept nogil

# Codes of 8 or 4 bits (two a byte, the low one first) in stacked matrices of `rows` x `columns`. A rectangle of
# `row_block` x `column_block` elements shares a scale, of which each matrix has `scale_rows` x `scale_columns`;
# `scales` begins with the row `first_scale_row` of all of them. `codes` and `values` begin with element `first`, an
# even one.
ctypedef struct ScaledCodes:
    int bits
    int widening  # of codes of 8 bits
    const float* table
    const double* scales
    int64_t columns
    int64_t rows
    int64_t row_block
    int64_t column_block
    int64_t scale_rows
    int64_t scale_columns
    int64_t first_scale_row

ctypedef void (*CodesDequantize)(
    const ScaledCodes* coded, const uint8_t* codes, int64_t first, int64_t n, uint8_t* values, int dtype
) noexcept nogil

# Affine codes (affine.pxd). Groups are runs that share a scale: `per_row` of `size` elements in each row of `cols`, the
# last one of a row short; `sharing` consecutive groups share one scale, and the scales repeat after n_scales.
# Columns: rows of `width` elements with one scale per column.
ctypedef struct GroupLayout:
    int64_t cols
    int64_t size
    int64_t per_row
    int64_t sharing

# One of each per scale or column; `lows` and `highs` are the ends of the codes minus the zero point. `offsets` are what
# is subtracted from the values first, or NULL.
ctypedef struct CodingRows:
    int64_t n_scales
    const float* scales
    const float* inverses
    const float* zero_points
    const float* lows
    const float* highs
    const float* offsets
    bint are_limits_shared  # by all columns: one zero point, one low and one high

ctypedef void (*GroupsExtremes)(
    const uint8_t* values, int dtype, const GroupLayout* layout, int64_t first, int64_t n, int32_t* lowest,
    int32_t* highest,
) noexcept nogil
ctypedef void (*ColumnsExtremes)(
    const uint8_t* values, int dtype, int64_t n_rows, int64_t width, int32_t* lowest, int32_t* highest,
) noexcept nogil
ctypedef int64_t (*GroupsQuantize)(
    const uint8_t* values, int dtype, const GroupLayout* layout, int64_t first, int64_t n, const CodingRows* rows,
    uint8_t* out,
) noexcept nogil
ctypedef int64_t (*ColumnsQuantize)(
    const uint8_t* values, int dtype, int64_t n_rows, int64_t width, const CodingRows* rows, uint8_t* out
) noexcept nogil
ctypedef void (*GroupsDequantize)(
    const uint8_t* codes, int is_signed, const GroupLayout* layout, int64_t first, int64_t n, const CodingRows* rows,
    uint8_t* values, int dtype,
) noexcept nogil
ctypedef void (*ColumnsDequantize)(
    const uint8_t* codes, int is_signed, int64_t n_rows, int64_t width, const CodingRows* rows, uint8_t* values,
    int dtype,
) noexcept nogil

# Codes of columns that are rounded down (floor_codes.pxi). `lows` and `widths` have an entry per column; `is_wide`: the
# product with the factor is float64.
ctypedef struct FloorCoding:
    const float* lows
    const float* widths
    float most
    float factor
    bint is_wide

ctypedef int64_t (*ColumnsFloor)(
    const uint8_t* values, int dtype, int64_t n_rows, int64_t width, const FloorCoding* coding, uint8_t* out
) noexcept nogil

# Histograms (histogram.pxd) of a channel, or of columns whose grids contain all values; -1: a value is not finite, and
# the histograms are invalid. Columns are counted into tables of 16 bits for each channel (at most SLOT_COLUMNS columns,
# each with room for the values), or into the rows of counts; `slots` has room for MOST_SLOTS.
cdef enum:
    SLOT_COLUMNS = 512
    MOST_SLOTS = 1 << 17

ctypedef struct ColumnCounts:
    uint16_t* slots
    uint16_t* tables  # of the three, the one that is not NULL
    uint32_t* counts
    uint64_t* wide_counts

ctypedef int64_t (*CountChannel)(
    const uint8_t* values, int dtype, int64_t outer, int64_t distance, int64_t inner, Histogram* histogram
) noexcept nogil
ctypedef int64_t (*CountColumns)(
    const uint8_t* values, int dtype, int64_t n_rows, int64_t width, int64_t n_channels, int64_t inner,
    const Grid* grids, const ColumnCounts* into,
) noexcept nogil
# Tables are added to the rows of counts that are not NULL, and cleared.
ctypedef void (*AddChannel)(Histogram* histogram, uint32_t* counts, uint64_t* wide_counts) noexcept nogil
ctypedef void (*AddColumns)(
    const Grid* grids, uint16_t* tables, int64_t n_channels, uint32_t* counts, uint64_t* wide_counts
) noexcept nogil
# Where to clip (clipping.pxd): the two ends for a row of counts.
cdef enum ClipMethod:
    CLIP_ENTROPY = 0
    CLIP_ERROR = 1

ctypedef struct ClipJob:
    int method
    bint is_symmetric
    bint has_offset
    int32_t limits[2]  # the first and the last code
    int magnitudes  # levels of |x| for entropy
    const uint32_t* counts  # of the two, the one that is not NULL
    const uint64_t* wide_counts

ctypedef void (*ClipHistogram)(const ClipJob* job, const Grid* grid, int64_t row, double* ends) noexcept nogil
# Halves of keys (selection.pxd).
ctypedef void (*CountHalves)(
    const uint8_t* values, int dtype, int64_t n, const uint32_t* uppers, int n_uppers, uint32_t* counts
) noexcept nogil

# Fake quantization and its gradients (fake_quant.pxd), in groups or columns. The backward pass has `grads`, and for
# LSQ sums per group or per column: of the scales' terms, and of the gradient out of range.
cdef enum FakeQuantWork:
    FAKE_QUANTIZE = 0
    BACKWARD = 1
    LSQ = 2

ctypedef struct FakeQuantJob:
    int work
    bint in_columns
    const uint8_t* values
    int dtype
    const uint8_t* grads
    int grad_dtype
    uint8_t* out
    int out_dtype
    CodingRows rows
    double* scale_sums
    double* outside_sums

ctypedef int64_t (*FakeQuantGroups)(
    const FakeQuantJob* job, const GroupLayout* layout, int64_t first, int64_t n
) noexcept nogil
ctypedef int64_t (*FakeQuantColumns)(
    const FakeQuantJob* job, int64_t width, int64_t first_row, int64_t n_rows
) noexcept nogil

# Error sums (errors.pxd): chunks of ERROR_CHUNK elements have one row of N_SUMS sums each. Affine codes use the groups
# of `layout`, or columns if `width` is not 0.
cdef enum:
    ERROR_CHUNK = 1 << 16

ctypedef struct AffineCoding:
    GroupLayout layout
    int64_t width
    CodingRows rows

ctypedef void (*PairsErrors)(
    const uint8_t* x, int x_dtype, const uint8_t* y, int y_dtype, int64_t n, double threshold, double* sums,
) noexcept nogil
ctypedef int64_t (*AffineErrors)(
    const uint8_t* values, int dtype, int64_t first, int64_t n, const AffineCoding* coding, double threshold,
    double* sums,
) noexcept nogil

ctypedef struct KernelTable:
    const Grids* grids  # set by _core
    BlockFormat formats[MOST_TYPES]  # by ggml's type id
    QuantizeBlocks quantize_blocks
    DequantizeBlocks dequantize_blocks
    NibblesQuantize nibbles_quantize
    NibblesQuantizeLinear nibbles_quantize_linear
    NibblesDequantize nibbles_dequantize
    RunsSum runs_sum
    ScalesQuantize scales_quantize
    ScalesDequantize scales_dequantize
    CodesDequantize codes_dequantize
    GroupsExtremes groups_extremes
    ColumnsExtremes columns_extremes
    GroupsQuantize groups_quantize
    ColumnsQuantize columns_quantize
    GroupsDequantize groups_dequantize
    ColumnsDequantize columns_dequantize
    ColumnsFloor columns_floor
    CountChannel count_channel
    CountColumns count_columns
    AddChannel add_channel
    AddColumns add_columns
    ClipHistogram clip_histogram
    CountHalves count_halves
    FakeQuantGroups fake_quant_groups
    FakeQuantColumns fake_quant_columns
    PairsErrors pairs_errors
    AffineErrors affine_errors
