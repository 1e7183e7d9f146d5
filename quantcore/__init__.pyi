# What is public, for type checkers; at run time __init__.py imports each name when it is first asked for.

from quantcore._base.parallel import get_num_threads as get_num_threads, set_num_threads as set_num_threads
from quantcore.affine import (
    QuantGranularity as QuantGranularity,
    QuantizedTensor as QuantizedTensor,
    QuantMode as QuantMode,
    QuantParams as QuantParams,
    calibrate_per_channel as calibrate_per_channel,
    calibrate_per_group as calibrate_per_group,
    calibrate_per_tensor as calibrate_per_tensor,
    dequantize_tensor as dequantize_tensor,
    dequantize_with_params as dequantize_with_params,
    pack_nibbles as pack_nibbles,
    quantize_tensor as quantize_tensor,
    quantize_with_params as quantize_with_params,
    unpack_nibbles as unpack_nibbles,
)
from quantcore.analysis import (
    BenchmarkSuite as BenchmarkSuite,
    ErrorSums as ErrorSums,
    QuantBenchmarkResult as QuantBenchmarkResult,
    QuantErrorStats as QuantErrorStats,
    SpeedResult as SpeedResult,
    accuracy_retention as accuracy_retention,
    analyze_error as analyze_error,
    analyze_outlier_impact as analyze_outlier_impact,
    compare_bit_width_degradation as compare_bit_width_degradation,
    compare_bit_widths as compare_bit_widths,
    compare_granularities as compare_granularities,
    error_stats as error_stats,
    error_within_bounds as error_within_bounds,
    generate_gaussian_weights as generate_gaussian_weights,
    generate_multi_channel_weights as generate_multi_channel_weights,
    generate_uniform_weights as generate_uniform_weights,
    generate_weights_with_outliers as generate_weights_with_outliers,
    quantization_mse as quantization_mse,
    run_benchmark as run_benchmark,
    run_format_benchmark as run_format_benchmark,
    run_full_benchmark_suite as run_full_benchmark_suite,
    run_speed_benchmark as run_speed_benchmark,
    scale_sensitivity as scale_sensitivity,
    sqnr_db as sqnr_db,
    theoretical_max_error as theoretical_max_error,
    theoretical_sqnr as theoretical_sqnr,
)
from quantcore.blockwise import (
    BLOCK_SIZE as BLOCK_SIZE,
    DOUBLE_QUANT_BLOCK_SIZE as DOUBLE_QUANT_BLOCK_SIZE,
    DoubleQuantized4Bit as DoubleQuantized4Bit,
    Quantized4Bit as Quantized4Bit,
    dequantize_4bit as dequantize_4bit,
    dequantize_4bit_double as dequantize_4bit_double,
    from_bitsandbytes as from_bitsandbytes,
    quantize_4bit as quantize_4bit,
    quantize_4bit_double as quantize_4bit_double,
)
from quantcore.calibration import (
    CalibrationMethod as CalibrationMethod,
    CalibrationResult as CalibrationResult,
    Calibrator as Calibrator,
    calibrate_files as calibrate_files,
    calibrate_min_max as calibrate_min_max,
    calibrate_percentile as calibrate_percentile,
)
from quantcore.conversion import (
    dequantize_checkpoint as dequantize_checkpoint,
    dequantize_model as dequantize_model,
    merge_model as merge_model,
    quantize_checkpoint as quantize_checkpoint,
    quantize_model as quantize_model,
    split_model as split_model,
)
from quantcore.demo import evaluate_formats as evaluate_formats
from quantcore.errors import (
    FileFormatError as FileFormatError,
    InvalidStateError as InvalidStateError,
    InvalidTypeError as InvalidTypeError,
    InvalidValueError as InvalidValueError,
    MissingExtraError as MissingExtraError,
    OutputFileError as OutputFileError,
    QuantcoreError as QuantcoreError,
)
from quantcore.ggml import (
    GGUF_BLOCK_SIZE as GGUF_BLOCK_SIZE,
    IQ1_M as IQ1_M,
    IQ1_S as IQ1_S,
    IQ2_S as IQ2_S,
    IQ2_XS as IQ2_XS,
    IQ2_XXS as IQ2_XXS,
    IQ3_S as IQ3_S,
    IQ3_XXS as IQ3_XXS,
    IQ4_NL as IQ4_NL,
    IQ4_XS as IQ4_XS,
    MXFP4 as MXFP4,
    NVFP4 as NVFP4,
    Q1_0 as Q1_0,
    Q2_0 as Q2_0,
    Q2_K as Q2_K,
    Q3_K as Q3_K,
    Q4_0 as Q4_0,
    Q4_1 as Q4_1,
    Q4_K as Q4_K,
    Q5_0 as Q5_0,
    Q5_1 as Q5_1,
    Q5_K as Q5_K,
    Q6_K as Q6_K,
    Q8_0 as Q8_0,
    TQ1_0 as TQ1_0,
    TQ2_0 as TQ2_0,
    Blocks as Blocks,
    GGUFQuantType as GGUFQuantType,
    dequantize as dequantize,
    quantize as quantize,
)
from quantcore.mixed_precision import (
    rank_sensitivity as rank_sensitivity,
    suggest_model_types as suggest_model_types,
    suggest_types as suggest_types,
    type_costs as type_costs,
)
from quantcore.models import compare_models as compare_models, open_model as open_model
from quantcore.qat import (
    FakeQuantConfig as FakeQuantConfig,
    FakeQuantize as FakeQuantize,
    LsqGradients as LsqGradients,
    fake_quantize as fake_quantize,
    fake_quantize_backward as fake_quantize_backward,
    fake_quantize_with_params as fake_quantize_with_params,
    lsq_backward as lsq_backward,
    ste_backward as ste_backward,
)
from quantcore.report import write_report as write_report

__version__: str

def isa() -> str: ...
