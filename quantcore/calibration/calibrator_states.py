"""A calibrator as a mapping for JSON: its settings, and what it has observed as `statistic` reads and writes it."""

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from quantcore._base import arguments
from quantcore._base.text import brief
from quantcore.affine.granularity import QuantGranularity
from quantcore.affine.modes import QuantMode, mode_of_state
from quantcore.calibration.results import CalibrationMethod
from quantcore.calibration.statistic import Statistic
from quantcore.errors import InvalidValueError

_FORMAT, _VERSION = "quantcore.calibrator", 1
_METHOD_FIELDS = {"name", "averaging_constant", "lower", "upper"}


def describe(
    method: CalibrationMethod,
    bits: int,
    mode: QuantMode,
    granularity: QuantGranularity,
    narrow_range: bool,
    statistic: Statistic | None,
    listed: Callable[[NDArray[Any]], Any],
) -> dict[str, Any]:
    """The settings and the statistic; `listed` says what stands for an array of counts."""
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "method": method.to_dict(),
        "bits": bits,
        "mode": mode.value,
        "narrow_range": narrow_range,
        "axis": granularity.axis,
        "num_batches": 0 if statistic is None else statistic.num_batches,
        "num_channels": 0 if statistic is None else statistic.n_channels,
        "state": None if statistic is None else statistic.to_state(listed),
    }


def take_settings(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for a calibrator with the settings of a state; what the calibrator checks is not checked here.

    Raises
    ------
    InvalidValueError, InvalidTypeError
        The format or version is unknown; the method, the mode or the axis is missing or malformed.
    """
    mapping = arguments.state(mapping, _FORMAT, _VERSION)
    method = mapping.get("method")
    if not isinstance(method, Mapping) or not set(method) <= _METHOD_FIELDS:
        raise InvalidValueError(f"method: expected a name and its parameters, got {brief(method)}")
    if "axis" not in mapping:
        raise InvalidValueError("axis: is missing")
    return {
        "method": CalibrationMethod(**{"name": None, **method}),
        "bits": mapping.get("bits"),
        "axis": mapping["axis"],
        "narrow_range": mapping.get("narrow_range"),
        "mode": mode_of_state(mapping),
    }
