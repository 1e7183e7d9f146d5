# table.pxd: what one CPU level offers: a function pointer per kernel. Kernels are pure: pointers and counts in,
# no Python, no allocation, no check; they return the first block they could not take, or -1.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from quantcore._kernels.histogram cimport Histogram

# values: n_blocks * block_size elements of a Dtype (floats.pxd); out: n_blocks * bytes_per_block bytes.
ctypedef int64_t (*QuantizeBlocks)(const uint8_t* values, int dtype, int64_t n_blocks, uint8_t* out) noexcept nogil
ctypedef int64_t (*DequantizeBlocks)(const uint8_t* data, int64_t n_blocks, uint8_t* values, int dtype) noexcept nogil

ctypedef struct BlockKernels:
    int id  # ggml's type id
    int block_size
    int bytes_per_block
    QuantizeBlocks quantize
    DequantizeBlocks dequantize

cdef enum:
    N_FORMATS = 5

# 4-bit codes in blocks of block_size elements (blockwise.pxd), the last one may be short. `values` and `data` begin
# with a block; `midpoints` are those between the code's values, ascending (codebooks.py), `table` its 16 values.
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
# The scales of 4-bit codes as codes of the dynamic map, `offset` taken off, in super-blocks; `cells`: those of
# codebooks.py. Decoding is for any `table` of 256 values. The sums are of runs. A last run or super-block may be short.
ctypedef void (*RunsSum)(const float* x, int64_t n, int64_t run, double* sums) noexcept nogil
ctypedef void (*ScalesQuantize)(
    const float* scales, int64_t n, int super_block_size, float offset, const int32_t* cells, uint8_t* codes,
    float* super_scales,
) noexcept nogil
ctypedef void (*ScalesDequantize)(
    const uint8_t* codes, int64_t n, int super_block_size, const float* super_scales, float offset, const float* table,
    float* scales,
) noexcept nogil

# Affine codes (affine.pxd). Groups are runs that share a scale: `per_row` of `size` elements in each row of `cols`, the
# last one of a row short; `sharing` groups in succession take one scale, and the scales come round after n_scales.
# Columns: rows of `width` elements of which each column has a scale.
ctypedef struct GroupLayout:
    int64_t cols
    int64_t size
    int64_t per_row
    int64_t sharing

# One of each for every scale, or column; `lows` and `highs` are the ends of the codes less the zero point.
ctypedef struct CodingRows:
    int64_t n_scales
    const float* scales
    const float* inverses
    const float* zero_points
    const float* lows
    const float* highs

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

# Histograms (histogram.pxd) of channels in an array of outer x channels x inner; -1: a value is not finite, and the
# histograms are void. Runs of a channel shorter than SHORTEST_RUN: up to MOST_CHANNELS at a time, else one.
cdef enum:
    SHORTEST_RUN = 32
    MOST_CHANNELS = 16

ctypedef int64_t (*CountChannels)(
    const uint8_t* values, int dtype, int64_t outer, int64_t channels, int64_t inner, int64_t n_channels,
    Histogram* histograms,
) noexcept nogil
# Halves of keys (selection.pxd).
ctypedef void (*CountHalves)(
    const uint8_t* values, int dtype, int64_t n, const uint32_t* uppers, int n_uppers, uint32_t* counts
) noexcept nogil

# Fake quantization and its gradients (fake_quant.pxd), in groups or columns. Going backward there are `grads`, and for
# LSQ the sums of each group, or of the columns: of the scales' terms, and of the gradient out of range.
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

# Error sums (errors.pxd): chunks of ERROR_CHUNK elements have a row of N_SUMS sums each. Affine codes are those of the
# groups of `layout`, or of columns if `width` is not 0.
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
    BlockKernels formats[N_FORMATS]
    NibblesQuantize nibbles_quantize
    NibblesQuantizeLinear nibbles_quantize_linear
    NibblesDequantize nibbles_dequantize
    RunsSum runs_sum
    ScalesQuantize scales_quantize
    ScalesDequantize scales_dequantize
    GroupsExtremes groups_extremes
    ColumnsExtremes columns_extremes
    GroupsQuantize groups_quantize
    ColumnsQuantize columns_quantize
    GroupsDequantize groups_dequantize
    ColumnsDequantize columns_dequantize
    CountChannels count_channels
    CountHalves count_halves
    FakeQuantGroups fake_quant_groups
    FakeQuantColumns fake_quant_columns
    PairsErrors pairs_errors
    AffineErrors affine_errors
