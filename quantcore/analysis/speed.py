"""How many weights a second each format quantizes and decodes on this machine, called as users call it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments
from quantcore._base.parallel import count_threads
from quantcore._base.records import shown
from quantcore._base.text import brief, markdown_table, table
from quantcore.affine.granularity import QuantGranularity
from quantcore.affine.tensor import dequantize_tensor, quantize_tensor
from quantcore.analysis.benchmarks import FORMATS
from quantcore.analysis.generators import generate_gaussian_weights, generator_of
from quantcore.errors import InvalidTypeError

__all__ = ["SPEED_FORMATS", "SpeedResult", "run_speed_benchmark", "speed_table"]

_COLUMNS = 4096  # a multiple of every block size
_FIRST_ROWS = 16
_LONGEST_CALL = 0.03  # seconds
_LEAST_CALLS = 3
_LEAST_SECONDS = 0.05
_HEAD = ("format", "weights", "threads", "quantize M/s", "dequantize M/s")

_Directions = tuple[Callable[..., Any], Callable[..., NDArray[Any]]]
_WAYS: dict[str, _Directions] = {name: (kind.quantize, kind.dequantize) for name, kind in FORMATS.items()}
for _granularity in (QuantGranularity.per_tensor(), QuantGranularity.per_channel()):

    def _quantize(values: Any, *, n_threads: int | None, granularity: QuantGranularity = _granularity) -> Any:
        return quantize_tensor(values, granularity, n_threads=n_threads)

    _WAYS[f"int8 {_granularity.name}"] = (_quantize, dequantize_tensor)
SPEED_FORMATS = tuple(_WAYS)
"""What `run_speed_benchmark` measures: `BLOCK_FORMATS`, and int8 codes with a scale per tensor and per channel."""


@shown()
@dataclass(frozen=True, slots=True, repr=False)
class SpeedResult:
    """The speed of one format.

    Attributes
    ----------
    format : str
    num_elements : int
        Weights in the array that was measured.
    n_threads : int
    quantize_rate, dequantize_rate : float
        Weights per second: the array's size over the median time of a call, which makes its result anew.
    """

    format: str
    num_elements: int
    n_threads: int
    quantize_rate: float
    dequantize_rate: float

    def __post_init__(self) -> None:
        if not isinstance(self.format, str):
            raise InvalidTypeError(f"format: expected a string, got {brief(self.format)}")
        for name in ("num_elements", "n_threads"):
            arguments.integer(getattr(self, name), name, 1)
        for name in ("quantize_rate", "dequantize_rate"):
            arguments.figure(getattr(self, name), name)


def run_speed_benchmark(
    size: int = 1 << 24,
    *,
    rng: np.random.Generator | int = 0,
    formats: Iterable[str] = SPEED_FORMATS,
    n_threads: int | None = None,
) -> tuple[SpeedResult, ...]:
    """Measure how fast Gaussian float32 weights are quantized and decoded, each call with a new output.

    Takes about a tenth of a second per format. For figures beside other libraries, without the time that new memory
    takes and beside the memory's own speed, see `bench/` in the sources.

    Parameters
    ----------
    size : int, default 16777216
        The most weights of an array, rounded up to rows of 4096, more than caches hold. Formats that search are
        measured on fewer of them, so that a call takes about 30 ms.
    rng : numpy.random.Generator or int, default 0
        Where the random numbers come from, or a seed.
    formats : iterable of str, default SPEED_FORMATS
        Which to measure.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.

    Returns
    -------
    tuple of SpeedResult
        In the order of `formats`.

    Raises
    ------
    ValueError
        A format is unknown; `size` or `n_threads` is below 1.
    TypeError
        An argument has another type.

    Examples
    --------
    >>> [result] = run_speed_benchmark(1 << 16, formats=["Q8_0"], n_threads=1)
    >>> result.quantize_rate > 1e6
    True
    """
    n_rows = -(-arguments.integer(size, "size", 1) // _COLUMNS)
    given = arguments.entries(formats, "formats", "names")
    names = [arguments.choice(name, "formats", _WAYS, "some of") for name in given]
    n_threads = count_threads(n_threads)
    weights = generate_gaussian_weights(n_rows * _COLUMNS, rng=generator_of(rng)).reshape(n_rows, _COLUMNS)
    return tuple(_measure(name, weights, n_threads) for name in names)


def speed_table(results: Iterable[SpeedResult], *, as_markdown: bool = False) -> str:
    """The results as a plain table or in Markdown, in millions of weights per second."""
    rows = [
        (r.format, str(r.num_elements), str(r.n_threads), _millions(r.quantize_rate), _millions(r.dequantize_rate))
        for r in results
    ]
    return (markdown_table if as_markdown else table)(_HEAD, rows, right=(1, 2, 3, 4))


def _measure(name: str, weights: NDArray[np.float32], n_threads: int) -> SpeedResult:
    quantize, dequantize = _WAYS[name]
    few = weights[:_FIRST_ROWS]
    quantize(few, n_threads=n_threads)
    seconds = _time(lambda: quantize(few, n_threads=n_threads))
    part = weights[: max(_FIRST_ROWS, int(len(few) * _LONGEST_CALL / max(seconds, 1e-9)))]
    q = quantize(part, n_threads=n_threads)
    return SpeedResult(
        name,
        part.size,
        n_threads,
        part.size / _median_time(lambda: quantize(part, n_threads=n_threads)),
        part.size / _median_time(lambda: dequantize(q, n_threads=n_threads)),
    )


def _median_time(call: Callable[[], object]) -> float:
    times: list[float] = []
    while len(times) < _LEAST_CALLS or sum(times) < _LEAST_SECONDS:
        times.append(_time(call))
    return median(times)


def _time(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def _millions(rate: float) -> str:
    millions = rate / 1e6
    return f"{millions:.1f}" if millions < 100 else f"{millions:.0f}"
