"""Running error sums over arrays and their reconstructions, slab by slab if they are too large for memory.

The kernels sum chunks of `CHUNK_ELEMENTS` pairs in float64, whichever thread takes them, and the chunks' sums are added
here in their order. Every statistic of an error (mean squares, SQNR, cosine) comes from these sums.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from quantcore import _kernels
from quantcore._base import arguments, arrays, parallel
from quantcore._base.arrays import Floats
from quantcore._base.records import shown
from quantcore.affine import passes
from quantcore.affine.params import QuantParams, check_params
from quantcore.analysis.stats import QuantErrorStats, cosine, decibels
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = ["CHUNK_ELEMENTS", "ErrorSums"]

CHUNK_ELEMENTS = _kernels.error_chunk()
"""Elements that are summed together, 65,536: a multiple of every format's block size. Slabs of a multiple of this give
exactly the figures of the whole."""

_N_SUMS = 7
_SIGNAL = 0  # the index of the sum of squares of x in a kernel's row of sums


@shown()
@dataclass(slots=True, repr=False)
class ErrorSums:
    """Sums over pairs of original x and reconstruction y, added array by array.

    Added slab by slab in their order, the figures are exactly those of the whole arrays if every slab but the last one
    has a multiple of `CHUNK_ELEMENTS` elements; otherwise they agree to rounding (about 1e-15). They never depend on
    the number of threads or the CPU level. Do not use one record from several threads at once.

    Parameters
    ----------
    outlier_threshold : float, optional
        Count the elements whose `|x - y|` is above this; not negative.

    Attributes
    ----------
    num_samples : int
        The number of elements so far.
    signal, reconstructed, product, noise, magnitude : float
        Sums of `x**2`, `y**2`, `x * y`, `(x - y)**2` and `|x - y|`, in float64.
    max_error : float
        Largest `|x - y|`.
    outliers : int
        The number of elements whose `|x - y|` is above the threshold.

    Examples
    --------
    >>> sums = ErrorSums()
    >>> for part in np.split(np.arange(8, dtype=np.float32), 2):
    ...     sums.add(part, part + 1)
    >>> sums.stats().mse
    1.0
    """

    outlier_threshold: float | None = None
    num_samples: int = field(default=0, init=False)
    signal: float = field(default=0.0, init=False)
    reconstructed: float = field(default=0.0, init=False)
    product: float = field(default=0.0, init=False)
    noise: float = field(default=0.0, init=False)
    magnitude: float = field(default=0.0, init=False)
    max_error: float = field(default=0.0, init=False)
    outliers: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.outlier_threshold is not None:
            self.outlier_threshold = arguments.number(self.outlier_threshold, "outlier_threshold")
            if self.outlier_threshold < 0:
                raise InvalidValueError(f"outlier_threshold: expected at least 0, got {self.outlier_threshold}")

    def add(
        self, original: Any, reconstructed: Any, *, n_threads: int | None = None, name: str = "reconstructed"
    ) -> None:
        """Add an array and its reconstruction.

        Parameters
        ----------
        original, reconstructed : array_like of the same shape
            float32, float16, bfloat16 or float64, finite, not necessarily of the same dtype. May be empty.
        n_threads : int, optional
            Threads to use; None: `get_num_threads()`. The sums do not depend on it.
        name : str, default "reconstructed"
            The name of the reconstruction in messages.

        Raises
        ------
        ValueError
            The shapes differ; a value is NaN, inf or so large that its square overflows float64. Nothing was added.
        TypeError
            One of them is not a float array.
        """
        x, y = arrays.take_floats(original, "original"), arrays.take_floats(reconstructed, name)
        if x.shape != y.shape:
            raise InvalidValueError(f"{name}: expected the shape of original {x.shape}, got {y.shape}")
        names = ("original", name)
        rows = rows_of_pairs(x, y, self._threshold, first=self.num_samples, n_threads=n_threads, names=names)
        self.add_rows(rows, x.size)

    def add_rows(self, rows: NDArray[np.float64], n: int) -> None:
        """Add what `rows_of_pairs` gave for n pairs."""
        # In order, so that slabs add up to exactly what the whole array adds up to.
        *sums, self.max_error, outliers = _kernels.add_errors(self._figures(), rows)
        self.signal, self.reconstructed, self.product, self.noise, self.magnitude = sums
        self.outliers = int(outliers)
        self.num_samples += n

    def add_affine(
        self, original: Any, params: QuantParams, *, n_threads: int | None = None, name: str = "original"
    ) -> None:
        """Add an array and its reconstruction from affine codes, without storing codes or reconstruction.

        The same as `add(original, dequantize_with_params(quantize_with_params(original, params), params))`, exactly.

        Parameters
        ----------
        original : array_like
            float32, float16, bfloat16 or float64, finite.
        params : QuantParams
            With as many scales as its granularity asks for on the shape of `original`.
        n_threads : int, optional
            Threads to use; None: `get_num_threads()`. The sums do not depend on it.
        name : str, default "original"
            The name of the array in messages.

        Raises
        ------
        ValueError
            `original` holds NaN, inf or a value beyond float32; `params` does not fit its shape, or decodes to infinite
            values. Nothing was added.
        TypeError
            `original` is not a float array, `params` not a QuantParams.
        """
        params = check_params(params)
        x = arrays.take_floats(original, name)
        if not x.size:
            return
        sharing = params.sharing(x.shape, name)
        parameters = params.rows_for(sharing)
        sums = _rows(x.size)
        bad = parallel.run(
            _kernels.ErrorsOfAffine(
                x.raw, x.element_type, sharing.layout, sharing.is_in_columns, parameters, self._threshold, sums
            ),
            len(sums),
            CHUNK_ELEMENTS * x.itemsize,
            n_threads,
            unit=1,
        )
        row = _kernels.first_infinite(sums)
        if bad >= 0 or (row >= 0 and not np.isfinite(sums[:, _SIGNAL]).all()):
            passes.refuse_first(x, name)
        if row >= 0:
            raise InvalidValueError(f"params: a scale of {params.scales.max()} takes codes beyond the range of float32")
        self.add_rows(sums, x.size)

    def merge(self, other: "ErrorSums") -> None:
        """Add the sums of another record after these, such as those of a model's next tensor.

        Raises
        ------
        ValueError
            The thresholds differ.
        """
        if not isinstance(other, ErrorSums):
            raise InvalidTypeError(f"other: expected an ErrorSums, got {type(other).__name__}")
        if other.outlier_threshold != self.outlier_threshold:
            raise InvalidValueError(
                f"other: expected the outlier_threshold {self.outlier_threshold}, got {other.outlier_threshold}"
            )
        self.add_rows(np.array([other._figures()], np.float64), other.num_samples)

    def stats(self) -> QuantErrorStats:
        """The statistics of all pairs that were added.

        Raises
        ------
        ValueError
            There are none, or the differences of float64 values are so small (below about 1e-160) that their squares
            are zero.
        """
        n = self.num_samples
        if not n:
            raise InvalidValueError("original: must not be empty")
        if self.max_error and not self.noise:
            raise InvalidValueError(f"original: differences up to {self.max_error:.3g} have no squares in float64")
        return QuantErrorStats(
            mse=self.noise / n,
            mae=self.magnitude / n,
            max_error=self.max_error,
            sqnr_db=decibels(self.signal, self.noise),
            outlier_rate=None if self.outlier_threshold is None else self.outliers / n,
            num_samples=n,
            cosine_similarity=cosine(self.signal, self.reconstructed, self.product),
        )

    @property
    def relative_noise(self) -> float:
        """`sum((x - y)**2) / sum(x**2)`, 0 if the original is all zeros."""
        return self.noise / self.signal if self.signal else 0.0

    @property
    def _threshold(self) -> float:
        return math.inf if self.outlier_threshold is None else self.outlier_threshold

    def _figures(self) -> tuple[float, ...]:
        sums = (self.signal, self.reconstructed, self.product, self.noise, self.magnitude)
        return (*sums, self.max_error, self.outliers)


def rows_of_pairs(
    x: Floats, y: Floats, threshold: float = math.inf, *, first: int, n_threads: int | None, names: tuple[str, str]
) -> NDArray[np.float64]:
    """The kernels' sums over pairs that have passed the boundary already, one row per `CHUNK_ELEMENTS` of them.

    Messages count flat indices from `first` and name x and y by `names`.
    """
    rows = _rows(x.size)
    parallel.run(
        _kernels.ErrorsOfPairs(x.raw, x.element_type, y.raw, y.element_type, threshold, rows),
        len(rows),
        CHUNK_ELEMENTS * max(x.itemsize, y.itemsize),
        n_threads,
        unit=1,
    )
    bad = _kernels.first_infinite(rows)
    if bad >= 0:
        _refuse_chunk(dict(zip(names, (x, y), strict=True)), bad, first)
    return rows


def _rows(n: int) -> NDArray[np.float64]:
    return np.empty((-(-n // CHUNK_ELEMENTS), _N_SUMS))


def _refuse_chunk(sources: dict[str, Floats], chunk: int, first: int) -> NoReturn:
    """Say which value of a chunk has no finite square: NaN, inf, or a float64 that is too large."""
    start = chunk * CHUNK_ELEMENTS
    for name, source in sources.items():
        part = source.values(start, min(start + CHUNK_ELEMENTS, source.size))
        bad = np.flatnonzero(~np.isfinite(part))
        if bad.size:
            at = start + int(bad[0])
            what = f"{part[bad[0]]} at flat index {first + at}{'' if first else arrays.place_of(source, at)}"
            raise InvalidValueError(f"{name}: must be finite, got {what}")
    raise InvalidValueError(f"{', '.join(sources)}: squares overflow float64 from flat index {first + start} on")
