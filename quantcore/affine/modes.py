"""How codes become values: the mode, and the codes that a number of bits has in it."""

from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np

from quantcore._base import arguments
from quantcore._base.text import brief
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = ["QuantMode"]

MOST_BITS = 16
"""Of codes that are not stored, but fake-quantized."""
_INT8, _UINT8 = np.dtype(np.int8), np.dtype(np.uint8)


class QuantMode(Enum):
    """How codes become values.

    SYMMETRIC, for weights: `x = q * scale`, int8 codes around zero. ASYMMETRIC, for activations:
    `x = (q - zero_point) * scale`, uint8 codes of a range that contains zero. OFFSET, for data such as embeddings or a
    column of temperatures: `x = offset + q * scale`, uint8 codes of the range as it is.
    """

    SYMMETRIC = "symmetric"
    ASYMMETRIC = "asymmetric"
    OFFSET = "offset"

    @classmethod
    def _missing_(cls, value: object) -> "QuantMode | None":
        return check_mode(value) if isinstance(value, str) else None


MODES = {mode.value: mode for mode in QuantMode}
"""The modes by the names that states of this package have for them."""


def code_dtype(mode: QuantMode) -> np.dtype[Any]:
    """The dtype of codes of up to 8 bits."""
    return _INT8 if mode is QuantMode.SYMMETRIC else _UINT8


def code_range(bits: int, mode: QuantMode, *, narrow_range: bool = True) -> tuple[int, int]:
    """The smallest and the largest code."""
    if mode is not QuantMode.SYMMETRIC:
        return 0, 2**bits - 1
    quant_max = 2 ** (bits - 1) - 1
    return -quant_max - (0 if narrow_range else 1), quant_max


def check_bits(bits: Any, most: int = 8) -> int:
    """Check a number of bits: 2 to 8, or to the most that fake quantization knows."""
    return arguments.integer(bits, "bits", 2, most)


def check_mode(mode: Any) -> QuantMode:
    """A QuantMode, given as such or by its name in any case."""
    if isinstance(mode, QuantMode):
        return mode
    if not isinstance(mode, str):
        raise InvalidTypeError(f"mode: expected a QuantMode or one of {', '.join(MODES)}, got {brief(mode)}")
    return MODES[arguments.choice(mode, "mode", MODES, "a QuantMode or one of")]


def mode_of_state(state: Mapping[str, Any]) -> QuantMode:
    """The mode that a state for JSON holds, by its exact name."""
    if "mode" not in state:
        raise InvalidValueError("mode: is missing")
    name = state["mode"]
    if not isinstance(name, str) or name not in MODES:
        raise InvalidValueError(f"mode: expected one of {', '.join(MODES)}, got {brief(name)}")
    return MODES[name]


def check_limits(low: int, high: int, bits: int, mode: QuantMode, low_name: str, high_name: str) -> None:
    """Check that `bits` can hold both ends of the codes."""
    lowest, highest = code_range(bits, mode, narrow_range=False)
    if not lowest <= low < high <= highest:
        raise InvalidValueError(
            f"{low_name}, {high_name}: expected {lowest} <= {low_name} < {high_name} <= {highest} for {bits} bits "
            f"{mode.value}, got {low} and {high}"
        )
