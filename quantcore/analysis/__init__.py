"""How far a reconstruction is from its original: sums, statistics, bounds, what-if questions, benchmarks of formats.

Modules
-------
sums : error sums that grow slab by slab, in a fixed order.
stats : the figures that follow from sums.
measures : errors of arrays, and the bounds of theory.
what_if : errors with another scale, width, granularity, or without outliers.
generators : random weights of known distributions.
benchmarks, benchmark_results : the error of many distributions in every format.
speed : weights per second of every format.
"""

from quantcore.analysis.benchmarks import (
    BenchmarkSuite,
    QuantBenchmarkResult,
    run_benchmark,
    run_format_benchmark,
    run_full_benchmark_suite,
)
from quantcore.analysis.generators import (
    generate_gaussian_weights,
    generate_multi_channel_weights,
    generate_uniform_weights,
    generate_weights_with_outliers,
)
from quantcore.analysis.measures import (
    analyze_error,
    error_stats,
    error_within_bounds,
    sqnr_db,
    theoretical_max_error,
    theoretical_sqnr,
)
from quantcore.analysis.speed import SpeedResult, run_speed_benchmark
from quantcore.analysis.stats import QuantErrorStats
from quantcore.analysis.sums import ErrorSums
from quantcore.analysis.what_if import (
    BitWidthComparison,
    BitWidthDegradation,
    OutlierImpact,
    ScaleSensitivity,
    accuracy_retention,
    analyze_outlier_impact,
    compare_bit_width_degradation,
    compare_bit_widths,
    compare_granularities,
    quantization_mse,
    scale_sensitivity,
)

__all__ = [
    "BenchmarkSuite",
    "BitWidthComparison",
    "BitWidthDegradation",
    "ErrorSums",
    "OutlierImpact",
    "QuantBenchmarkResult",
    "QuantErrorStats",
    "ScaleSensitivity",
    "SpeedResult",
    "accuracy_retention",
    "analyze_error",
    "analyze_outlier_impact",
    "compare_bit_width_degradation",
    "compare_bit_widths",
    "compare_granularities",
    "error_stats",
    "error_within_bounds",
    "generate_gaussian_weights",
    "generate_multi_channel_weights",
    "generate_uniform_weights",
    "generate_weights_with_outliers",
    "quantization_mse",
    "run_benchmark",
    "run_format_benchmark",
    "run_full_benchmark_suite",
    "run_speed_benchmark",
    "scale_sensitivity",
    "sqnr_db",
    "theoretical_max_error",
    "theoretical_sqnr",
]
