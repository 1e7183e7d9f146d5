"""What batches of vectors tell a quantizer: the ranges of their dimensions, and how many values a vector has."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays
from quantcore.affine import QuantParams
from quantcore.calibration import CalibrationMethod, Calibrator
from quantcore.embeddings import coding
from quantcore.embeddings.schemes import AFFINE, Rounding, Scheme, scheme_of
from quantcore.errors import InvalidStateError, InvalidValueError

_FEWEST_ROWS = 2
_METHODS = ("min_max", "mse")
_PER = ("dimension", "vector")


class Fitted:
    """The parameters of a quantizer, checked, and what it was fitted on.

    Attributes
    ----------
    scheme : Scheme
    per, method : str
        As `EmbeddingQuantizer` takes them.
    calibrator : Calibrator
        Of axis 1; without data if nothing needs ranges.
    n_dimensions : int or None
        The values of a vector, at least 1; None before the first one was seen.
    num_rows : int
        The vectors that the calibrator has observed.
    """

    def __init__(self, layout: Any, scheme: Any, per: Any, method: Any) -> None:
        self.scheme = scheme_of(layout, scheme)
        self.per, self.method = arguments.choice(per, "per", _PER), arguments.choice(method, "method", _METHODS)
        is_affine, text = self.scheme.rounding is Rounding.NEAREST, self.scheme.text
        if self.per == "vector" and not (is_affine and self.scheme.bits == 8):
            raise InvalidValueError(f"per: vector goes with int8 and uint8 of the layout {AFFINE}, got {text}")
        if self.method != "min_max" and not (is_affine and self.per == "dimension"):
            raise InvalidValueError(f"method: {self.method} goes with the layout {AFFINE} per dimension, got {text}")
        bits = max(self.scheme.bits, 2)  # signs need no calibrator
        self.calibrator = Calibrator(CalibrationMethod(self.method), bits, axis=1, mode=self.scheme.mode)
        self.n_dimensions: int | None = None
        self.num_rows = 0
        self._params: QuantParams | None = None

    def like(self) -> "Fitted":
        """The same parameters, fitted on nothing."""
        return Fitted(self.scheme.layout, self.scheme.name, self.per, self.method)

    @property
    def key(self) -> tuple[Scheme, str, str]:
        """What two have in common that can be merged."""
        return self.scheme, self.per, self.method

    @property
    def needs_ranges(self) -> bool:
        """Whether ranges of dimensions have to be fitted."""
        return self.per == "dimension" and self.scheme.needs_ranges

    def add(self, source: arrays.Floats, n_threads: int | None) -> None:
        """Widen the ranges by a matrix; one without columns, of which no row is a vector, changes nothing."""
        n_rows, width = source.shape
        if self.needs_ranges:
            self.calibrator.observe_shared(source, coding.PER_DIMENSION.sharing(source.shape), "values", n_threads)
            self.num_rows += n_rows
        self.n_dimensions, self._params = width or self.n_dimensions, None

    def merge(self, other: "Fitted") -> None:
        """Add everything that another one was fitted on.

        Raises
        ------
        InvalidValueError
            The two differ in parameters or dimensions.
        """
        if self.key != other.key:
            raise InvalidValueError(f"other: expected {self.scheme.text}, got {other.scheme.text}")
        mine, theirs = self.n_dimensions, other.n_dimensions
        if mine is not None and theirs is not None and mine != theirs:
            raise InvalidValueError(f"other: expected vectors of {mine} values, got {theirs}")
        self.calibrator.merge(other.calibrator)
        self.num_rows += other.num_rows
        self.n_dimensions, self._params = theirs if mine is None else mine, None

    def check_enough(self, n_rows: int) -> None:
        """Refuse to fit on so few vectors that their ranges would clip all others.

        Raises
        ------
        InvalidValueError
        """
        if self.needs_ranges and n_rows < _FEWEST_ROWS:
            raise InvalidValueError(
                f"values: ranges need at least {_FEWEST_ROWS} vectors, got {n_rows}; partial_fit takes single ones"
            )

    def ranges(self) -> NDArray[np.float32]:
        """The lower and the upper end of each dimension, shape (2, d).

        Raises
        ------
        InvalidStateError
            Fewer than two vectors were seen, or the scheme has no ranges per dimension.
        """
        found = self._result()
        ranges = np.stack([found.observed_min, found.observed_max])
        if self.scheme.is_uniform:
            ranges = np.repeat([[ranges[0].min()], [ranges[1].max()]], ranges.shape[1], axis=1)
        return ranges

    def params(self) -> QuantParams:
        """What codes per dimension stand for; errors as for `ranges`."""
        if self._params is None:
            is_affine = self.scheme.rounding is Rounding.NEAREST
            self._params = self._result().params if is_affine else coding.floor_params(self.scheme, self.ranges())
        return self._params

    def for_coding(self) -> tuple[NDArray[np.float32] | None, QuantParams | None]:
        """What vectors are coded by: ranges, or parameters, or of signs neither; errors as for `ranges`."""
        if self.scheme.rounding is Rounding.NEAREST:
            return None, self.params()
        return (self.ranges() if self.scheme.needs_ranges else None), None

    def _result(self) -> Any:
        if not self.needs_ranges:
            raise InvalidStateError(f"ranges: {self.scheme.text} has none per dimension")
        if self.num_rows < _FEWEST_ROWS:
            raise InvalidStateError(
                f"ranges: they need at least {_FEWEST_ROWS} vectors, fit and partial_fit saw {self.num_rows}"
            )
        return self.calibrator.compute_named("values")
