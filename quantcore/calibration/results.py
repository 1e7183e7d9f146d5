"""Records: the calibration method with its parameters, and the result of a calibration."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays
from quantcore._base.notebook import fields_table, rows_table
from quantcore._base.records import reduce, size_of
from quantcore._base.text import brief, rounded
from quantcore.affine.from_extremes import params_within
from quantcore.affine.granularity import QuantGranularity
from quantcore.affine.modes import QuantMode, code_range
from quantcore.affine.params import QuantParams, check_params
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = ["CalibrationMethod", "CalibrationResult"]

METHODS = ("min_max", "moving_average", "percentile", "entropy", "mse")
_FIGURES = ("scale", "zero_point", "observed_min", "observed_max", "clip_min", "clip_max")
Range = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class CalibrationMethod:
    """How the range of the codes is found.

    Attributes
    ----------
    name : {"min_max", "moving_average", "percentile", "entropy", "mse"}
    averaging_constant : float or None
        For moving_average: the weight of a new batch, in (0, 1].
    lower, upper : float or None
        For percentile: the two percentiles, 0 <= lower < upper <= 100.
    """

    name: str
    averaging_constant: float | None = None
    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", arguments.choice(self.name, "method", METHODS))
        for field, owner in (
            ("averaging_constant", "moving_average"),
            ("lower", "percentile"),
            ("upper", "percentile"),
        ):
            value = getattr(self, field)
            if (value is not None) != (self.name == owner):
                raise InvalidValueError(f"{field}: goes with {owner} and no other method, got {brief(value)}")
            if value is not None:
                object.__setattr__(self, field, arguments.number(value, field))
        if self.averaging_constant is not None and not 0 < self.averaging_constant <= 1:
            raise InvalidValueError(f"averaging_constant: expected a number in (0, 1], got {self.averaging_constant}")
        if self.lower is not None and self.upper is not None and not 0 <= self.lower < self.upper <= 100:
            raise InvalidValueError(
                f"lower, upper: expected 0 <= lower < upper <= 100, got lower {self.lower} and upper {self.upper}"
            )

    def __str__(self) -> str:
        parameters = ", ".join(f"{key} {value}" for key, value in self.to_dict().items() if key != "name")
        return f"{self.name}({parameters})" if parameters else self.name

    def to_dict(self) -> dict[str, Any]:
        """The name and the parameters that belong to it."""
        fields = {key: getattr(self, key) for key in ("name", "averaging_constant", "lower", "upper")}
        return {key: value for key, value in fields.items() if value is not None}


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class CalibrationResult:
    """The result of a calibration.

    Attributes
    ----------
    scale : float, or ndarray of float32, shape (channels,)
    zero_point : int, or ndarray of int32, shape (channels,)
    observed_min, observed_max : float, or ndarray of float32, shape (channels,)
        The extremes of the data (for moving_average their moving averages).
    clip_min, clip_max : float, or ndarray of float32, shape (channels,)
        The range that the scale was computed from, before it was widened to contain zero unless there are offsets.
    method : CalibrationMethod
    params : QuantParams
        The same scales and zero points, for `quantize_with_params`.
    """

    scale: Any
    zero_point: Any
    observed_min: Any
    observed_max: Any
    clip_min: Any
    clip_max: Any
    method: CalibrationMethod
    params: QuantParams

    def __post_init__(self) -> None:
        if not isinstance(self.method, CalibrationMethod):
            raise InvalidTypeError(f"method: expected a CalibrationMethod, got {brief(self.method)}")
        n_channels = check_params(self.params).num_groups
        for name in _FIGURES:
            figure = getattr(self, name)
            if isinstance(figure, np.ndarray):
                dtype = np.int32 if name == "zero_point" else np.float32
                figure = arrays.as_array(figure, name)
                if figure.dtype != dtype or figure.shape != (n_channels,):
                    raise InvalidValueError(
                        f"{name}: expected {np.dtype(dtype)} of shape ({n_channels},), got {figure.dtype} of shape "
                        f"{figure.shape}"
                    )
                object.__setattr__(self, name, arrays.freeze(figure))
            else:
                arguments.number(figure, name)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce(self, *(getattr(self, f.name) for f in fields(self)))

    def __repr__(self) -> str:
        figures = ", ".join(f"{name}={rounded(getattr(self, name))}" for name in _FIGURES)
        return f"CalibrationResult({figures}, {self._codes()})"

    def _repr_html_(self) -> str:
        codes = self._codes()
        offsets = {} if self.offset is None else {"offset": self.offset}
        figures = {name: getattr(self, name) for name in _FIGURES} | offsets
        if self.params.granularity.axis is None:
            return fields_table(f"Calibration: {codes}", figures)
        n_channels = self.params.num_groups
        head = ("channel", *(name.replace("_", " ") for name in figures))
        rows = ((channel, *(figure[channel] for figure in figures.values())) for channel in range(n_channels))
        title = f"Calibration: {codes}, {n_channels} channels of axis {self.params.granularity.axis}"
        return rows_table(title, head, rows, n_channels, right=range(len(head)))

    def _codes(self) -> str:
        return f"{self.method}, {self.params.bits} bits {self.params.mode.value}"

    def __sizeof__(self) -> int:
        return size_of(self, *(getattr(self, f.name) for f in fields(self)))

    @property
    def offset(self) -> Any:
        """The offset of the codes, a float or an ndarray of float32 as `scale`; None unless the mode has offsets."""
        offsets = self.params.offsets
        return offsets if offsets is None or self.params.granularity.axis is not None else offsets[0].item()

    def plot(self, axes: Any = None) -> Any:
        """Draw the range that was observed and the one that is kept with matplotlib (extra `report`), channels side by
        side.

        Parameters
        ----------
        axes : matplotlib.axes.Axes, optional
            What to draw on; None: a new figure.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from quantcore.calibration.plots import draw_result

        return draw_result(axes, self)

    def to_dict(self) -> dict[str, Any]:
        """The figures as numbers or lists, for JSON."""
        figures = {name: np.asarray(getattr(self, name)).tolist() for name in _FIGURES}
        params = self.params
        if params.offsets is not None:
            figures["offset"] = np.asarray(self.offset).tolist()
        return figures | {
            "bits": params.bits,
            "mode": params.mode.value,
            "quant_min": params.quant_min,
            "quant_max": params.quant_max,
            "axis": params.granularity.axis,
        }


def result_of(
    observed: Range,
    clip: Range,
    granularity: QuantGranularity,
    bits: int,
    mode: QuantMode,
    narrow_range: bool,
    method: CalibrationMethod,
    name: str,
) -> CalibrationResult:
    """The result for the ranges of each channel; `name` is that of the data in messages."""
    limits = code_range(bits, mode, narrow_range=narrow_range)
    params = params_within(np.array(clip, np.float32), granularity, bits, mode, limits, name)
    frozen = [arrays.freeze(array) for array in (params.scales, params.zero_points, *observed, *clip)]
    figures: list[Any] = [array[0].item() for array in frozen] if granularity.axis is None else list(frozen)
    scale, zero_point, observed_min, observed_max, clip_min, clip_max = figures
    return CalibrationResult(scale, zero_point, observed_min, observed_max, clip_min, clip_max, method, params)
