"""The mode of the codes that a calibration is for, as a user asks for it."""

from quantcore._base import arguments
from quantcore.affine.modes import QuantMode, check_mode
from quantcore.calibration.results import CalibrationMethod
from quantcore.errors import InvalidValueError


def mode_of(symmetric: bool, mode: QuantMode | str | None, method: CalibrationMethod) -> QuantMode:
    """The mode that a user asks for by `symmetric`, or by `mode`."""
    by_flag = QuantMode.SYMMETRIC if arguments.flag(symmetric, "symmetric") else QuantMode.ASYMMETRIC
    mode = by_flag if mode is None else check_mode(mode)
    if mode is QuantMode.OFFSET and method.name == "entropy":
        raise InvalidValueError("mode: offset goes with every method but entropy, which searches around zero")
    return mode
