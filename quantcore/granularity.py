"""Affine quantization parameters per tensor, per channel and per group; `affine_parameters` finds them."""

from dataclasses import dataclass, fields
from enum import Enum
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays, _kernels, affine
from quantcore._records import reduced
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.tables import brief

__all__ = [
    "QuantGranularity",
    "QuantMode",
    "QuantParams",
]

_INT8, _UINT8 = np.dtype(np.int8), np.dtype(np.uint8)
_MOST_KEPT_BYTES = 1 << 22


class QuantMode(Enum):
    """Whether zero lies in the middle of the codes (SYMMETRIC) or anywhere (ASYMMETRIC, with a zero point)."""

    SYMMETRIC = "symmetric"
    ASYMMETRIC = "asymmetric"


@dataclass(frozen=True, slots=True)
class QuantGranularity:
    """Which elements share a scale. Made by `per_tensor`, `per_channel` and `per_group`.

    Attributes
    ----------
    axis : int or None
        Per channel: the axis whose indices have a scale each.
    group_size : int or None
        Per group: elements along the last axis that share a scale; the last group of a row may be shorter.
    """

    axis: int | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        if self.axis is not None and self.group_size is not None:
            raise InvalidValueError(f"axis, group_size: one of them at most, got {self.axis!r} and {self.group_size!r}")
        if self.axis is not None:
            object.__setattr__(self, "axis", integer_of_either_sign(self.axis, "axis"))
        if self.group_size is not None:
            object.__setattr__(self, "group_size", _arrays.integer(self.group_size, "group_size", 1))

    @classmethod
    def per_tensor(cls) -> Self:
        """One scale."""
        return cls()

    @classmethod
    def per_channel(cls, axis: int = 0) -> Self:
        """A scale for each index of an axis."""
        return cls(axis=integer_of_either_sign(axis, "axis"))

    @classmethod
    def per_group(cls, size: int) -> Self:
        """A scale for each run of `size` elements along the last axis, never across rows."""
        return cls(group_size=_arrays.integer(size, "size", 1))

    @property
    def name(self) -> str:
        """ "per_tensor", "per_channel" or "per_group"."""
        if self.group_size is not None:
            return "per_group"
        return "per_tensor" if self.axis is None else "per_channel"

    def sharing(self, shape: tuple[int, ...]) -> affine.Sharing:
        """How an array of this shape is divided."""
        axis = self.axis
        if axis is not None:
            if not -len(shape) <= axis < len(shape):
                raise InvalidValueError(f"axis: {axis} is out of range for shape {shape}")
            axis %= len(shape)
        return affine.sharing_of(shape, axis, self.group_size)


