"""Affine quantization parameters per tensor, per channel and per group: how they are found and what they are."""

from dataclasses import dataclass, fields
from enum import Enum
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays, affine
from quantcore._pickles import reduced
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.tables import brief

__all__ = [
    "QuantGranularity",
    "QuantMode",
    "QuantParams",
    "calibrate_per_channel",
    "calibrate_per_group",
    "calibrate_per_tensor",
]

_INT8, _UINT8 = np.dtype(np.int8), np.dtype(np.uint8)
_ZERO = np.float32(0)
_SMALLEST_NORMAL = np.finfo(np.float32).tiny


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
        _refuse_outside("scales", scales, 0, _arrays.F32_MAX, "must be positive and finite")
        if self.mode is QuantMode.ASYMMETRIC:
            low, high = self.quant_min, self.quant_max
            _refuse_outside("zero_points", zero_points, low - 1, high, f"expected {low} to {high}")
        else:
            _refuse_outside("zero_points", zero_points, -1, 0, "expected 0")
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
            rows = affine.widened(self.coding_rows, sharing)
            _arrays.given_away(rows)
            kept = (sharing.repeats, sharing.inner), rows
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


def calibrate_per_tensor(
    values: Any,
    bits: int = 8,
    mode: QuantMode = QuantMode.SYMMETRIC,
    *,
    narrow_range: bool = True,
    n_threads: int | None = None,
) -> QuantParams:
    """Parameters from the extremes of a whole array.

    Parameters
    ----------
    values : array_like
        float32, float16, bfloat16 or float64, finite, not empty.
    bits : int, default 8
        2 to 8.
    mode : QuantMode, default SYMMETRIC
        SYMMETRIC: int8 codes, scale from the largest magnitude. ASYMMETRIC: uint8 codes, scale and zero point from the
        range, which is first widened to contain 0.
    narrow_range : bool, default True
        Symmetric codes from -qmax to qmax, `qmax = 2**(bits-1) - 1`. False: from -qmax-1, as torch's observers.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.

    Returns
    -------
    QuantParams

    Raises
    ------
    ValueError
        `values` is empty or holds NaN or inf; `bits` is out of range.
    TypeError
        `values` is not a float array; `bits` is not an integer; `mode` is not a QuantMode.

    Notes
    -----
    Symmetric: `scale = absmax / qmax`, or `absmax / ((qmax - qmin) / 2)` without `narrow_range`. Asymmetric:
    `scale = (max - min) / (2**bits - 1)`, `zero_point = clip(qmin - rint(min / scale), qmin, qmax)`. All in float32, as
    torch's MinMaxObserver, but for its smallest scale (eps): here a range or a scale below the smallest normal float
    gives scale 1 and zero point 0.
    """
    return calibrated(values, QuantGranularity.per_tensor(), bits, mode, narrow_range, n_threads)


def calibrate_per_channel(
    values: Any,
    bits: int = 8,
    mode: QuantMode = QuantMode.SYMMETRIC,
    *,
    axis: int = 0,
    narrow_range: bool = True,
    n_threads: int | None = None,
) -> QuantParams:
    """Parameters from the extremes of each index of an axis; see `calibrate_per_tensor`.

    Parameters
    ----------
    values, bits, mode, narrow_range, n_threads
        As for `calibrate_per_tensor`.
    axis : int, default 0
        The axis of the channels; counted from the end if negative.

    Returns
    -------
    QuantParams

    Raises
    ------
    ValueError, TypeError
        As `calibrate_per_tensor`; `axis` is out of range.
    """
    return calibrated(values, QuantGranularity.per_channel(axis), bits, mode, narrow_range, n_threads)


def calibrate_per_group(
    values: Any,
    group_size: int,
    bits: int = 8,
    mode: QuantMode = QuantMode.SYMMETRIC,
    *,
    narrow_range: bool = True,
    n_threads: int | None = None,
) -> QuantParams:
    """Parameters from the extremes of each group along the last axis; see `calibrate_per_tensor`.

    Parameters
    ----------
    values, bits, mode, narrow_range, n_threads
        As for `calibrate_per_tensor`.
    group_size : int
        At least 1. The last group of a row may be shorter; no group crosses rows.

    Returns
    -------
    QuantParams
        Row by row.

    Raises
    ------
    ValueError, TypeError
        As `calibrate_per_tensor`; `group_size` is below 1.
    """
    granularity = QuantGranularity.per_group(_arrays.integer(group_size, "group_size", 1))
    return calibrated(values, granularity, bits, mode, narrow_range, n_threads)


