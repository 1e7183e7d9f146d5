"""Affine quantization parameters per tensor, per channel and per group. `from_extremes` computes them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from quantcore import _kernels
from quantcore._base import arguments, arrays
from quantcore._base.records import build, describe, reduce, size_of, tabled
from quantcore._base.text import brief
from quantcore.affine import passes
from quantcore.affine.granularity import QuantGranularity
from quantcore.affine.modes import MOST_BITS, QuantMode, check_bits, check_limits, check_mode, code_dtype, mode_of_state
from quantcore.affine.sharing import Sharing
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = ["QuantParams"]

_FORMAT, VERSION = "quantcore.params", 1
_ARRAYS = {"scales": np.float32, "zero_points": np.int32, "offsets": np.float32}
_MOST_KEPT_BYTES = 1 << 22


@dataclass(frozen=True, eq=False, repr=False)
class QuantParams:
    """Scales and zero points or offsets, and the codes they go with: `x = offset + (q - zero_point) * scale`.

    Attributes
    ----------
    scales : ndarray of float32, shape (num_groups,)
        Positive and finite.
    zero_points : ndarray of int32, shape (num_groups,)
        From `quant_min` to `quant_max` if asymmetric, else 0.
    granularity : QuantGranularity
    mode : QuantMode
    bits : int
        2 to 16; more than 8 for fake quantization only.
    quant_min, quant_max : int
        The smallest and the largest code.
    offsets : ndarray of float32, shape (num_groups,), or None
        Finite; for the mode OFFSET and no other one.

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
    offsets: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        self._check()

    def _check(self) -> None:
        set_field = object.__setattr__
        if not isinstance(self.granularity, QuantGranularity):
            raise InvalidTypeError(f"granularity: expected a QuantGranularity, got {brief(self.granularity)}")
        set_field(self, "mode", check_mode(self.mode))
        set_field(self, "bits", check_bits(self.bits, MOST_BITS))
        for name in ("quant_min", "quant_max"):
            set_field(self, name, arguments.integer_of_either_sign(getattr(self, name), name))
        check_limits(self.quant_min, self.quant_max, self.bits, self.mode, "quant_min", "quant_max")
        scales = _flat(self.scales, "scales", np.float32)
        zero_points = _flat(self.zero_points, "zero_points", np.int32)
        if scales.size == 0 or scales.size != zero_points.size:
            raise InvalidValueError(
                f"scales, zero_points: expected as many of each, got {scales.size} and {zero_points.size}"
            )
        if not _kernels.are_within(scales, 1, arrays.F32_MAX_BITS):
            bad = np.flatnonzero(~((scales > 0) & np.isfinite(scales)))[0]
            raise InvalidValueError(f"scales: must be positive and finite, got {scales[bad]} at index {bad}")
        low, high = (self.quant_min, self.quant_max) if self.is_asymmetric else (0, 0)
        if not _kernels.are_within(zero_points, low, high):
            bad = np.flatnonzero((zero_points < low) | (zero_points > high))[0]
            wanted = f"{low} to {high}" if low < high else "0"
            raise InvalidValueError(f"zero_points: expected {wanted}, got {zero_points[bad]} at index {bad}")
        set_field(self, "scales", scales)
        set_field(self, "zero_points", zero_points)
        if (self.offsets is not None) != (self.mode is QuantMode.OFFSET):
            raise InvalidValueError(f"offsets: go with the mode offset and no other one, got {self.mode.value}")
        if self.offsets is not None:
            offsets = _flat(self.offsets, "offsets", np.float32)
            if offsets.size != scales.size:
                raise InvalidValueError(f"offsets: expected as many as scales, {scales.size}, got {offsets.size}")
            if not np.isfinite(offsets).all():
                bad = np.flatnonzero(~np.isfinite(offsets))[0]
                raise InvalidValueError(f"offsets: must be finite, got {offsets[bad]} at index {bad}")
            set_field(self, "offsets", offsets)

    @classmethod
    def without_scales(
        cls, granularity: QuantGranularity, mode: QuantMode, bits: int, quant_min: int, quant_max: int
    ) -> Self:
        """Parameters of an array that has no channel and no group, and so no element."""
        offsets = np.zeros(1, np.float32) if mode is QuantMode.OFFSET else None
        one = cls(np.ones(1, np.float32), np.zeros(1, np.int32), granularity, mode, bits, quant_min, quant_max, offsets)
        values = {f.name: getattr(one, f.name) for f in fields(cls)}
        return build(cls, **{name: v[:0] if isinstance(v, np.ndarray) else v for name, v in values.items()})

    @property
    def num_groups(self) -> int:
        """The number of scales."""
        return self.scales.size

    @property
    def is_asymmetric(self) -> bool:
        """Whether zero points are used."""
        return self.mode is QuantMode.ASYMMETRIC

    @property
    def has_offsets(self) -> bool:
        """Whether offsets are used."""
        return self.mode is QuantMode.OFFSET

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that decoding needs: scales, and zero points or offsets unless symmetric."""
        return 4 * self.num_groups * (1 if self.mode is QuantMode.SYMMETRIC else 2)

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """int8 if symmetric, else uint8; InvalidValueError for more than 8 bits."""
        if self.bits > 8:
            raise InvalidValueError(f"params: codes of {self.bits} bits are only fake-quantized, 8 are the most stored")
        return code_dtype(self.mode)

    @cached_property
    def coding_rows(self) -> NDArray[np.float32]:
        """The parameters as the kernels take them (see `passes.coding_rows`)."""
        return passes.coding_rows(self.scales, self.zero_points, self.offsets, (self.quant_min, self.quant_max))

    def rows_for(self, sharing: Sharing) -> NDArray[np.float32]:
        """`coding_rows` of the scales, or of each column of a row if the array is divided into columns."""
        if not sharing.is_in_columns or sharing.repeats * sharing.inner == 1:
            return self.coding_rows
        # Kept for the next array, which usually has the same shape: building them takes longer than coding a small
        # array.
        kept: tuple[tuple[int, int], NDArray[np.float32]] | None = self.__dict__.get("_columns")
        if kept is None or kept[0] != (sharing.repeats, sharing.inner):
            rows = arrays.seal(sharing.widen(self.coding_rows))
            kept = (sharing.repeats, sharing.inner), rows
            if rows.nbytes <= _MOST_KEPT_BYTES:  # for many channels of few elements they are larger than the array
                self.__dict__["_columns"] = kept
        return kept[1]

    def sharing(self, shape: tuple[int, ...], name: str) -> Sharing:
        """How an array of this shape is divided among the scales; refused if their number does not fit."""
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
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return all(
            np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else mine is theirs or mine == theirs
            for mine, theirs in pairs
        )

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.num_groups:
            rest = (self.granularity, self.mode, self.bits, self.quant_min, self.quant_max)
            return type(self).without_scales, rest
        return reduce(self, *(getattr(self, f.name) for f in fields(self)))

    def __repr__(self) -> str:
        return describe(self, *self._names())

    def _repr_html_(self) -> str:
        return tabled(self, *self._names())

    def _names(self) -> list[str]:
        return [f.name for f in fields(self) if f.name != "offsets" or self.offsets is not None]

    def __sizeof__(self) -> int:
        return size_of(self, *(getattr(self, f.name) for f in fields(self) if f.name in _ARRAYS))

    def to_dict(self) -> dict[str, Any]:
        """The parameters as numbers, strings and lists, for JSON; `QuantParams.from_dict` restores equal ones.

        Floats are written with as many digits as they need, so the bits come back.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        listed = {name: values[name].tolist() for name in _ARRAYS if values[name] is not None}
        granularity = {"axis": self.granularity.axis, "group_size": self.granularity.group_size}
        rest = {name: values[name] for name in ("bits", "quant_min", "quant_max")}
        return {"format": _FORMAT, "version": VERSION, "mode": self.mode.value, **granularity, **rest, **listed}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """Restore what `to_dict` returned.

        Raises
        ------
        ValueError, TypeError
            The format or version is unknown; a field is missing, unknown, out of range or contradicts another one.
        """
        mapping = arguments.state(mapping, _FORMAT, VERSION)
        wanted = {"format", "version", "axis", "group_size", *(f.name for f in fields(cls))} - {"granularity"}
        required = wanted - {"offsets"}
        for name in sorted(required - set(mapping)):
            raise InvalidValueError(f"{name}: is missing")
        for name in sorted(set(map(str, mapping)) - wanted):
            raise InvalidValueError(f"{brief(name)}: is not a field of the parameters")
        mode = mode_of_state(mapping)
        granularity = QuantGranularity(mapping["axis"], mapping["group_size"])
        rest: tuple[Any, Any, Any] = mapping["bits"], mapping["quant_min"], mapping["quant_max"]
        if all(isinstance(mapping[name], list) and not mapping[name] for name in ("scales", "zero_points")):
            return cls.without_scales(granularity, mode, *rest)
        scales, zero_points = (_from_list(mapping[name], name) for name in ("scales", "zero_points"))
        offsets = None if mapping.get("offsets") is None else _from_list(mapping["offsets"], "offsets")
        return cls(scales, zero_points, granularity, mode, *rest, offsets)


