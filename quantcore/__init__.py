"""Quantization for Python on the CPU: the same bytes as ggml, bitsandbytes and torch, from fast compiled kernels."""

import importlib
import sys

from quantcore._kernels import LEVEL as _LEVEL
from quantcore._version import __version__ as __version__

# Where each public name is. A name's module is imported when the name is first asked for, so that importing quantcore
# takes no longer than loading the kernels; __init__.pyi tells the names to type checkers.
_NAMES = {
    "_base.parallel": """
        get_num_threads set_num_threads
    """,
    "affine": """
        QuantGranularity QuantizedTensor QuantMode QuantParams calibrate_per_channel calibrate_per_group
        calibrate_per_tensor dequantize_tensor dequantize_with_params pack_nibbles quantize_tensor
        quantize_with_params unpack_nibbles
    """,
    "analysis": """
        BenchmarkSuite ErrorSums QuantBenchmarkResult QuantErrorStats SpeedResult accuracy_retention
        analyze_error analyze_outlier_impact compare_bit_width_degradation compare_bit_widths
        compare_granularities error_stats error_within_bounds generate_gaussian_weights
        generate_multi_channel_weights generate_uniform_weights generate_weights_with_outliers quantization_mse
        run_benchmark run_format_benchmark run_full_benchmark_suite run_speed_benchmark scale_sensitivity
        sqnr_db theoretical_max_error theoretical_sqnr
    """,
    "blockwise": """
        BLOCK_SIZE DOUBLE_QUANT_BLOCK_SIZE DoubleQuantized4Bit Quantized4Bit dequantize_4bit
        dequantize_4bit_double from_bitsandbytes quantize_4bit quantize_4bit_double
    """,
    "calibration": """
        CalibrationMethod CalibrationResult Calibrator calibrate_files calibrate_min_max calibrate_percentile
    """,
    "conversion": """
        compare_models dequantize_checkpoint dequantize_model merge_model quantize_checkpoint quantize_model split_model
    """,
    "demo": """
        evaluate_formats
    """,
    "errors": """
        FileFormatError InvalidStateError InvalidTypeError InvalidValueError MissingExtraError OutputBusyError
        OutputFileError QuantcoreError
    """,
    "ggml": """
        GGUF_BLOCK_SIZE IQ1_M IQ1_S IQ2_S IQ2_XS IQ2_XXS IQ3_S IQ3_XXS IQ4_NL IQ4_XS MXFP4 NVFP4 Q1_0 Q2_0 Q2_K
        Q3_K Q4_0 Q4_1 Q4_K Q5_0 Q5_1 Q5_K Q6_K Q8_0 TQ1_0 TQ2_0 Blocks GGUFQuantType dequantize quantize
    """,
    "mixed_precision": """
        rank_sensitivity suggest_model_types suggest_types type_costs
    """,
    "models": """
        open_model
    """,
    "qat": """
        FakeQuantConfig FakeQuantize LsqGradients fake_quantize fake_quantize_backward fake_quantize_with_params
        lsq_backward ste_backward
    """,
    "report": """
        write_report
    """,
}
_HOMES = {name: f"quantcore.{module}" for module, names in _NAMES.items() for name in names.split()}
_WINGS = (
    "affine",
    "analysis",
    "array_files",
    "blockwise",
    "calibration",
    "cli",
    "conversion",
    "demo",
    "embeddings",
    "errors",
    "files",
    "ggml",
    "gguf",
    "mixed_precision",
    "models",
    "qat",
    "report",
    "safetensors",
)
_WINGS_WITH_NEEDS = ("arrow", "dask", "onnx", "torch", "zarr")  # only import statements load them

__all__ = sorted([*_HOMES, "isa"])


def __getattr__(name: str) -> object:
    if name in _HOMES:
        value: object = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    if name in _WINGS:
        return importlib.import_module(f"quantcore.{name}")
    before = f" before `import quantcore.{name}`" if name in _WINGS_WITH_NEEDS else ""
    message = f"module 'quantcore' has no attribute {name!r}{before}"
    raise AttributeError(message, name=name, obj=sys.modules[__name__])  # from these, Python suggests the nearest


def __dir__() -> list[str]:
    return sorted([*__all__, *_WINGS, *_WINGS_WITH_NEEDS, "__version__"])


def isa() -> str:
    """The CPU level that the kernels run at: "baseline" (x86-64-v2, or aarch64), "x86_64_v3" or "x86_64_v4".

    Chosen at import from what the CPU and the operating system support; the environment variable `QUANTCORE_ISA`
    forces a level. The bytes are the same at every level.
    """
    return _LEVEL