def params_from_extremes(
    lowest: NDArray[np.float32],
    highest: NDArray[np.float32],
    granularity: QuantGranularity,
    bits: int,
    mode: QuantMode,
    *,
    narrow_range: bool = True,
) -> QuantParams:
    """Parameters from the smallest and the largest value of each part."""
    return params_within(lowest, highest, granularity, bits, mode, code_range(bits, mode, narrow_range=narrow_range))


def params_within(
    lowest: NDArray[np.float32],
    highest: NDArray[np.float32],
    granularity: QuantGranularity,
    bits: int,
    mode: QuantMode,
    limits: tuple[int, int],
) -> QuantParams:
    """As `params_from_extremes`, with the smallest and the largest code."""
    quant_min, quant_max = limits
    low: NDArray[np.float32] = np.minimum(lowest, _ZERO)
    high: NDArray[np.float32] = np.maximum(highest, _ZERO)
    steps = np.float32(quant_max - quant_min)
    with np.errstate(over="ignore"):
        if mode is QuantMode.SYMMETRIC:
            spread, steps = np.maximum(-low, high), np.float32(steps / 2)
        else:
            spread = high - low
        scales: NDArray[np.float32] = np.divide(spread, steps)
    if np.maximum.reduce(spread) > _arrays.F32_MAX:
        wide = high.astype(np.float64) - low
        scales = np.where(spread > _arrays.F32_MAX, (wide / steps).astype(np.float32), scales)
    is_tiny = np.minimum(spread, scales) < _SMALLEST_NORMAL
    if is_tiny.any():
        scales[is_tiny] = 1
    zero_points = np.zeros(scales.size, np.int32)
    if mode is QuantMode.ASYMMETRIC:
        shifted = np.float32(quant_min) - np.rint(low / scales)
        zero_points[:] = np.minimum(np.maximum(shifted, quant_min), quant_max)
        zero_points[is_tiny] = 0
    _arrays.given_away(scales, zero_points)
    return QuantParams(scales, zero_points, granularity, mode, bits, quant_min, quant_max)


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


def calibrated(
    values: Any, granularity: QuantGranularity, bits: int, mode: QuantMode, narrow_range: bool, n_threads: int | None
) -> QuantParams:
    """Parameters from the extremes of each part that shares a scale."""
    bits, mode = check_bits(bits), check_mode(mode)
    source = _arrays.floats(values, "values")
    if not source.size:
        raise InvalidValueError(f"values: must not be empty, got shape {source.shape}")
    lowest, highest = affine.extremes(source, granularity.sharing(source.shape), "values", n_threads)
    return params_from_extremes(
        lowest, highest, granularity, bits, mode, narrow_range=_arrays.flag(narrow_range, "narrow_range")
    )


def integer_of_either_sign(value: Any, name: str) -> int:
    return _arrays.integer(value, name, -(1 << 31), 1 << 31)


def _refuse_outside(name: str, values: NDArray[Any], below: int, high: float, wanted: str) -> None:
    """`below` is the largest value refused; a subnormal float as the least one allowed would let 0 pass if flushed."""
    if np.minimum.reduce(values) > below and np.maximum.reduce(values) <= high:
        return
    bad = np.flatnonzero(~((values > below) & (values <= high)))[0]
    raise InvalidValueError(f"{name}: {wanted}, got {values[bad]} at index {bad}")


def _flat(array: Any, name: str, dtype: type) -> NDArray[Any]:
    array = np.asarray(array)
    if array.dtype != dtype:
        raise InvalidTypeError(f"{name}: expected dtype {np.dtype(dtype)}, got {array.dtype}")
    return _arrays.frozen(array).reshape(-1)
