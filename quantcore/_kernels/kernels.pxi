# kernels.pxi: all kernels of one CPU level and the table of them. Each level's module includes this one source and is
# compiled with its own flags (setup.py).
from cpython.pycapsule cimport PyCapsule_New

from quantcore._kernels.table cimport DequantizeBlocks, KernelTable, QuantizeBlocks

include "formats.pxi"
include "blockwise.pxi"
include "affine.pxi"
include "histogram.pxi"
include "selection.pxi"
include "fake_quant.pxi"
include "errors.pxi"

cdef KernelTable TABLE


cdef void offer(
    int slot, int type_id, int block_size, int bytes_per_block, QuantizeBlocks quantize, DequantizeBlocks dequantize
) noexcept:
    TABLE.formats[slot].id = type_id
    TABLE.formats[slot].block_size = block_size
    TABLE.formats[slot].bytes_per_block = bytes_per_block
    TABLE.formats[slot].quantize = quantize
    TABLE.formats[slot].dequantize = dequantize


offer(0, 0, 1, 4, f32_quantize, f32_dequantize)
offer(1, 1, 1, 2, f16_quantize, f16_dequantize)
offer(2, 30, 1, 2, bf16_quantize, bf16_dequantize)
offer(3, 2, Q4_0_BLOCK, Q4_0_BYTES, q4_0_quantize, q4_0_dequantize)
offer(4, 8, Q8_0_BLOCK, Q8_0_BYTES, q8_0_quantize, q8_0_dequantize)
TABLE.nibbles_quantize = nibbles_quantize
TABLE.nibbles_quantize_linear = nibbles_quantize_linear
TABLE.nibbles_dequantize = nibbles_dequantize
TABLE.runs_sum = runs_sum
TABLE.scales_quantize = scales_quantize
TABLE.scales_dequantize = scales_dequantize
TABLE.groups_extremes = groups_extremes
TABLE.columns_extremes = columns_extremes
TABLE.groups_quantize = groups_quantize
TABLE.columns_quantize = columns_quantize
TABLE.groups_dequantize = groups_dequantize
TABLE.columns_dequantize = columns_dequantize
TABLE.count_channels = count_channels
TABLE.count_halves = count_halves
TABLE.fake_quant_groups = fake_quant_groups
TABLE.fake_quant_columns = fake_quant_columns
TABLE.pairs_errors = pairs_errors
TABLE.affine_errors = affine_errors

table = PyCapsule_New(&TABLE, "quantcore._kernels.table", NULL)
