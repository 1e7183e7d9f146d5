"""The result of quantizing an array in one format, and a suite of many such results."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from quantcore._base import arguments
from quantcore._base.notebook import rows_table
from quantcore._base.records import shown
from quantcore._base.text import brief, json_value, markdown_table, printable, table
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = ["BenchmarkSuite", "QuantBenchmarkResult"]

_HEAD = ("name", "elements", "bits", "granularity", "mode", "MSE", "max error", "SQNR dB", "ratio", "dB per bit")
_NUMBERS = (1, 2, 5, 6, 7, 8, 9)

_MOST_INDENT = 80


@shown("bits_per_weight", "quality_score")
@dataclass(frozen=True, slots=True, repr=False)
class QuantBenchmarkResult:
    """The error and the size of one array in one format.

    Attributes
    ----------
    name : str
        What the array is called.
    num_elements : int
    bits : int
        Bits per code, without scales.
    granularity : str
        What shares a scale: "per_tensor", "per_channel(AXIS)", "per_group(SIZE)" or "per_block(SIZE)".
    mode : str
        "symmetric", "asymmetric", or the name of a block format.
    mse, max_error, sqnr_db : float
        As `QuantErrorStats` defines them; `sqnr_db` is inf if nothing was lost.
    compression_ratio : float
        Bytes as float32 over the bytes that are kept, scales included.
    """

    name: str
    num_elements: int
    bits: int
    granularity: str
    mode: str
    mse: float
    max_error: float
    sqnr_db: float
    compression_ratio: float

    def __post_init__(self) -> None:
        for name in ("name", "granularity", "mode"):
            if not isinstance(getattr(self, name), str):
                raise InvalidTypeError(f"{name}: expected a string, got {brief(getattr(self, name))}")
        for name in ("num_elements", "bits"):
            arguments.integer(getattr(self, name), name, 0)
        for name in ("mse", "max_error", "sqnr_db"):
            arguments.figure(getattr(self, name), name)
        if arguments.number(self.compression_ratio, "compression_ratio") <= 0:
            raise InvalidValueError(f"compression_ratio: expected a positive number, got {self.compression_ratio}")

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight, scales included: `32 / compression_ratio`."""
        return 32 / self.compression_ratio

    @property
    def quality_score(self) -> float:
        """SQNR in dB per bit that a weight takes: `sqnr_db / bits_per_weight`.

        Scales count, so small groups only score well if their scales pay off. A uniform quantizer gains 6.02 dB per
        bit.
        """
        return self.sqnr_db / self.bits_per_weight


class BenchmarkSuite:
    """Results in the order in which they were added.

    Parameters
    ----------
    results : iterable of QuantBenchmarkResult, optional
        The first results.
    """

    def __init__(self, results: Iterable[QuantBenchmarkResult] = ()) -> None:
        self._results: list[QuantBenchmarkResult] = []
        for result in arguments.entries(results, "results", "QuantBenchmarkResult"):
            self.add(result)

    def add(self, result: QuantBenchmarkResult) -> None:
        """Add a result.

        Raises
        ------
        TypeError
            `result` is not a QuantBenchmarkResult.
        """
        if not isinstance(result, QuantBenchmarkResult):
            raise InvalidTypeError(f"result: expected a QuantBenchmarkResult, got {type(result).__name__}")
        self._results.append(result)

    @property
    def results(self) -> tuple[QuantBenchmarkResult, ...]:
        """All results."""
        return tuple(self._results)

    def __len__(self) -> int:
        """The number of results."""
        return len(self._results)

    def __iter__(self) -> Iterator[QuantBenchmarkResult]:
        return iter(self.results)

    def best_by_sqnr(self) -> QuantBenchmarkResult:
        """The result with the highest SQNR; among equal ones the smallest, then the first.

        Raises
        ------
        ValueError
            There are no results.
        """
        return self._best(lambda r: r.sqnr_db)

    def best_by_mse(self) -> QuantBenchmarkResult:
        """The result with the least mean squared error; among equal ones the smallest, then the first.

        Between arrays of different scale only the SQNR is comparable.

        Raises
        ------
        ValueError
            There are no results.
        """
        return self._best(lambda r: -r.mse)

    def sorted_by_quality(self) -> tuple[QuantBenchmarkResult, ...]:
        """The results by descending `quality_score`; equal ones stay in their order."""
        return tuple(sorted(self._results, key=lambda r: -r.quality_score))

    def to_json(self, *, indent: int | None = 2) -> str:
        """The results as JSON: `{"results": [...]}`, each with all attributes, `bits_per_weight` and `quality_score`.

        An infinite figure, for which JSON has no number, is the text "inf" or "-inf".
        """
        if indent is not None:
            indent = arguments.integer(indent, "indent", 0, _MOST_INDENT)
        rows: list[dict[str, Any]] = [
            asdict(r) | {"bits_per_weight": r.bits_per_weight, "quality_score": r.quality_score} for r in self._results
        ]
        return json.dumps(json_value({"results": rows}), indent=indent, allow_nan=False)

    def to_markdown(self) -> str:
        """The results as a Markdown table."""
        return markdown_table(_HEAD, self._cells(), right=_NUMBERS)

    def to_text(self) -> str:
        """The results as a plain table."""
        return table(_HEAD, self._cells(), right=_NUMBERS)

    def plot(self, axes: Any = None) -> Any:
        """Draw SQNR against bits per weight with matplotlib (extra `report`).

        Parameters
        ----------
        axes : matplotlib.axes.Axes, optional
            What to draw on; None: a new figure.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from quantcore.analysis.plots import draw_suite

        points: dict[str, list[tuple[float, float]]] = {}
        for result in self._results:
            if math.isfinite(result.sqnr_db):  # what is exact has no place
                kind = result.granularity.partition("(")[0]
                points.setdefault(kind, []).append((result.bits_per_weight, result.sqnr_db))
        return draw_suite(axes, points)

    def __repr__(self) -> str:
        return f"BenchmarkSuite({len(self)} results)"

    def _repr_html_(self) -> str:
        return rows_table(repr(self), _HEAD, self._cells(), len(self), right=_NUMBERS)

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                printable(" ".join(r.name.split())),
                str(r.num_elements),
                str(r.bits),
                r.granularity,
                r.mode,
                f"{r.mse:.3g}",
                f"{r.max_error:.3g}",
                f"{r.sqnr_db:.2f}",
                f"{r.compression_ratio:.2f}",
                f"{r.quality_score:.2f}",
            )
            for r in self._results
        ]

    def _best(self, figure: Callable[[QuantBenchmarkResult], float]) -> QuantBenchmarkResult:
        if not self._results:
            raise InvalidValueError("results: there are none; add some first")
        return max(self._results, key=lambda r: (figure(r), r.compression_ratio))
