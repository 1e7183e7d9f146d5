"""The schemes of each layout: what their codes are, one row each."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from quantcore._base import arguments
from quantcore._base.text import brief
from quantcore.affine.modes import QuantMode
from quantcore.errors import InvalidValueError


class Rounding(Enum):
    """How a value becomes a code."""

    NEAREST = "nearest"
    """Affine codes: to the nearest one (see `quantize_with_params`)."""
    FLOOR_OF_RANGE = "floor of range"
    """`floor(levels * clip((x - low) / (high - low), 0, 1))`; 0 where low and high are equal."""
    FLOOR_OF_STEP = "floor of step"
    """`clip(floor((x - low) / step), 0, levels)`, `step = (high - low) / levels`, or 1 where that is 0."""
    SIGN = "sign"
    """Whether a value is above 0: one bit, the first of eight in the highest bit of a byte."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """One scheme of a layout.

    Attributes
    ----------
    layout, name : str
    bits : int
        Of a code. Codes of fewer than 8 bits lie in little-endian order in the bytes of a row.
    rounding : Rounding
    is_signed : bool
        Whether the bytes are int8.
    mode : QuantMode
        How codes become values; those that are rounded down have offsets, half a step above the lower end.
    is_uniform : bool
        One range for all dimensions.
    """

    layout: str
    name: str
    bits: int
    rounding: Rounding
    is_signed: bool = False
    mode: QuantMode = QuantMode.OFFSET
    is_uniform: bool = False

    @property
    def text(self) -> str:
        """The layout and the name, for messages."""
        return f"{self.layout} {self.name}"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the bytes."""
        return np.dtype(np.int8 if self.is_signed else np.uint8)

    @property
    def levels(self) -> int:
        """The largest code, counted from 0."""
        return (1 << self.bits) - 1

    @property
    def needs_ranges(self) -> bool:
        """Whether ranges have to be fitted."""
        return self.rounding is not Rounding.SIGN

    def row_bytes(self, n_dimensions: int) -> int:
        """The bytes of a vector's codes."""
        return (n_dimensions * self.bits + 7) // 8


AFFINE, FAISS, SENTENCE_TRANSFORMERS = "affine", "faiss", "sentence-transformers"
_ROWS = (
    Scheme(AFFINE, "uint8", 8, Rounding.NEAREST),
    Scheme(AFFINE, "int8", 8, Rounding.NEAREST, True, QuantMode.SYMMETRIC),
    Scheme(AFFINE, "uint4", 4, Rounding.NEAREST),
    Scheme(FAISS, "QT_8bit", 8, Rounding.FLOOR_OF_RANGE),
    Scheme(FAISS, "QT_6bit", 6, Rounding.FLOOR_OF_RANGE),
    Scheme(FAISS, "QT_4bit", 4, Rounding.FLOOR_OF_RANGE),
    Scheme(FAISS, "QT_8bit_uniform", 8, Rounding.FLOOR_OF_RANGE, is_uniform=True),
    Scheme(FAISS, "QT_4bit_uniform", 4, Rounding.FLOOR_OF_RANGE, is_uniform=True),
    Scheme(SENTENCE_TRANSFORMERS, "uint8", 8, Rounding.FLOOR_OF_STEP),
    Scheme(SENTENCE_TRANSFORMERS, "int8", 8, Rounding.FLOOR_OF_STEP, True),
    Scheme(SENTENCE_TRANSFORMERS, "ubinary", 1, Rounding.SIGN),
    Scheme(SENTENCE_TRANSFORMERS, "binary", 1, Rounding.SIGN, True),
)
SCHEMES = {(row.layout, row.name.lower()): row for row in _ROWS}
LAYOUTS = tuple(dict.fromkeys(row.layout for row in _ROWS))


def scheme_of(layout: Any, name: Any) -> Scheme:
    """The scheme of a layout by its name, in any case."""
    layout = arguments.choice(layout, "layout", LAYOUTS)
    rows = {row.name: row for row in _ROWS if row.layout == layout}
    others = [row.layout for row in _ROWS if isinstance(name, str) and row.name.lower() == name.lower()]
    if others and layout not in others:
        raise InvalidValueError(
            f"scheme: expected one of {', '.join(rows)}, which the layout {layout!r} has, got {brief(name)}, which is "
            f"one of {' and '.join(map(repr, others))}"
        )
    return rows[arguments.choice(name, "scheme", rows)]
