"""How a range was looked for and what was found: the records of `calibration.py`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays
from quantcore.affine_parameters import params_within
from quantcore.errors import InvalidValueError
from quantcore.granularity import QuantGranularity, QuantMode, QuantParams, code_range
from quantcore.tables import brief

__all__ = ["CalibrationMethod", "CalibrationResult"]

_METHODS = ("min_max", "moving_average", "percentile", "entropy", "mse")
_OWNERS = {"averaging_constant": "moving_average", "lower": "percentile", "upper": "percentile"}
Range = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class CalibrationMethod:
    """How a range is found.

    Attributes
    ----------
    name : {"min_max", "moving_average", "percentile", "entropy", "mse"}
    averaging_constant : float or None
        Of moving_average: in (0, 1].
    lower, upper : float or None
        Of percentile: 0 <= lower < upper <= 100.
    """

    name: str
    averaging_constant: float | None = None
    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        if self.name not in _METHODS:
            raise InvalidValueError(f"method: expected one of {', '.join(_METHODS)}, got {brief(self.name)}")
        for field, owner in (
            ("averaging_constant", "moving_average"),
            ("lower", "percentile"),
            ("upper", "percentile"),
        ):
            value = getattr(self, field)
            if (value is not None) != (self.name == owner):
                raise InvalidValueError(f"{field}: goes with {owner} and no other method, got {brief(value)}")
            if value is not None:
                object.__setattr__(self, field, _arrays.number(value, field))
        if self.averaging_constant is not None and not 0 < self.averaging_constant <= 1:
            raise InvalidValueError(f"averaging_constant: expected a number in (0, 1], got {self.averaging_constant}")
        if self.lower is not None and self.upper is not None and not 0 <= self.lower < self.upper <= 100:
            raise InvalidValueError(
                f"lower, upper: expected 0 <= lower < upper <= 100, got lower {self.lower} and upper {self.upper}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The name and the parameters that it has."""
        fields = {key: getattr(self, key) for key in ("name", "averaging_constant", "lower", "upper")}
        return {key: value for key, value in fields.items() if value is not None}


@dataclass(frozen=True, eq=False, slots=True)
class CalibrationResult:
    """What a calibration found.

    Attributes
    ----------
    scale : float, or ndarray of float32, shape (channels,)
    zero_point : int, or ndarray of int32, shape (channels,)
    observed_min, observed_max : float, or ndarray of float32, shape (channels,)
        The extremes of the data (their moving averages with that method).
    clip_min, clip_max : float, or ndarray of float32, shape (channels,)
        The range that the scale was made for, before it was widened to hold zero.
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

    def to_dict(self) -> dict[str, Any]:
        """The figures as numbers or lists, for JSON."""
        fields = ("scale", "zero_point", "observed_min", "observed_max", "clip_min", "clip_max")
        figures = {name: np.asarray(getattr(self, name)).tolist() for name in fields}
        params = self.params
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
) -> CalibrationResult:
    """The result for the ranges of each channel."""
    limits = code_range(bits, mode, narrow_range=narrow_range)
    params = params_within(np.array(clip, np.float32), granularity, bits, mode, limits)
    arrays = [_arrays.frozen(array) for array in (params.scales, params.zero_points, *observed, *clip)]
    figures: list[Any] = [array[0].item() for array in arrays] if granularity.axis is None else list(arrays)
    scale, zero_point, observed_min, observed_max, clip_min, clip_max = figures
    return CalibrationResult(scale, zero_point, observed_min, observed_max, clip_min, clip_max, method, params)
