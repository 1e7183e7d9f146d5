"""The error and size of quantized weights: one array in one format, or several distributions in every format."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays
from quantcore._base.text import brief
from quantcore.affine.from_extremes import calibrate
from quantcore.affine.granularity import QuantGranularity, check_granularity
from quantcore.affine.modes import QuantMode
from quantcore.affine.tensor import affine_bytes
from quantcore.analysis.benchmark_results import BenchmarkSuite, QuantBenchmarkResult
from quantcore.analysis.generators import (
    generate_gaussian_weights,
    generate_multi_channel_weights,
    generate_uniform_weights,
    generate_weights_with_outliers,
    generator_of,
)
from quantcore.analysis.sums import ErrorSums
from quantcore.blockwise.codebooks import CODEBOOKS
from quantcore.blockwise.quantize import (
    BLOCK_SIZE,
    dequantize_4bit,
    dequantize_4bit_double,
    quantize_4bit,
    quantize_4bit_double,
)
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.ggml.formats import UNWEIGHTED_TYPES
from quantcore.ggml.records import RECORDS

__all__ = [
    "BLOCK_FORMATS",
    "BenchmarkSuite",
    "QuantBenchmarkResult",
    "run_benchmark",
    "run_format_benchmark",
    "run_full_benchmark_suite",
]


class _BlockFormat(NamedTuple):
    """Bits per code, elements per scale, and both directions; what `quantize` returns has `memory_bytes`."""

    bits: int
    block_size: int
    quantize: Callable[..., Any]
    dequantize: Callable[..., NDArray[Any]]


FORMATS = {
    t.name: _BlockFormat(t.bits, t.block_size, RECORDS[t.name].quantize, RECORDS[t.name].dequantize)
    for t in UNWEIGHTED_TYPES
    if t.block_size > 1
}
for _name in CODEBOOKS:
    FORMATS[_name] = _BlockFormat(4, BLOCK_SIZE, partial(quantize_4bit, quant_type=_name), dequantize_4bit)
    FORMATS[f"{_name}-double"] = _BlockFormat(
        4, BLOCK_SIZE, partial(quantize_4bit_double, quant_type=_name), dequantize_4bit_double
    )
BLOCK_FORMATS = tuple(FORMATS)
"""The block formats that `run_format_benchmark` knows; "-double": with double-quantized scales."""


def run_benchmark(
    name: str,
    values: Any,
    bits: int = 8,
    granularity: QuantGranularity | str | None = None,
    mode: QuantMode | str = QuantMode.SYMMETRIC,
    *,
    n_threads: int | None = None,
) -> QuantBenchmarkResult:
    """Calibrate on an array, quantize it, and measure the error and the size.

    Parameters
    ----------
    name : str
        What the result is called.
    values : array_like
        float32, float16, bfloat16 or float64, finite, not empty.
    bits : int, default 8
        2 to 8. Codes of up to 4 bits count as half a byte, others as a whole one.
    granularity : QuantGranularity, "per_tensor" or "per_channel", optional
        None: per tensor.
    mode : QuantMode or its name, default SYMMETRIC
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The figures do not depend on it.

    Returns
    -------
    QuantBenchmarkResult

    Raises
    ------
    ValueError
        `values` is empty or holds NaN or inf; `bits` or `granularity` does not fit.
    TypeError
        An argument has a type that is not accepted.

    Examples
    --------
    >>> run_benchmark("ramp", np.linspace(-1, 1, 4096, dtype=np.float32)).sqnr_db > 47
    True
    """
    granularity = check_granularity(granularity)
    params = calibrate(values, granularity, bits, mode, True, n_threads)
    sums = ErrorSums()
    sums.add_affine(values, params, n_threads=n_threads, name="values")
    kept = affine_bytes(sums.num_samples, params)
    return _result(name, sums, params.bits, _text(granularity), params.mode.value, kept)


def run_format_benchmark(name: str, values: Any, format: str, *, n_threads: int | None = None) -> QuantBenchmarkResult:
    """Quantize a flattened array in a block format, and measure the error and the size.

    Parameters
    ----------
    name : str
        What the result is called.
    values : array_like
        float32, float16, bfloat16 or float64, finite, not empty.
    format : str
        One of `BLOCK_FORMATS`: ggml's types in their own blocks, the others in blocks of 64.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The figures do not depend on it.

    Returns
    -------
    QuantBenchmarkResult

    Raises
    ------
    ValueError
        `values` is empty, holds NaN, inf or what is too large for the format; `format` is unknown.
    TypeError
        `values` is not a float array.
    """
    format = arguments.choice(format, "format", FORMATS)
    source = arrays.take_floats(values, "values")
    if not source.size:
        raise InvalidValueError(f"values: must not be empty, got shape {source.shape}")
    kind, flat = FORMATS[format], source.values(0, source.size)
    q = kind.quantize(flat, n_threads=n_threads)
    sums = ErrorSums()
    sums.add(flat, kind.dequantize(q, n_threads=n_threads), n_threads=n_threads)
    return _result(name, sums, kind.bits, f"per_block({kind.block_size})", format, q.memory_bytes)


def run_full_benchmark_suite(
    size: int = 1 << 16,
    *,
    rng: np.random.Generator | int,
    channels: int = 16,
    group_size: int = BLOCK_SIZE,
    bits: Iterable[int] = (4, 8),
    n_threads: int | None = None,
) -> BenchmarkSuite:
    """Measure every format on weights that are Gaussian, uniform, with outliers, and of different scale per channel.

    Parameters
    ----------
    size : int, default 65536
        Weights in each array, a multiple of `channels`.
    rng : numpy.random.Generator or int
        Where the random numbers come from, or a seed.
    channels : int, default 16
        Rows of each array.
    group_size : int, default 64
        The group size of the granularity `per_group`.
    bits : iterable of int, default (4, 8)
        The numbers of bits of affine codes, from 2 to 8.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The figures do not depend on it.

    Returns
    -------
    BenchmarkSuite
        For each array: `bits` x (per tensor, channel, group) x (symmetric, asymmetric), then `BLOCK_FORMATS`.

    Raises
    ------
    ValueError
        A number is out of its range, or `size` is not a multiple of `channels`.
    TypeError
        A number is not an integer, `rng` neither a Generator nor a seed.
    """
    size, channels = arguments.integer(size, "size", 1), arguments.integer(channels, "channels", 1)
    if size % channels:
        raise InvalidValueError(f"size: expected a multiple of channels ({brief(channels)}), got {brief(size)}")
    generator, widths = generator_of(rng), arguments.entries(bits, "bits", "numbers of bits")
    granularities = (
        QuantGranularity.per_tensor(),
        QuantGranularity.per_channel(0),
        QuantGranularity.per_group(group_size),
    )
    kinds = {
        "gaussian": generate_gaussian_weights(size, rng=generator),
        "uniform": generate_uniform_weights(size, rng=generator),
        "outliers": generate_weights_with_outliers(size, rng=generator),
        "multi-channel": generate_multi_channel_weights(channels, size // channels, rng=generator),
    }
    suite = BenchmarkSuite()
    for name, weights in kinds.items():
        values = weights.reshape(channels, -1)
        for width in widths:
            for granularity in granularities:
                for mode in (QuantMode.SYMMETRIC, QuantMode.ASYMMETRIC):
                    suite.add(run_benchmark(name, values, width, granularity, mode, n_threads=n_threads))
        for kind in BLOCK_FORMATS:
            suite.add(run_format_benchmark(name, values, kind, n_threads=n_threads))
    return suite


def _result(name: Any, sums: ErrorSums, bits: int, granularity: str, mode: str, kept: int) -> QuantBenchmarkResult:
    if not isinstance(name, str):
        raise InvalidTypeError(f"name: expected a str, got {brief(name)}")
    stats = sums.stats()
    return QuantBenchmarkResult(
        name=name,
        num_elements=stats.num_samples,
        bits=bits,
        granularity=granularity,
        mode=mode,
        mse=stats.mse,
        max_error=stats.max_error,
        sqnr_db=stats.sqnr_db,
        compression_ratio=4 * stats.num_samples / kept,
    )


def _text(granularity: QuantGranularity) -> str:
    if granularity.group_size is not None:
        return f"per_group({brief(granularity.group_size)})"
    return "per_tensor" if granularity.axis is None else f"per_channel({granularity.axis})"