def check_params(params: Any) -> QuantParams:
    """Check that it is a QuantParams."""
    if not isinstance(params, QuantParams):
        raise InvalidTypeError(f"params: expected a QuantParams, got {type(params).__name__}")
    return params


def _from_list(values: Any, name: str) -> NDArray[Any]:
    """A list of numbers as an array of the dtype of the field; a float that float32 does not hold is refused."""
    dtype = _ARRAYS[name]
    kind = int if dtype is np.int32 else (int, float)
    if not isinstance(values, list | tuple) or not all(isinstance(v, kind) and type(v) is not bool for v in values):
        raise InvalidValueError(f"{name}: expected a list of numbers, got {brief(values)}")
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, np.int64 if dtype is np.int32 else np.float64)
            narrow: NDArray[Any] = array.astype(dtype)
    except OverflowError:
        array = narrow = np.empty(0)
    if array.size != len(values) or not np.array_equal(array, narrow, equal_nan=True):
        raise InvalidValueError(f"{name}: expected {np.dtype(dtype)}, got {brief(values)}")
    return narrow


def _flat(array: Any, name: str, dtype: type) -> NDArray[Any]:
    array = arrays.as_array(array, name)
    if array.dtype != dtype:
        raise InvalidTypeError(f"{name}: expected dtype {np.dtype(dtype)}, got {array.dtype}")
    return arrays.freeze(array).reshape(-1)
