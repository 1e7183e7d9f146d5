# level.pxi: all kernels of one CPU level and the table of them. Each level's module includes this one source and is
# compiled with its own flags (setup.py). A format is one `include` line here: its file registers itself.
from cpython.pycapsule cimport PyCapsule_New

from quantcore._kernels.table cimport KernelTable

cdef KernelTable TABLE

include "formats/walk.pxi"
include "formats/refine.pxi"
include "formats/refine_scales.pxi"
include "formats/refine_multiples.pxi"
include "formats/refine_points.pxi"
include "formats/plain.pxi"
include "formats/q1_0.pxi"
include "formats/q2_0.pxi"
include "formats/q3_k.pxi"
include "formats/q4_0.pxi"
include "formats/q4_1.pxi"
include "formats/q5_0.pxi"
include "formats/q5_1.pxi"
include "formats/q6_k.pxi"
include "formats/q8_0.pxi"
include "formats/iq2_xxs.pxi"
include "formats/iq2_xs.pxi"
include "formats/iq2_s.pxi"
include "formats/iq3_xxs.pxi"
include "formats/iq3_s.pxi"
include "formats/iq1_s.pxi"
include "formats/iq1_m.pxi"
include "formats/scale_min.pxi"
include "formats/k_scales.pxi"
include "formats/q4_k.pxi"
include "formats/q5_k.pxi"
include "formats/q2_k.pxi"
include "formats/iq4_nl.pxi"
include "formats/iq4_xs.pxi"
include "formats/mxfp4.pxi"
include "formats/nvfp4.pxi"
include "formats/tq1_0.pxi"
include "formats/tq2_0.pxi"

include "passes/blockwise.pxi"
include "passes/scaled_codes.pxi"
include "passes/affine.pxi"
include "passes/floor_codes.pxi"
include "passes/histogram.pxi"
include "passes/clipping.pxi"
include "passes/selection.pxi"
include "passes/fake_quant.pxi"
include "passes/errors.pxi"

TABLE.quantize_blocks = quantize_blocks
TABLE.dequantize_blocks = dequantize_blocks
TABLE.nibbles_quantize = nibbles_quantize
TABLE.nibbles_quantize_linear = nibbles_quantize_linear
TABLE.nibbles_dequantize = nibbles_dequantize
TABLE.runs_sum = runs_sum
TABLE.scales_quantize = scales_quantize
TABLE.scales_dequantize = scales_dequantize
TABLE.codes_dequantize = codes_dequantize
TABLE.groups_extremes = groups_extremes
TABLE.columns_extremes = columns_extremes
TABLE.groups_quantize = groups_quantize
TABLE.columns_quantize = columns_quantize
TABLE.groups_dequantize = groups_dequantize
TABLE.columns_dequantize = columns_dequantize
TABLE.columns_floor = columns_floor
TABLE.count_channel = count_channel
TABLE.count_columns = count_columns
TABLE.add_channel = add_channel
TABLE.add_columns = add_columns
TABLE.clip_histogram = clip_histogram
TABLE.count_halves = count_halves
TABLE.fake_quant_groups = fake_quant_groups
TABLE.fake_quant_columns = fake_quant_columns
TABLE.pairs_errors = pairs_errors
TABLE.affine_errors = affine_errors

table = PyCapsule_New(&TABLE, "quantcore._kernels.table", NULL)
