"""Every format on a sample of the reference: bits per weight against SQNR, and which formats are best."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantcore.analysis.benchmarks import BLOCK_FORMATS, run_format_benchmark
from quantcore.analysis.measures import sqnr_db
from quantcore.blockwise.codebooks import BITSANDBYTES_CODES
from quantcore.errors import InvalidValueError
from quantcore.ggml.formats import UNWEIGHTED_TYPES, dequantize, quantize
from quantcore.ggml.types import GGUFQuantType
from quantcore.report.samples import Sample

__all__ = ["FormatPoint", "best_points", "format_points", "model_point"]

_MOST_ELEMENTS = 1 << 18
_SUPER_BLOCK = 256
_FOUR_BIT = tuple(name for name in BLOCK_FORMATS if name.split("-")[0] in BITSANDBYTES_CODES)


class FormatPoint(NamedTuple):
    """The size and the SQNR of a format on the sample."""

    name: str
    bits_per_weight: float
    sqnr_db: float


def format_points(samples: Iterable[Sample], *, n_threads: int | None) -> tuple[FormatPoint, ...]:
    """Every lossy format that can hold the sampled matrices, the smallest first.

    These are GGUF's types except F32, and the 4-bit codes of bitsandbytes. Elements are flattened, in whole
    super-blocks.
    """
    parts = [s.original[: s.original.size // _SUPER_BLOCK * _SUPER_BLOCK] for s in samples if s.is_matrix]
    values = np.concatenate([np.empty(0, np.float32), *parts])
    if not values.size:
        return ()
    step = -(-values.size // _MOST_ELEMENTS)
    values = np.ascontiguousarray(values.reshape(-1, _SUPER_BLOCK)[::step]).reshape(-1)
    points = []
    for measure in _measures(values, n_threads):
        try:
            point = measure()
        except InvalidValueError:  # a value is too large for the format
            continue
        if np.isfinite(point.sqnr_db):
            points.append(point)
    return tuple(sorted(points, key=lambda p: (p.bits_per_weight, p.sqnr_db, p.name)))


def model_point(samples: Iterable[Sample]) -> FormatPoint | None:
    """The quantized model itself on the same matrices; None if there are none, or nothing was lost."""
    matrices = [s for s in samples if s.is_matrix]
    if not matrices:
        return None
    x, y = (np.concatenate(parts) for parts in ([s.original for s in matrices], [s.quantized for s in matrices]))
    value = sqnr_db(x, y)
    bits = sum(s.bits_per_weight * s.original.size for s in matrices) / x.size
    return FormatPoint("this model", bits, value) if np.isfinite(value) else None


def best_points(points: Iterable[FormatPoint]) -> tuple[FormatPoint, ...]:
    """The Pareto-optimal points: no other point has at most the bits and at least the SQNR."""
    best: list[FormatPoint] = []
    for point in sorted(points, key=lambda p: (p.bits_per_weight, -p.sqnr_db)):
        if not best or point.sqnr_db > best[-1].sqnr_db:
            best.append(point)
    return tuple(best)


def _measures(values: NDArray[np.float32], n_threads: int | None) -> Iterator[Callable[[], FormatPoint]]:
    for qtype in UNWEIGHTED_TYPES:
        if qtype != GGUFQuantType.F32:
            yield partial(_gguf_point, values, qtype, n_threads)
    for name in _FOUR_BIT:
        yield partial(_four_bit_point, values, name, n_threads)


def _gguf_point(values: NDArray[np.float32], qtype: GGUFQuantType, n_threads: int | None) -> FormatPoint:
    packed = quantize(values, qtype, n_threads=n_threads)
    return FormatPoint(
        qtype.name, 8 * packed.size / values.size, sqnr_db(values, dequantize(packed, qtype, n_threads=n_threads))
    )


def _four_bit_point(values: NDArray[np.float32], name: str, n_threads: int | None) -> FormatPoint:
    result = run_format_benchmark(name, values, name, n_threads=n_threads)
    code, *double = name.split("-")
    return FormatPoint("-".join([code.upper(), *double]), result.bits_per_weight, result.sqnr_db)
