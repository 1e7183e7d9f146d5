"""What a quantizer made of some weights, and many such results side by side."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.tables import json_value, printable, table

__all__ = ["BenchmarkSuite", "QuantBenchmarkResult"]

_HEAD = ("name", "elements", "bits", "granularity", "mode", "MSE", "max error", "SQNR dB", "ratio", "dB a bit")
_NUMBERS = (1, 2, 5, 6, 7, 8, 9)


@dataclass(frozen=True, slots=True)
class QuantBenchmarkResult:
    """The error and the size of one array in one format.

    Attributes
    ----------
    name : str
        Of the array.
    num_elements : int
    bits : int
        Of a code, without scales.
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

    @property
    def bits_per_weight(self) -> float:
        """Bits that are kept of a weight, its share of the scales included: `32 / compression_ratio`."""
        return 32 / self.compression_ratio

    @property
    def quality_score(self) -> float:
        """dB of SQNR for each bit that is kept of a weight: `sqnr_db / bits_per_weight`.

        Scales count, so that small groups have to earn theirs. A uniform quantizer gains 6.02 dB with every bit.
        """
        return self.sqnr_db / self.bits_per_weight


class BenchmarkSuite:
    """Results in the order in which they were added.

    Parameters
    ----------
    results : iterable of QuantBenchmarkResult, optional
        To begin with.
    """

    def __init__(self, results: Iterable[QuantBenchmarkResult] = ()) -> None:
        self._results: list[QuantBenchmarkResult] = []
        for result in results:
            self.add(result)

    def add(self, result: QuantBenchmarkResult) -> None:
        """Add a result.

        Raises
        ------
        TypeError
            It is something else.
        """
        if not isinstance(result, QuantBenchmarkResult):
            raise InvalidTypeError(f"result: expected a QuantBenchmarkResult, got {type(result).__name__}")
        self._results.append(result)

    @property
    def results(self) -> tuple[QuantBenchmarkResult, ...]:
        """All results."""
        return tuple(self._results)

    def __len__(self) -> int:
        """How many results there are."""
        return len(self._results)

    def __iter__(self) -> Iterator[QuantBenchmarkResult]:
        return iter(self.results)

    def best_by_sqnr(self) -> QuantBenchmarkResult:
        """The result of highest SQNR, of equal ones the smallest, then the first.

        Raises
        ------
        ValueError
            There are no results.
        """
        return self._best(lambda r: r.sqnr_db)

    def best_by_mse(self) -> QuantBenchmarkResult:
        """The result of least mean squared error, of equal ones the smallest, then the first.

        Between arrays of different scale only the SQNR is comparable.

        Raises
        ------
        ValueError
            There are no results.
        """
        return self._best(lambda r: -r.mse)

    def sorted_by_quality(self) -> tuple[QuantBenchmarkResult, ...]:
        """The results, that of the highest `quality_score` first, equal ones in their order."""
        return tuple(sorted(self._results, key=lambda r: -r.quality_score))

    def to_json(self, *, indent: int | None = 2) -> str:
        """The results as JSON: `{"results": [...]}`, each with all attributes, `bits_per_weight` and `quality_score`.

        An infinite figure, for which JSON has no number, is the text "inf" or "-inf".
        """
        rows: list[dict[str, Any]] = [
            asdict(r) | {"bits_per_weight": r.bits_per_weight, "quality_score": r.quality_score} for r in self._results
        ]
        return json.dumps(json_value({"results": rows}), indent=indent, allow_nan=False)

    def to_markdown(self) -> str:
        """The results as a Markdown table."""
        rule = ["---:" if i in _NUMBERS else "---" for i in range(len(_HEAD))]
        rows = [[cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row] for row in self._cells()]
        return "\n".join("| " + " | ".join(row) + " |" for row in (_HEAD, rule, *rows))

    def to_text(self) -> str:
        """The results as a plain table."""
        return table(_HEAD, self._cells(), right=_NUMBERS)

    def __repr__(self) -> str:
        return f"BenchmarkSuite({len(self)} results)"

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
