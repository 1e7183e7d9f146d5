"""Which elements share a scale: the whole array, an index of an axis, or a group along the last axis."""

from dataclasses import dataclass
from typing import Any, Self

from quantcore._base import arguments
from quantcore._base.text import brief
from quantcore.affine.sharing import Sharing, sharing_of
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = ["QuantGranularity"]


@dataclass(frozen=True, slots=True, repr=False)
class QuantGranularity:
    """Which elements share a scale. Use the constructors `per_tensor`, `per_channel` and `per_group`.

    Attributes
    ----------
    axis : int or None
        Per channel: the axis that has one scale per index, counted from the end if negative. Axes -1 and 1 are not
        equal: they are the same in matrices, and in arrays of other numbers of dimensions they are not.
    group_size : int or None
        Per group: the number of elements along the last axis that share a scale; the last group of a row may be
        shorter.
    """

    axis: int | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        if self.axis is not None and self.group_size is not None:
            both = f"{brief(self.axis)} and {brief(self.group_size)}"
            raise InvalidValueError(f"axis, group_size: one of them at most, got {both}")
        if self.axis is not None:
            object.__setattr__(self, "axis", arguments.integer_of_either_sign(self.axis, "axis"))
        if self.group_size is not None:
            object.__setattr__(self, "group_size", arguments.integer(self.group_size, "group_size", 1))

    @classmethod
    def per_tensor(cls) -> Self:
        """One scale for the whole array."""
        return cls()

    @classmethod
    def per_channel(cls, axis: int = 0) -> Self:
        """One scale per index of an axis."""
        return cls(axis=arguments.integer_of_either_sign(axis, "axis"))

    @classmethod
    def per_group(cls, size: int) -> Self:
        """One scale per group of `size` elements along the last axis; no group crosses rows."""
        return cls(group_size=arguments.integer(size, "size", 1))

    @property
    def name(self) -> str:
        """ "per_tensor", "per_channel" or "per_group"."""
        if self.group_size is not None:
            return "per_group"
        return "per_tensor" if self.axis is None else "per_channel"

    def __repr__(self) -> str:
        parts = (self.axis, self.group_size)
        return f"QuantGranularity.{self.name}({', '.join(str(part) for part in parts if part is not None)})"

    def sharing(self, shape: tuple[int, ...]) -> Sharing:
        """How an array of this shape is divided among scales."""
        axis = self.axis
        if axis is not None:
            if not -len(shape) <= axis < len(shape):
                raise InvalidValueError(f"axis: {axis} is out of range for shape {shape}")
            axis %= len(shape)
        return sharing_of(shape, axis, self.group_size)

    def from_front(self, n_dims: int) -> "QuantGranularity":
        """The same granularity of arrays of so many dimensions, with the axis counted from the front if it has one."""
        if self.axis is None or not -n_dims <= self.axis < 0:
            return self
        return QuantGranularity(axis=self.axis + n_dims)


def counting_hint(axis: int | None, other: int | None) -> str:
    """How a refusal of two axes ends where one is counted from the front and the other from the end."""
    if axis is None or other is None or (axis < 0) == (other < 0):
        return ""
    return "; whether these are the same depends on the number of dimensions, so count both from the same end"


def check_granularity(granularity: Any) -> QuantGranularity:
    """A QuantGranularity, given as such or by a name that needs no size; None stands for per tensor."""
    if isinstance(granularity, QuantGranularity):
        return granularity
    expected = "a QuantGranularity such as QuantGranularity.per_group(128), or one of"
    if granularity is None:
        granularity = "per_tensor"
    elif not isinstance(granularity, str):
        names = ", ".join(_GRANULARITIES)
        raise InvalidTypeError(f"granularity: expected {expected} {names}, got {brief(granularity)}")
    return _GRANULARITIES[arguments.choice(granularity, "granularity", _GRANULARITIES, expected)]


_GRANULARITIES = {g.name: g for g in (QuantGranularity.per_tensor(), QuantGranularity.per_channel())}
"""Those that a name says all of; per channel is along axis 0."""
