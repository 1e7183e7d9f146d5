"""Quantization for Python on the CPU: the same bytes as ggml, bitsandbytes and torch, as fast as memory allows."""

from quantcore._kernels import LEVEL as _LEVEL
from quantcore._parallel import get_num_threads, set_num_threads
from quantcore._version import __version__ as __version__
from quantcore.affine_parameters import calibrate_per_channel, calibrate_per_group, calibrate_per_tensor
from quantcore.analysis import (
    analyze_error,
    error_stats,
    error_within_bounds,
    sqnr_db,
    theoretical_max_error,
    theoretical_sqnr,
)
from quantcore.benchmarks import (
    BenchmarkSuite,
    QuantBenchmarkResult,
    run_benchmark,
    run_format_benchmark,
    run_full_benchmark_suite,
)
from quantcore.block_records import Q4_0, Q8_0
from quantcore.blockwise import (
    BLOCK_SIZE,
    DOUBLE_QUANT_BLOCK_SIZE,
    dequantize_4bit,
    dequantize_4bit_double,
    from_bitsandbytes,
    quantize_4bit,
    quantize_4bit_double,
)
from quantcore.blockwise_records import DoubleQuantized4Bit, Quantized4Bit
from quantcore.calibrate import calibrate_min_max, calibrate_percentile
from quantcore.calibration import Calibrator
from quantcore.calibration_records import CalibrationMethod, CalibrationResult
from quantcore.costs import type_costs
from quantcore.degradation import accuracy_retention, compare_bit_width_degradation
from quantcore.error_records import QuantErrorStats
from quantcore.error_sums import ErrorSums
from quantcore.errors import (
    FileFormatError,
    InvalidStateError,
    InvalidTypeError,
    InvalidValueError,
    MissingExtraError,
    OutputFileError,
    QuantcoreError,
)
from quantcore.fake_quant import fake_quantize_backward, fake_quantize_with_params, ste_backward
from quantcore.fake_quant_config import FakeQuantConfig
from quantcore.fake_quantizer import FakeQuantize, fake_quantize
from quantcore.formats import dequantize, quantize
from quantcore.generators import (
    generate_gaussian_weights,
    generate_multi_channel_weights,
    generate_uniform_weights,
    generate_weights_with_outliers,
)
from quantcore.ggml_types import GGUF_BLOCK_SIZE, GGUFQuantType
from quantcore.granularity import QuantGranularity, QuantMode, QuantParams
from quantcore.lsq import LsqGradients, lsq_backward
from quantcore.nibbles import pack_nibbles, unpack_nibbles
from quantcore.quantized_tensor import (
    QuantizedTensor,
    compare_granularities,
    dequantize_tensor,
    dequantize_with_params,
    quantization_mse,
    quantize_tensor,
    quantize_with_params,
)
from quantcore.sensitivity import analyze_outlier_impact, compare_bit_widths, scale_sensitivity
from quantcore.suggestions import rank_sensitivity, suggest_types

__all__ = [
    "BLOCK_SIZE",
    "DOUBLE_QUANT_BLOCK_SIZE",
    "GGUF_BLOCK_SIZE",
    "Q4_0",
    "Q8_0",
    "BenchmarkSuite",
    "CalibrationMethod",
    "CalibrationResult",
    "Calibrator",
    "DoubleQuantized4Bit",
    "ErrorSums",
    "FakeQuantConfig",
    "FakeQuantize",
    "FileFormatError",
    "GGUFQuantType",
    "InvalidStateError",
    "InvalidTypeError",
    "InvalidValueError",
    "LsqGradients",
    "MissingExtraError",
    "OutputFileError",
    "QuantBenchmarkResult",
    "QuantErrorStats",
    "QuantGranularity",
    "QuantMode",
    "QuantParams",
    "QuantcoreError",
    "Quantized4Bit",
    "QuantizedTensor",
    "accuracy_retention",
    "analyze_error",
    "analyze_outlier_impact",
    "calibrate_min_max",
    "calibrate_per_channel",
    "calibrate_per_group",
    "calibrate_per_tensor",
    "calibrate_percentile",
    "compare_bit_width_degradation",
    "compare_bit_widths",
    "compare_granularities",
    "dequantize",
    "dequantize_4bit",
    "dequantize_4bit_double",
    "dequantize_tensor",
    "dequantize_with_params",
    "error_stats",
    "error_within_bounds",
    "fake_quantize",
    "fake_quantize_backward",
    "fake_quantize_with_params",
    "from_bitsandbytes",
    "generate_gaussian_weights",
    "generate_multi_channel_weights",
    "generate_uniform_weights",
    "generate_weights_with_outliers",
    "get_num_threads",
    "isa",
    "lsq_backward",
    "pack_nibbles",
    "quantization_mse",
    "quantize",
    "quantize_4bit",
    "quantize_4bit_double",
    "quantize_tensor",
    "quantize_with_params",
    "rank_sensitivity",
    "run_benchmark",
    "run_format_benchmark",
    "run_full_benchmark_suite",
    "scale_sensitivity",
    "set_num_threads",
    "sqnr_db",
    "ste_backward",
    "suggest_types",
    "theoretical_max_error",
    "theoretical_sqnr",
    "type_costs",
    "unpack_nibbles",
]


def isa() -> str:
    """The CPU level that the kernels run at: "baseline" (x86-64-v2, or aarch64), "x86_64_v3" or "x86_64_v4".

    Chosen at import from what the CPU and the operating system support; the environment variable `QUANTCORE_ISA`
    forces a level. The bytes are the same at every level.
    """
    return _LEVEL