@dataclass(frozen=True, eq=False)
class QuantParams:
    """Scales and zero points, and the codes they go with: `x = (q - zero_point) * scale`.

    Attributes
    ----------
    scales : ndarray of float32, shape (num_groups,)
        Positive and finite.
    zero_points : ndarray of int32, shape (num_groups,)
        From `quant_min` to `quant_max`; 0 if symmetric.
    granularity : QuantGranularity
    mode : QuantMode
    bits : int
        2 to 8.
    quant_min, quant_max : int
        The smallest and the largest code.

    Raises
    ------
    ValueError
        A field is out of its range or contradicts another one; the message names it.
    """

    scales: NDArray[np.float32]
    zero_points: NDArray[np.int32]
    granularity: QuantGranularity
    mode: QuantMode
    bits: int
    quant_min: int
    quant_max: int

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        if not isinstance(self.granularity, QuantGranularity):
            raise InvalidTypeError(f"granularity: expected a QuantGranularity, got {brief(self.granularity)}")
        check_mode(self.mode)
        set_field(self, "bits", check_bits(self.bits))
        for name in ("quant_min", "quant_max"):
            set_field(self, name, integer_of_either_sign(getattr(self, name), name))
        check_limits(self.quant_min, self.quant_max, self.bits, self.mode, "quant_min", "quant_max")
        scales = _flat(self.scales, "scales", np.float32)
        zero_points = _flat(self.zero_points, "zero_points", np.int32)
        if scales.size == 0 or scales.size != zero_points.size:
            raise InvalidValueError(
                f"scales, zero_points: expected as many of each, got {scales.size} and {zero_points.size}"
            )
        if not _kernels.are_within(scales, 1, _arrays.F32_MAX_BITS):
            bad = np.flatnonzero(~((scales > 0) & np.isfinite(scales)))[0]
            raise InvalidValueError(f"scales: must be positive and finite, got {scales[bad]} at index {bad}")
        low, high = (self.quant_min, self.quant_max) if self.mode is QuantMode.ASYMMETRIC else (0, 0)
        if not _kernels.are_within(zero_points, low, high):
            bad = np.flatnonzero((zero_points < low) | (zero_points > high))[0]
            wanted = f"{low} to {high}" if low < high else "0"
            raise InvalidValueError(f"zero_points: expected {wanted}, got {zero_points[bad]} at index {bad}")
        set_field(self, "scales", scales)
        set_field(self, "zero_points", zero_points)

    @property
    def num_groups(self) -> int:
        """How many scales there are."""
        return self.scales.size

    @property
    def is_asymmetric(self) -> bool:
        """Whether zero points are used."""
        return self.mode is QuantMode.ASYMMETRIC

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """int8 if symmetric, uint8 if asymmetric."""
        return _UINT8 if self.mode is QuantMode.ASYMMETRIC else _INT8

    @cached_property
    def coding_rows(self) -> NDArray[np.float32]:
        """The same for the kernels, see `affine.coding_rows`."""
        return affine.coding_rows(self.scales, self.zero_points, (self.quant_min, self.quant_max))

    def rows_for(self, sharing: affine.Sharing) -> NDArray[np.float32]:
        """`coding_rows` of the scales, or of the columns of a row if an array is divided into such."""
        if not sharing.is_in_columns or sharing.repeats * sharing.inner == 1:
            return self.coding_rows
        # Kept for the next array, which mostly has the same shape: making them takes longer than a small array's codes.
        kept: tuple[tuple[int, int], NDArray[np.float32]] | None = self.__dict__.get("_columns")
        if kept is None or kept[0] != (sharing.repeats, sharing.inner):
            rows = sharing.widened(self.coding_rows)
            _arrays.given_away(rows)
            kept = (sharing.repeats, sharing.inner), rows
            if rows.nbytes <= _MOST_KEPT_BYTES:  # those of many channels with some elements each outweigh the array
                self.__dict__["_columns"] = kept
        return kept[1]

    def sharing(self, shape: tuple[int, ...], name: str) -> affine.Sharing:
        """How an array of this shape is divided; refused if there are not as many scales as parts."""
        sharing = self.granularity.sharing(shape)
        if sharing.n_scales != self.num_groups:
            raise InvalidValueError(
                f"params: {self.num_groups} scales {self.granularity.name}, but {name} of shape {shape} needs "
                f"{sharing.n_scales}"
            )
        return sharing

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, f.name), getattr(other, f.name))
            if f.name in ("scales", "zero_points")
            else getattr(self, f.name) == getattr(other, f.name)
            for f in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self, *(getattr(self, f.name) for f in fields(self)))


def code_range(bits: int, mode: QuantMode, *, narrow_range: bool = True) -> tuple[int, int]:
    """The smallest and the largest code."""
    if mode is QuantMode.ASYMMETRIC:
        return 0, 2**bits - 1
    quant_max = 2 ** (bits - 1) - 1
    return -quant_max - (0 if narrow_range else 1), quant_max


def check_bits(bits: Any) -> int:
    """From 2 to 8."""
    return _arrays.integer(bits, "bits", 2, 8)


def check_mode(mode: Any) -> QuantMode:
    """One of the two."""
    if not isinstance(mode, QuantMode):
        raise InvalidTypeError(f"mode: expected a QuantMode, got {brief(mode)}")
    return mode


def check_limits(low: int, high: int, bits: int, mode: QuantMode, low_name: str, high_name: str) -> None:
    """The ends of the codes: `bits` hold them."""
    lowest, highest = code_range(bits, mode, narrow_range=False)
    if not lowest <= low < high <= highest:
        raise InvalidValueError(
            f"{low_name}, {high_name}: expected {lowest} <= {low_name} < {high_name} <= {highest} for {bits} bits "
            f"{mode.value}, got {low} and {high}"
        )


def check_params(params: Any) -> QuantParams:
    """A record of parameters."""
    if not isinstance(params, QuantParams):
        raise InvalidTypeError(f"params: expected a QuantParams, got {type(params).__name__}")
    return params


def check_granularity(granularity: Any) -> QuantGranularity:
    """None: per tensor."""
    if granularity is None:
        return QuantGranularity.per_tensor()
    if not isinstance(granularity, QuantGranularity):
        raise InvalidTypeError(f"granularity: expected a QuantGranularity, got {brief(granularity)}")
    return granularity


def integer_of_either_sign(value: Any, name: str) -> int:
    return _arrays.integer(value, name, -(1 << 31), 1 << 31)


def _flat(array: Any, name: str, dtype: type) -> NDArray[Any]:
    array = np.asarray(array)
    if array.dtype != dtype:
        raise InvalidTypeError(f"{name}: expected dtype {np.dtype(dtype)}, got {array.dtype}")
    return _arrays.frozen(array).reshape(-1)
