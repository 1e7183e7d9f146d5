"""The mode of the codes that a calibration is for: as a user asks for it, and as a saved state has it."""

from collections.abc import Mapping
from typing import Any

from quantcore._base import arguments
from quantcore._base.text import brief
from quantcore.affine.params import QuantMode, check_mode
from quantcore.calibration.results import CalibrationMethod
from quantcore.errors import InvalidValueError


def mode_of(symmetric: bool, mode: QuantMode | str | None, method: CalibrationMethod) -> QuantMode:
    """The mode that a user asks for by `symmetric`, or by `mode`."""
    by_flag = QuantMode.SYMMETRIC if arguments.flag(symmetric, "symmetric") else QuantMode.ASYMMETRIC
    mode = by_flag if mode is None else check_mode(mode)
    if mode is QuantMode.OFFSET and method.name == "entropy":
        raise InvalidValueError("mode: offset goes with every method but entropy, which searches around zero")
    return mode


def mode_of_state(mapping: Mapping[str, Any]) -> QuantMode | None:
    """The mode of a state; states without one have `symmetric` only."""
    name = mapping.get("mode")
    if name is None:
        return None
    modes = {mode.value: mode for mode in QuantMode}
    if not isinstance(name, str) or name not in modes:
        raise InvalidValueError(f"mode: expected one of {', '.join(modes)}, got {brief(name)}")
    if mapping.get("symmetric") is not (modes[name] is QuantMode.SYMMETRIC):
        raise InvalidValueError(f"mode: {name} contradicts symmetric {brief(mapping.get('symmetric'))}")
    return modes[name]
